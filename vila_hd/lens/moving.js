// Selection Lens, part 3: what is under the pointer; zooming, panning, flying from place to place.

const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

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
  const found = picture.plain ? null : inspect(sx, sy), tip = $("tip");
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
  if (event.ctrlKey || event.metaKey || event.altKey || !picture) return;
  const key = event.key.toLowerCase(), mode = ["looked", "saw", "scores", "original"][Number(key) - 1];
  if (mode) choose(mode);
  else if (key === "0") fit();
  else if (key === "n") visit(1);
  else if (key === "p") visit(-1);
  else if (key === "c") { show.compare = show.seen ? !show.compare : true; show.seen = true; refresh(); }
  else return;
  event.preventDefault();
});
