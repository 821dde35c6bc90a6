"use strict";
(() => {
  const data = JSON.parse(document.getElementById("lens-data").textContent);
  const $ = (id) => document.getElementById(id);
  const stage = $("stage"), canvas = $("canvas"), context = canvas.getContext("2d");
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const count = (n) => n.toLocaleString("en-US");
  const make = (tag, text, parent, className) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (className) element.className = className;
    if (parent) parent.append(element);
    return element;
  };
  const blank = (width, height) => {
    const made = document.createElement("canvas");
    made.width = Math.max(1, width);
    made.height = Math.max(1, height);
    return made;
  };

  // What is shown. `view`: centre in picture pixels and screen pixels per picture pixel.
  const show = { seen: false, low: true, heat: false, dim: true, compare: false, smooth: false, strength: 0.6, split: 0.5,
                 patches: [], views: [] };
  const view = { x: 0, y: 0, zoom: 1 };
  let picture = null, width = 1, height = 1, frame = 0, flight = 0, cross = false, placeIndex = -1;

  // ---- pictures ---------------------------------------------------------------------------------------------
  function prepare(index) {
    const one = data.pictures[index];
    if (one.ready) return one;
    one.original = $(`p${index}-original`);
    one.low = $(`p${index}-low`);
    one.heat = $(`p${index}-heat`);
    for (const scale of one.scales) {
      const bytes = Uint8Array.from(atob(scale.passes), (letter) => letter.charCodeAt(0));
      scale.map = bytes;
      const mask = blank(scale.columns, scale.rows), tint = blank(scale.columns, scale.rows);
      const maskPen = mask.getContext("2d"), tintPen = tint.getContext("2d");
      const maskData = maskPen.createImageData(scale.columns, scale.rows);
      const tintData = tintPen.createImageData(scale.columns, scale.rows);
      const shades = scale.shades.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
      for (let cell = 0; cell < bytes.length; cell++) {
        if (!bytes[cell]) continue;
        maskData.data.set([0, 0, 0, 255], 4 * cell);
        tintData.data.set([...shades[Math.min(bytes[cell], shades.length - 1)], 255], 4 * cell);
      }
      maskPen.putImageData(maskData, 0, 0);
      tintPen.putImageData(tintData, 0, 0);
      Object.assign(scale, { mask, tint, path: outline(scale, one), source: scale.image ? $(scale.image) : one.original });
    }
    one.places = findPlaces(one);
    one.ready = true;
    return one;
  }

  // The borders of what each pass chose, as one path in picture pixels; runs are joined to keep it short.
  function outline(scale, one) {
    const path = new Path2D(), { rows, columns, map } = scale;
    const w = one.width / columns, h = one.height / rows;
    const at = (row, column) => (row >= 0 && column >= 0 && row < rows && column < columns ? map[row * columns + column] : 0);
    for (let row = 0; row <= rows; row++) {
      for (let column = 0, start = -1; column <= columns; column++) {
        const border = column < columns && at(row - 1, column) !== at(row, column);
        if (border && start < 0) start = column;
        if (!border && start >= 0) { path.moveTo(start * w, row * h); path.lineTo(column * w, row * h); start = -1; }
      }
    }
    for (let column = 0; column <= columns; column++) {
      for (let row = 0, start = -1; row <= rows; row++) {
        const border = row < rows && at(row, column - 1) !== at(row, column);
        if (border && start < 0) start = row;
        if (!border && start >= 0) { path.moveTo(column * w, start * h); path.lineTo(column * w, row * h); start = -1; }
      }
    }
    return path;
  }

  // Connected areas of the finest scale in use, the best score first.
  function findPlaces(one) {
    const scale = [...one.scales].reverse().find((each) => each.chosen);
    if (!scale) return [];
    const { rows, columns, map } = scale, taken = new Uint8Array(map.length), places = [];
    for (let first = 0; first < map.length; first++) {
      if (!map[first] || taken[first]) continue;
      const stack = [first], box = [columns, rows, 0, 0];
      let best = -Infinity;
      taken[first] = 1;
      while (stack.length) {
        const cell = stack.pop(), row = Math.floor(cell / columns), column = cell % columns;
        box[0] = Math.min(box[0], column); box[1] = Math.min(box[1], row);
        box[2] = Math.max(box[2], column + 1); box[3] = Math.max(box[3], row + 1);
        best = Math.max(best, scoreAt(one, (column + 0.5) / columns, (row + 0.5) / rows).value);
        for (let y = Math.max(0, row - 1); y <= Math.min(rows - 1, row + 1); y++) {
          for (let x = Math.max(0, column - 1); x <= Math.min(columns - 1, column + 1); x++) {
            const near = y * columns + x;
            if (map[near] && !taken[near]) { taken[near] = 1; stack.push(near); }
          }
        }
      }
      const w = one.width / columns, h = one.height / rows;
      places.push({ x1: box[0] * w, y1: box[1] * h, x2: box[2] * w, y2: box[3] * h, best });
    }
    return places.sort((a, b) => b.best - a.best);
  }

  // A scale's picture where its patches were chosen, transparent elsewhere.
  function seenLayer(scale) {
    if (!scale.seen) {
      const layer = blank(scale.source.naturalWidth, scale.source.naturalHeight), pen = layer.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(scale.mask, 0, 0, layer.width, layer.height);
      pen.globalCompositeOperation = "source-in";
      pen.drawImage(scale.source, 0, 0, layer.width, layer.height);
      scale.seen = layer;
    }
    return scale.seen;
  }

  function scoreAt(one, u, v) {
    const row = Math.min(one.scoreRows - 1, Math.floor(v * one.scoreRows));
    const column = Math.min(one.scoreColumns - 1, Math.floor(u * one.scoreColumns));
    return { row, column, value: one.scores[row * one.scoreColumns + column] };
  }

  // A picture at full and at half, quarter ... size: drawing a much larger picture directly would show moire.
  const halves = new WeakMap();
  function atSize(image, pixels) {
    const full = image.naturalWidth || image.width;
    if (!halves.has(image)) halves.set(image, [image]);
    const levels = halves.get(image), level = Math.max(0, Math.min(5, Math.floor(Math.log2(full / Math.max(1, pixels)) + 0.3)));
    while (levels.length <= level) {
      const last = levels[levels.length - 1], w = last.naturalWidth || last.width, h = last.naturalHeight || last.height;
      const half = blank(Math.round(w / 2), Math.round(h / 2)), pen = half.getContext("2d");
      pen.drawImage(last, 0, 0, half.width, half.height);
      levels.push(half);
    }
    return levels[level];
  }

  // ---- drawing ----------------------------------------------------------------------------------------------
  const fitZoom = () => Math.min(width / picture.width, height / picture.height);
  const maxZoom = () => Math.max(16, 4 * fitZoom());
  const redraw = () => { if (!frame) frame = requestAnimationFrame(() => { frame = 0; draw(); }); };

  function settle() {
    view.zoom = Math.min(maxZoom(), Math.max(fitZoom(), view.zoom));
    const w = width / view.zoom / 2, h = height / view.zoom / 2;
    view.x = w * 2 >= picture.width ? picture.width / 2 : Math.min(picture.width - w, Math.max(w, view.x));
    view.y = h * 2 >= picture.height ? picture.height / 2 : Math.min(picture.height - h, Math.max(h, view.y));
    canvas.classList.toggle("zoomed", view.zoom > fitZoom() * 1.01);
  }

  function draw() {
    if (!picture) return;
    settle();
    const ratio = devicePixelRatio || 1, { zoom } = view, w = picture.width, h = picture.height;
    const left = width / 2 - view.x * zoom, top = height / 2 - view.y * zoom;
    const inPicture = (pen) => pen.setTransform(ratio * zoom, 0, 0, ratio * zoom, ratio * left, ratio * top);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, canvas.width, canvas.height);
    inPicture(context);
    context.imageSmoothingEnabled = zoom < 3;
    context.imageSmoothingQuality = "high";
    if (show.seen) drawSeen(w, h, zoom);
    if (!show.seen || show.compare) {
      context.save();
      if (show.seen) {
        context.beginPath();
        context.rect(-left / zoom, -top / zoom, (show.split * width) / zoom, height / zoom);
        context.clip();
      }
      context.imageSmoothingEnabled = zoom < 3;
      context.drawImage(atSize(picture.original, w * zoom * ratio), 0, 0, w, h);
      context.restore();
    }
    if (show.heat) drawHeat(w, h);
    if (show.dim && !show.heat) drawDim(inPicture);
    inPicture(context);
    drawPatches(w, h, zoom);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (zoom > fitZoom() * 1.25) drawMap();
    if (cross) drawCross();
    placeDivider();
  }

  function drawSeen(w, h, zoom) {
    context.imageSmoothingEnabled = true;
    if (show.low) context.drawImage(picture.low, 0, 0, w, h);
    const pixels = w * zoom * (devicePixelRatio || 1);
    picture.scales.forEach((scale, index) => {
      if (!show.views[index] || !scale.chosen) return;
      context.imageSmoothingEnabled = (zoom * w) / scale.source.naturalWidth < 3;
      context.drawImage(atSize(seenLayer(scale), pixels), 0, 0, w, h);
    });
  }

  function drawHeat(w, h) {
    context.globalAlpha = Math.min(1, show.strength / 0.4);
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#808080";
    context.fillRect(0, 0, w, h);
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = Math.min(1, show.strength / 0.6);
    context.imageSmoothingEnabled = show.smooth;
    context.drawImage(picture.heat, 0, 0, w, h);
    context.globalAlpha = 1;
  }

  // Darkness with holes where any visible scale has chosen patches.
  const shade = blank(1, 1);
  function drawDim(inPicture) {
    const active = picture.scales.filter((scale, index) => show.patches[index] && scale.chosen);
    if (!active.length) return;
    if (shade.width !== canvas.width || shade.height !== canvas.height) {
      shade.width = canvas.width;
      shade.height = canvas.height;
    }
    const pen = shade.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.globalCompositeOperation = "copy";
    pen.fillStyle = `rgba(4, 7, 12, ${Math.min(0.92, show.strength * 0.92)})`;
    pen.fillRect(0, 0, shade.width, shade.height);
    pen.globalCompositeOperation = "destination-out";
    pen.imageSmoothingEnabled = false;
    inPicture(pen);
    for (const scale of active) pen.drawImage(scale.mask, 0, 0, picture.width, picture.height);
    context.save();
    inPicture(context);
    context.beginPath();
    context.rect(0, 0, picture.width, picture.height);
    context.clip();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(shade, 0, 0);
    context.restore();
  }

  function drawPatches(w, h, zoom) {
    picture.scales.forEach((scale, index) => {
      if (!show.patches[index] || !scale.chosen) return;
      context.imageSmoothingEnabled = false;
      context.globalAlpha = Math.min(1, show.strength * (picture.passes > 1 ? 0.35 : 0.12));
      context.drawImage(scale.tint, 0, 0, w, h);
      context.globalAlpha = 1;
      if ((w / scale.columns) * zoom > 13) drawGrid(scale, w, h, zoom);
    });
    picture.scales.forEach((scale, index) => {
      if (!show.patches[index] || !scale.chosen) return;
      for (const [color, line] of [["#060a10b0", 4.5], [scale.color, 2]]) {
        context.strokeStyle = color;
        context.lineWidth = line / zoom;
        context.lineCap = "square";
        context.stroke(scale.path);
      }
    });
  }

  // Single patches, once they are large enough on the screen.
  function drawGrid(scale, w, h, zoom) {
    const cellW = w / scale.columns, cellH = h / scale.rows;
    const from = (centre, span, cell) => Math.max(0, Math.floor((centre - span / zoom / 2) / cell));
    const to = (centre, span, cell, most) => Math.min(most, Math.ceil((centre + span / zoom / 2) / cell));
    context.beginPath();
    for (let row = from(view.y, height, cellH); row < to(view.y, height, cellH, scale.rows); row++) {
      for (let column = from(view.x, width, cellW); column < to(view.x, width, cellW, scale.columns); column++) {
        if (scale.map[row * scale.columns + column]) context.rect(column * cellW, row * cellH, cellW, cellH);
      }
    }
    context.strokeStyle = scale.color;
    context.globalAlpha = Math.min(1, show.strength * 0.4);
    context.lineWidth = 0.75 / zoom;
    context.stroke();
    context.globalAlpha = 1;
  }

  function drawMap() {
    const share = Math.min(132 / picture.width, 100 / picture.height);
    const w = picture.width * share, h = picture.height * share, x = 12, y = height - h - 12;
    if (!picture.thumb) {
      picture.thumb = blank(Math.round(w * 2), Math.round(h * 2));
      picture.thumb.getContext("2d").drawImage(atSize(picture.original, w * 2), 0, 0, picture.thumb.width, picture.thumb.height);
    }
    context.fillStyle = "#0b0f15";
    context.fillRect(x - 2, y - 2, w + 4, h + 4);
    context.globalAlpha = 0.75;
    context.drawImage(picture.thumb, x, y, w, h);
    context.globalAlpha = 1;
    context.strokeStyle = "#fff";
    context.lineWidth = 1.5;
    const spanW = Math.min(picture.width, width / view.zoom), spanH = Math.min(picture.height, height / view.zoom);
    context.strokeRect(x + (view.x - spanW / 2) * share, y + (view.y - spanH / 2) * share, spanW * share, spanH * share);
  }

  function drawCross() {
    const x = width / 2, y = height / 2;
    for (const [color, line] of [["#000", 4], ["#fff", 1.5]]) {
      context.strokeStyle = color;
      context.lineWidth = line;
      context.beginPath();
      context.moveTo(x - 9, y); context.lineTo(x + 9, y); context.moveTo(x, y - 9); context.lineTo(x, y + 9);
      context.stroke();
    }
  }

  function placeDivider() {
    const on = show.seen && show.compare;
    $("divider").hidden = $("tag-left").hidden = $("tag-right").hidden = !on;
    if (!on) return;
    $("divider").style.left = `${show.split * 100}%`;
    $("divider").setAttribute("aria-valuenow", String(Math.round(show.split * 100)));
  }

  // ---- what is under the pointer ----------------------------------------------------------------------------
  function inspect(sx, sy) {
    const x = view.x + (sx - width / 2) / view.zoom, y = view.y + (sy - height / 2) / view.zoom;
    const u = x / picture.width, v = y / picture.height;
    if (u < 0 || v < 0 || u >= 1 || v >= 1) return null;
    const score = scoreAt(picture, u, v);
    const scales = picture.scales.map((scale) => {
      const row = Math.floor(v * scale.rows), column = Math.floor(u * scale.columns);
      return { scale, row, column, pass: scale.map[row * scale.columns + column] };
    });
    return { x: Math.floor(x), y: Math.floor(y), score, scales };
  }

  function describe(found) {
    const parts = found.scales.map(({ scale, row, column, pass }) =>
      `${count(scale.scale)} px: row ${row + 1}, column ${column + 1}, ${pass ? `pass ${pass}` : "not chosen"}`);
    const { row, column, value } = found.score;
    return `x ${found.x}, y ${found.y}. Score ${value.toFixed(3)} (row ${row + 1}, column ${column + 1}). ${parts.join(". ")}.`;
  }

  function tell(sx, sy) {
    const found = inspect(sx, sy), tip = $("tip");
    tip.hidden = !found;
    $("status").textContent = found ? describe(found) : "";
    if (!found) return;
    tip.replaceChildren();
    const head = make("div", "", tip);
    make("b", `score ${found.score.value.toFixed(3)}`, head);
    head.append(` \u00b7 cell ${found.score.row + 1}, ${found.score.column + 1}`);
    for (const { scale, row, column, pass } of found.scales) {
      const line = make("div", "", tip, pass ? "" : "no");
      make("i", "", line).style.background = pass ? scale.shades[Math.min(pass, scale.shades.length - 1)] : "#ffffff40";
      line.append(`${count(scale.scale)} px \u00b7 row ${row + 1}, column ${column + 1} \u00b7 `);
      make(pass ? "b" : "span", pass ? `pass ${pass}` : "not chosen", line);
    }
    const room = 16, box = tip.getBoundingClientRect();
    const left = sx + room + box.width > width ? Math.max(4, sx - room - box.width) : sx + room;
    const top = sy + room + box.height > height ? Math.max(4, sy - room - box.height) : sy + room;
    tip.style.transform = `translate(${left}px, ${top}px)`;
  }
  const hush = () => { $("tip").hidden = true; $("status").textContent = hint(); };
  const hint = () => {
    if (!picture.places.length) return "Nothing was chosen: the model saw the low-res view only.";
    return matchMedia("(hover: none)").matches
      ? "Tap the picture for scores and patches; pinch to zoom."
      : "Press N to go to the places it looked at; point at the picture for scores and patches.";
  };

  // ---- moving -----------------------------------------------------------------------------------------------
  function zoomAt(factor, sx, sy) {
    cancelAnimationFrame(flight);
    const x = view.x + (sx - width / 2) / view.zoom, y = view.y + (sy - height / 2) / view.zoom;
    view.zoom = Math.min(maxZoom(), Math.max(fitZoom(), view.zoom * factor));
    view.x = x - (sx - width / 2) / view.zoom;
    view.y = y - (sy - height / 2) / view.zoom;
    redraw();
  }

  function flyTo(target) {
    cancelAnimationFrame(flight);
    const start = { ...view, time: performance.now() }, length = calm ? 0 : 520;
    const step = (now) => {
      const t = length ? Math.min(1, Math.max(0, (now - start.time) / length)) : 1, ease = t * t * (3 - 2 * t);
      view.zoom = start.zoom * Math.pow(target.zoom / start.zoom, ease);
      // Along the zoom, not along the time: otherwise the target leaves the screen in the middle of the flight.
      const grown = (1 / view.zoom - 1 / start.zoom) / (1 / target.zoom - 1 / start.zoom);
      const along = Math.abs(target.zoom / start.zoom - 1) < 0.01 ? ease : grown;
      view.x = start.x + (target.x - start.x) * along;
      view.y = start.y + (target.y - start.y) * along;
      draw();
      if (t < 1) flight = requestAnimationFrame(step);
    };
    if (length) flight = requestAnimationFrame(step); else step(start.time);
  }

  const fit = () => { placeIndex = -1; namePlace(); flyTo({ x: picture.width / 2, y: picture.height / 2, zoom: fitZoom() }); };
  function namePlace() {
    const total = picture.places.length;
    $("looks").hidden = !total;
    $("place").textContent = placeIndex < 0 ? `${count(total)} ${total === 1 ? "place" : "places"}`
      : `place ${count(placeIndex + 1)} of ${count(total)}`;
  }
  function visit(step) {
    const total = picture.places.length;
    if (!total) return;
    placeIndex = placeIndex < 0 ? (step > 0 ? 0 : total - 1) : (placeIndex + step + total) % total;
    namePlace();
    const place = picture.places[placeIndex], w = place.x2 - place.x1, h = place.y2 - place.y1;
    const zoom = Math.min(width / w, height / h, 6) * 0.72;
    flyTo({ x: (place.x1 + place.x2) / 2, y: (place.y1 + place.y2) / 2, zoom: Math.max(fitZoom(), zoom) });
    $("announce").textContent = `Place ${placeIndex + 1} of ${total}, best score ${place.best.toFixed(3)}`;
  }

  const pointers = new Map();
  let moved = 0;
  const local = (event) => { const box = stage.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    cancelAnimationFrame(flight);
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, local(event));
    moved = 0;
    cross = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = local(event), before = pointers.get(event.pointerId);
    if (!before) { if (event.pointerType !== "touch") tell(...now); return; }
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    if (others.length) {
      const [other] = others, distance = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      zoomAt(distance(now) / Math.max(1, distance(before)), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    const part = others.length ? 0.5 : 1;
    view.x -= (part * (now[0] - before[0])) / view.zoom;
    view.y -= (part * (now[1] - before[1])) / view.zoom;
    pointers.set(event.pointerId, now);
    if (moved > 4) { canvas.classList.add("dragging"); hush(); }
    redraw();
  });
  const release = (event) => {
    pointers.delete(event.pointerId);
    canvas.classList.remove("dragging");
    if (event.type === "pointerup" && moved <= 4) tell(...local(event));
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hush(); });
  canvas.addEventListener("dblclick", (event) => zoomAt(2.5, ...local(event)));
  canvas.addEventListener("wheel", (event) => {
    // Fully zoomed out, scrolling down goes on to scroll the page.
    if (event.deltaY > 0 && view.zoom <= fitZoom() * 1.001 && !event.ctrlKey) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
    zoomAt(Math.exp(-Math.max(-240, Math.min(240, pixels)) * (event.ctrlKey ? 0.01 : 0.002)), ...local(event));
    tell(...local(event));
  }, { passive: false });

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 64 / view.zoom;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (moves) { cancelAnimationFrame(flight); view.x += moves[0]; view.y += moves[1]; }
    else if (event.key === "+" || event.key === "=") zoomAt(1.35, width / 2, height / 2);
    else if (event.key === "-" || event.key === "_") zoomAt(1 / 1.35, width / 2, height / 2);
    else return;
    event.preventDefault();
    cross = true;
    settle();
    redraw();
    const found = inspect(width / 2, height / 2);
    $("tip").hidden = true;
    $("status").textContent = $("announce").textContent = found ? describe(found) : "";
  });
  canvas.addEventListener("blur", () => { cross = false; redraw(); });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=range], .divider")) return;
    const key = event.key.toLowerCase(), mode = ["looked", "saw", "scores", "original"][Number(key) - 1];
    if (mode) choose(mode);
    else if (key === "0") fit();
    else if (key === "n") visit(1);
    else if (key === "p") visit(-1);
    else if (key === "c") { show.compare = show.seen ? !show.compare : true; show.seen = true; refresh(); }
    else return;
    event.preventDefault();
  });

  // ---- controls ---------------------------------------------------------------------------------------------
  const modes = {
    looked: () => ({ seen: false, heat: false, dim: true, patches: true }),
    saw: () => ({ seen: true, heat: false, dim: false, patches: false, compare: true }),
    scores: () => ({ seen: false, heat: true, dim: false, patches: false }),
    original: () => ({ seen: false, heat: false, dim: false, patches: false }),
  };
  function choose(mode) {
    const wanted = modes[mode]();
    const all = (value) => picture.scales.map(() => value);
    Object.assign(show, wanted, { patches: all(wanted.patches), low: true, views: all(true) });
    refresh();
  }
  function refresh() {
    $("seen").checked = show.seen;
    $("compare").checked = show.seen && show.compare;
    $("dim").checked = show.dim;
    $("smooth").checked = show.smooth;
    for (const input of document.querySelectorAll(".pills input")) input.checked = input.read();
    for (const button of document.querySelectorAll("#modes button")) {
      const wanted = modes[button.dataset.mode]();
      const same = wanted.seen === show.seen && wanted.heat === show.heat && show.low && show.views.every(Boolean)
        && show.patches.every((value) => value === wanted.patches);
      button.setAttribute("aria-pressed", String(same));
    }
    redraw();
  }
  function pill(parent, text, label, read, write) {
    const holder = make("label", "", parent), input = make("input", "", holder);
    input.type = "checkbox";
    input.setAttribute("aria-label", label);
    input.read = read;
    input.addEventListener("change", () => { write(input.checked); refresh(); });
    make("span", text, holder);
  }

  function buildCards() {
    const cards = $("cards");
    cards.replaceChildren();
    const low = make("section", "", cards, "card"), lowHead = make("h2", "Low-res view", low);
    make("span", `${count(picture.lowScale)} px square`, lowHead);
    make("p", `${picture.scoreRows} x ${picture.scoreColumns} cells, all seen: ${count(picture.lowTokens)} tokens`, low);
    make("div", "", low, "scale-bar");
    const ends = make("div", "", low, "ends"), [least, most] = picture.scoreRange;
    make("span", `score ${least.toFixed(2)}`, ends);
    make("span", most.toFixed(2), ends);
    const lowPills = make("div", "", low, "pills");
    pill(lowPills, "Scores", "Show the scores", () => show.heat, (on) => { show.heat = on; });
    pill(lowPills, "What it saw", "Show the low-res view", () => show.seen && show.low, (on) => {
      if (on && !show.seen) { show.seen = true; show.views.fill(false); }
      show.low = on;
    });
    picture.scales.forEach((scale, index) => {
      const card = make("section", "", cards, "card"), head = make("h2", "", card);
      make("i", "", head).style.background = scale.color;
      head.append(`${count(scale.scale)} px`);
      make("span", `${scale.rows} x ${scale.columns} patches`, head);
      make("p", `${count(scale.chosen)} of ${count(scale.total)} patches chosen, ${scale.share} of the picture`, card);
      const meter = make("div", "", card, "meter");
      if (scale.chosen) {
        const part = make("i", "", meter);
        part.style.background = scale.color;
        part.style.width = `${(100 * scale.chosen) / scale.total}%`;
      }
      const pills = make("div", "", card, "pills");
      pill(pills, "Patches", `Show the patches of ${scale.scale} px`, () => show.patches[index], (on) => { show.patches[index] = on; });
      pill(pills, "What it saw", `Show what ${scale.scale} px saw`, () => show.seen && show.views[index], (on) => {
        if (on && !show.seen) { show.seen = true; show.views.fill(false); }
        show.views[index] = on;
      });
      if (picture.passes > 1 && scale.chosen) {
        const legend = make("div", "pass ", card, "passes");
        scale.shades.slice(1, 13).forEach((shade, pass) => { make("i", String(pass + 1), legend).style.background = shade; });
        if (scale.shades.length > 13) make("span", `to ${scale.shades.length - 1}`, legend);
      }
    });
  }

  for (const button of document.querySelectorAll("#modes button")) button.addEventListener("click", () => choose(button.dataset.mode));
  $("seen").addEventListener("change", (event) => { show.seen = event.target.checked; refresh(); });
  $("compare").addEventListener("change", (event) => {
    show.compare = event.target.checked;
    if (show.compare) show.seen = true;
    refresh();
  });
  $("dim").addEventListener("change", (event) => { show.dim = event.target.checked; refresh(); });
  $("smooth").addEventListener("change", (event) => {
    show.smooth = event.target.checked;
    if (show.smooth) show.heat = true;
    refresh();
  });
  $("strength").addEventListener("input", (event) => {
    show.strength = event.target.value / 100;
    $("strength-value").textContent = `${event.target.value} %`;
    redraw();
  });
  $("zoom-in").addEventListener("click", () => zoomAt(1.6, width / 2, height / 2));
  $("zoom-out").addEventListener("click", () => zoomAt(1 / 1.6, width / 2, height / 2));
  $("fit").addEventListener("click", fit);
  $("next").addEventListener("click", () => visit(1));
  $("previous").addEventListener("click", () => visit(-1));
  $("save").addEventListener("click", () => canvas.toBlob((blob) => {
    const link = make("a");
    link.href = URL.createObjectURL(blob);
    link.download = "selection-lens.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }));

  const divider = $("divider");
  const slideTo = (share) => { show.split = Math.min(1, Math.max(0, share)); redraw(); };
  divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
  divider.addEventListener("pointermove", (event) => {
    if (divider.hasPointerCapture(event.pointerId)) slideTo(local(event)[0] / width);
  });
  divider.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, Home: -1, End: 1 }[event.key];
    if (step) { slideTo(show.split + step); event.preventDefault(); }
  });

  // ---- start ------------------------------------------------------------------------------------------------
  function resize() {
    const atFit = picture && view.zoom <= fitZoom() * 1.001;
    width = stage.clientWidth;
    height = Math.round(Math.min(Math.max(260, innerHeight * 0.74), Math.max(180, (width * picture.height) / picture.width)));
    stage.style.height = `${height}px`;
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    if (atFit) view.zoom = fitZoom();
    draw();
  }
  function open(index) {
    for (const other of data.pictures) if (other.ready) other.scales.forEach((scale) => { scale.seen = null; });
    picture = prepare(index);
    document.querySelectorAll("#pictures button").forEach((button, at) => button.setAttribute("aria-pressed", String(at === index)));
    Object.assign(view, { x: picture.width / 2, y: picture.height / 2, zoom: 0 });
    placeIndex = -1;
    buildCards();
    namePlace();
    choose("looked");
    resize();
    hush();
  }
  function start() {
    $("lens").hidden = false;
    if (data.pictures.length > 1) {
      $("pictures").hidden = false;
      data.pictures.forEach((one, index) => {
        const button = make("button", "", $("pictures")), thumb = blank(224, 144);
        button.type = "button";
        button.setAttribute("aria-label", `Picture ${index + 1}`);
        const image = $(`p${index}-original`), pen = thumb.getContext("2d");
        const grow = Math.max(224 / image.naturalWidth, 144 / image.naturalHeight);
        const w = image.naturalWidth * grow, h = image.naturalHeight * grow;
        pen.drawImage(atSize(image, w), (224 - w) / 2, (144 - h) / 2, w, h);
        button.append(thumb);
        button.addEventListener("click", () => open(index));
      });
    }
    open(0);
    new ResizeObserver(() => { if (stage.clientWidth !== width) resize(); }).observe(stage);
    addEventListener("resize", resize);
  }
  Promise.all([...document.images].map((image) => image.decode().catch(() => undefined))).then(() => {
    document.documentElement.classList.add("js");
    start();
  });
})();
