// Selection Lens, part 5 of the viewer: it stands in another page, which tells it what to show.

const roomHeight = () => parent.innerHeight * 0.78;
const tell_parent = (message) => parent.postMessage(message, location.origin);
const images = new Map();  // address -> element, so that a picture is fetched and decoded once
let aiming = false, corner = null;

function image(id, url, now) {
  if (!images.has(url)) {
    const element = make("img");
    element.alt = "";
    if (now) element.src = url; else element.dataset.src = url;
    images.set(url, element);
  }
  const element = images.get(url);
  element.id = id;
  $("figures").append(element);
  return now ? element.decode().then(() => true, () => false) : null;
}

let turn = 0, displayed = "";
async function display(lens) {
  document.documentElement.dataset.theme = lens.theme;
  const wanted = JSON.stringify(lens.pictures);
  if (wanted === displayed) return;
  displayed = wanted;
  const mine = ++turn, before = picture && { ...view, url: picture.urls.original, index: data.pictures.indexOf(picture) };
  const mode = document.querySelector("#modes [aria-pressed=true]");
  $("lens").hidden = !lens.pictures.length;
  aim.hidden = Boolean(lens.fixed);
  $("figures").replaceChildren();
  const known = new Set(), waiting = [];
  lens.pictures.forEach((one, index) => {
    for (const [name, url] of Object.entries(one.urls)) { known.add(url); waiting.push(image(`p${index}-${name}`, url, true)); }
    one.scales.forEach((scale, at) => {
      if (!scale.image) return;
      known.add(scale.image);
      image(`p${index}-scale${at}`, scale.image, false);
      scale.image = `p${index}-scale${at}`;
    });
  });
  for (const url of images.keys()) if (!known.has(url)) images.delete(url);
  const loaded = await Promise.all(waiting);
  if (mine !== turn) return;
  if (!loaded.every(Boolean)) {
    // Nothing is drawn of what did not come; the parent is asked to tell it again.
    images.clear();
    displayed = "";
    setTimeout(() => tell_parent({ kind: "ready" }), 1000);
    return;
  }
  picture = null;
  data.pictures = lens.pictures;
  document.documentElement.classList.toggle("plain-picture", data.pictures.every((one) => one.plain));
  if (!data.pictures.length) return reportHeight();
  listPictures();
  const same = before && data.pictures[before.index]?.urls.original === before.url;
  openPicture(same ? before.index : Math.max(0, data.pictures.length - 1));
  if (same) {
    Object.assign(view, { x: before.x, y: before.y, zoom: before.zoom });
    if (mode && !picture.plain) choose(mode.dataset.mode);
  }
  redraw();
  reportHeight();
}
function reportHeight() {
  tell_parent({ kind: "height", height: Math.ceil($("lens").hidden ? 0 : $("lens").getBoundingClientRect().height) + 2 });
}

const aim = make("div", "", null, "group"), frame_button = make("button", "\u25ad Box", aim), view_button = make("button", "This view", aim);
aim.setAttribute("role", "group");
aim.setAttribute("aria-label", "Look closer at a part");
frame_button.type = view_button.type = "button";
frame_button.id = "draw-box";
view_button.id = "take-view";
frame_button.title = "Drag a box on the picture: the next question looks closer there (B)";
view_button.title = "The part you see now becomes the box (V)";
document.querySelector(".moves").prepend(aim);
function setAiming(on) {
  aiming = on;
  corner = null;
  frame_button.setAttribute("aria-pressed", String(on));
  canvas.classList.toggle("aiming", on);
}
function mark(x1, y1, x2, y2) {
  const clamp = (value, most) => Math.round(Math.min(most, Math.max(0, value)));
  const box = [clamp(Math.min(x1, x2), picture.width), clamp(Math.min(y1, y2), picture.height),
               clamp(Math.max(x1, x2), picture.width), clamp(Math.max(y1, y2), picture.height)];
  if (box[2] - box[0] < 2 || box[3] - box[1] < 2) return;
  picture.boxes = [box];
  redraw();
  tell_parent({ kind: "box", picture: data.pictures.indexOf(picture), box });
}
const place = (event) => { const [sx, sy] = local(event); return [view.x + (sx - width / 2) / view.zoom, view.y + (sy - height / 2) / view.zoom]; };
const takeView = () => mark(view.x - width / view.zoom / 2, view.y - height / view.zoom / 2, view.x + width / view.zoom / 2, view.y + height / view.zoom / 2);
frame_button.addEventListener("click", () => setAiming(!aiming));
view_button.addEventListener("click", takeView);

// Before the canvas hears of it: while a box is drawn, dragging does not move the picture.
const steal = (type, act) => stage.addEventListener(type, (event) => {
  if (!aiming || event.target !== canvas) return;
  event.stopImmediatePropagation();
  event.preventDefault();
  act(event);
}, { capture: true });
steal("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); corner = place(event); });
steal("pointermove", (event) => {
  if (!corner) return;
  const [x, y] = place(event);
  picture.boxes = [[Math.min(x, corner[0]), Math.min(y, corner[1]), Math.max(x, corner[0]), Math.max(y, corner[1])]];
  redraw();
});
steal("pointerup", (event) => { if (corner) mark(...corner, ...place(event)); setAiming(false); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !picture) return;
  const key = event.key.toLowerCase();
  if (key === "b") setAiming(!aiming);
  else if (key === "v") takeView();
  else if (key === "escape") setAiming(false);
});

addEventListener("message", (event) => {
  if (event.origin !== location.origin) return;
  if (event.data?.kind === "show") display(event.data);
  if (event.data?.kind === "clear" && picture) { picture.boxes = []; redraw(); }
});
document.documentElement.classList.add("js");
watchSize();
new ResizeObserver(reportHeight).observe($("lens"));
tell_parent({ kind: "ready" });
