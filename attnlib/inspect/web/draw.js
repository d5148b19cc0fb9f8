// Drawing one head: its cells, the figures in them where they fit, the crosshair, and the labels of both axes.
function draw() {
  const { map, axis, cell } = view, plot = $("plot"), canvas = $("map"), dots = devicePixelRatio, style = getComputedStyle(plot);
  const wide = plot.clientWidth, high = plot.clientHeight, paper = style.backgroundColor, ink = style.color;
  if (canvas.width !== Math.round(wide * dots) || canvas.height !== Math.round(high * dots)) {
    Object.assign(canvas, { width: Math.round(wide * dots), height: Math.round(high * dots) });
    Object.assign(canvas.style, { width: `${wide}px`, height: `${high}px` });
  }
  const c = canvas.getContext("2d"), left = axis.left - plot.scrollLeft, top = axis.top - plot.scrollTop;
  const [, rows, columns] = map.shape, soft = getComputedStyle($("summary")).color;
  c.setTransform(dots, 0, 0, dots, 0, 0);
  c.clearRect(0, 0, wide, high);
  c.save();
  c.beginPath(); c.rect(axis.left - 5, axis.top - 5, wide, high); c.clip();
  view.image ??= paint(map, view.h);
  const x0 = clamp(Math.floor(-(left - axis.left) / cell), 0, columns - 1), y0 = clamp(Math.floor(-(top - axis.top) / cell), 0, rows - 1);
  const x1 = Math.min(columns, Math.ceil((wide - left) / cell)), y1 = Math.min(rows, Math.ceil((high - top) / cell));
  c.imageSmoothingEnabled = cell * dots < 1;
  c.drawImage(view.image, x0, y0, x1 - x0, y1 - y0, left + x0 * cell, top + y0 * cell, (x1 - x0) * cell, (y1 - y0) * cell);
  if (cell >= 9) rule(c, paper, left, top, x0, y0, x1, y1);
  if (cell >= 34) figures(c, left, top, x0, y0, x1, y1);
  c.strokeStyle = markColour(); c.lineWidth = 1.25;
  const cx = left + view.x * cell, cy = top + view.y * cell, ring = cell < 8 ? 4 : 1;  // around a small cell, not over it
  if (cell < 8) {
    for (const [x, y, w, h] of [[left, cy + cell / 2 - .5, cx - ring - left, 1], [cx + cell + ring, cy + cell / 2 - .5, left + columns * cell - cx - cell - ring, 1],
      [cx + cell / 2 - .5, top, 1, cy - ring - top], [cx + cell / 2 - .5, cy + cell + ring, 1, top + rows * cell - cy - cell - ring]]) {
      c.fillStyle = markColour();
      c.fillRect(x, y, Math.max(w, 0), Math.max(h, 0));
    }
  } else {
    c.strokeRect(left - 4, cy - .5, columns * cell + 8, cell + 1);
    c.strokeRect(cx - .5, top - 4, cell + 1, rows * cell + 8);
  }
  c.lineWidth = view.held ? 3.5 : 2.25;
  c.strokeRect(cx - ring, cy - ring, cell + 2 * ring, cell + 2 * ring);
  c.restore();
  labels(c, { wide, high, left, top, ink, soft, rows, columns });
}

const markColour = () => look.theme === "dark" ? "#ff9d5c" : "#b3470f";

function rule(c, paper, left, top, x0, y0, x1, y1) {
  c.fillStyle = paper;
  for (let x = x0; x <= x1; x++) c.fillRect(left + x * view.cell - .5, top + y0 * view.cell, 1, (y1 - y0) * view.cell);
  for (let y = y0; y <= y1; y++) c.fillRect(left + x0 * view.cell, top + y * view.cell - .5, (x1 - x0) * view.cell, 1);
}

function figures(c, left, top, x0, y0, x1, y1) {
  const limit = ceiling(view.map, view.h);
  Object.assign(c, { font: font(11), textAlign: "center", textBaseline: "middle", direction: "ltr" });
  for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) {
    const w = valueAt(y, x);
    if (w < .005) continue;
    c.fillStyle = inkOn(colour(w, limit));
    c.fillText(w >= .995 ? w.toFixed(1) : w.toFixed(2).replace(/^0/, ""), left + (x + .5) * view.cell, top + (y + .5) * view.cell + .5);
  }
}

function labels(c, { wide, high, left, top, ink, soft, rows, columns }) {
  const { axis, cell } = view, every = [13, 15].map(least => Math.max(1, Math.ceil(least / cell))), size = clamp(cell * .8, 11, 12.5);
  const write = (side, at, x, y) => {
    const span = spanOf(side, at), chosen = at === (side ? view.x : view.y);
    c.font = font(size, chosen);
    c.fillStyle = chosen ? markColour() : ink;
    c.direction = rightToLeft.test(span.text) ? "rtl" : "ltr";
    c.textAlign = side ? "left" : "right";
    writeToken(c, short(span.text, axis.letters), x, y, side ? 1 : -1);
    if (side) return;
    c.font = font(10);
    if (!chosen) c.fillStyle = soft;
    c.direction = "ltr";
    c.fillText(span.first, 10 + axis.digits, y);
  };
  const shown = (side, at, chosen) => at === chosen || (at % every[side] === 0 && Math.abs(at - chosen) * cell >= 12);
  c.textBaseline = "middle";
  c.save();
  c.beginPath(); c.rect(0, axis.top - 6, axis.left, high); c.clip();
  for (let y = 0; y < rows; y++) {
    const at = top + (y + .5) * cell;
    if (at > axis.top - 8 && at < high + 8 && shown(0, y, view.y)) write(0, y, axis.left - 9, at + .5);
  }
  c.restore();
  for (let x = 0; x < columns; x++) {
    const at = left + (x + .5) * cell;
    if (at < axis.left || at > wide + 8 || !shown(1, x, view.x)) continue;
    c.save();
    c.translate(at, axis.top - 8);
    c.rotate(-slant);
    write(1, x, 0, 0);
    c.restore();
  }
  Object.assign(c, { font: font(10.5), fillStyle: soft, textAlign: "left", direction: "ltr" });
  c.fillText("queries ↓", 10, axis.top - 12);
  c.fillText("keys →", 10, axis.top - 28);
}

// A token from x to the right (1) or to the left (-1), the marks of its leading spaces pale.
function writeToken(c, text, x, y, way) {
  const core = text.replace(/^␣+/, ""), marks = text.slice(0, text.length - core.length);
  if (!marks || !core || c.direction === "rtl") return c.fillText(text, x, y);
  c.fillText(core, way > 0 ? x + c.measureText(marks).width : x, y);
  c.globalAlpha = .35;
  c.fillText(marks, way > 0 ? x : x - c.measureText(core).width, y);
  c.globalAlpha = 1;
}
