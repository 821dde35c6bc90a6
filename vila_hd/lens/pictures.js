// Selection Lens, part 1: the data of the page, and what follows from them. All parts form one script.

const data = JSON.parse(document.getElementById("lens-data").textContent);
const $ = (id) => document.getElementById(id);
const stage = $("stage"), canvas = $("canvas"), context = canvas.getContext("2d");
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

// Pictures of the viewer come over the network, and only when they are needed.
function isLoaded(image) {
  if (image.naturalWidth) return true;
  if (image.dataset.src) {
    image.addEventListener("load", redraw);
    image.src = image.dataset.src;
    delete image.dataset.src;
  }
  return false;
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
