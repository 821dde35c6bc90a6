// Selection Lens, part 4: buttons and switches, and the start.

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
  make("span", least < most ? `score ${least.toFixed(2)}` : "scores are all equal", ends);
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


function resize() {
  if (!picture) return;
  const atFit = picture && view.zoom <= fitZoom() * 1.001;
  width = stage.clientWidth;
  height = Math.round(Math.min(Math.max(260, roomHeight() * 0.74), Math.max(180, (width * picture.height) / picture.width)));
  stage.style.height = `${height}px`;
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  if (atFit) view.zoom = fitZoom();
  draw();
}
function openPicture(index) {
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
function listPictures() {
  const list = $("pictures");
  list.hidden = data.pictures.length < 2;
  list.replaceChildren();
  if (list.hidden) return;
  data.pictures.forEach((one, index) => {
    const button = make("button", "", list), thumb = blank(224, 144);
    button.type = "button";
    button.setAttribute("aria-label", `Picture ${index + 1}`);
    const image = $(`p${index}-original`), pen = thumb.getContext("2d");
    const grow = Math.max(224 / image.naturalWidth, 144 / image.naturalHeight);
    const w = image.naturalWidth * grow, h = image.naturalHeight * grow;
    pen.drawImage(atSize(image, w), (224 - w) / 2, (144 - h) / 2, w, h);
    button.append(thumb);
    button.addEventListener("click", () => openPicture(index));
  });
}
function watchSize() {
  new ResizeObserver(() => { if (stage.clientWidth !== width) resize(); }).observe(stage);
  addEventListener("resize", resize);
}
