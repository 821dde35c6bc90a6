// Selection Lens, part 2: what is shown, and drawing it.

// What is shown. `view`: centre in picture pixels and screen pixels per picture pixel.
const show = { seen: false, low: true, heat: false, dim: true, compare: false, smooth: false, strength: 0.6, split: 0.5,
               patches: [], views: [] };
const view = { x: 0, y: 0, zoom: 1 };
let picture = null, width = 1, height = 1, frame = 0, flight = 0, cross = false, placeIndex = -1;

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
  drawBoxes(zoom);
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
    if (!show.views[index] || !scale.chosen || !isLoaded(scale.source)) return;
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

// Boxes of the person, in picture pixels.
function drawBoxes(zoom) {
  for (const [x1, y1, x2, y2] of picture.boxes || []) {
    for (const [color, line, dash] of [["#060a10", 4, []], ["#fff", 2, [7, 5]]]) {
      context.strokeStyle = color;
      context.lineWidth = line / zoom;
      context.setLineDash(dash.map((length) => length / zoom));
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
  }
  context.setLineDash([]);
}

function drawMap() {
  const share = Math.min(Math.min(132, width * 0.24) / picture.width, Math.min(100, height * 0.3) / picture.height);
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
