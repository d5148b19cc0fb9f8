// A map drawn whole, as wide as its place: labels where they fit, a ring around the chosen row and cell.
class Matrix {
  constructor(canvas, choose) {
    Object.assign(this, { canvas, cell: 0, left: 0, top: 0 });
    canvas.onclick = event => {
      const at = this.at(event);
      if (at) choose(...at);
    };
  }

  // values [rows * columns]; names: texts of rows and columns; signed: colours of a difference.
  show(values, rows, columns, names, { y = -1, x = -1, top = null, signed = false, most = 560 } = {}) {
    const { canvas } = this, c = canvas.getContext("2d"), dots = devicePixelRatio, room = Math.min(canvas.parentElement.clientWidth, most + 200);
    c.font = font(12);
    const longest = side => Math.max(18, ...names[side].slice(0, 300).map(text => c.measureText(short(text, 16)).width));
    const least = 12, fits = [rows, columns].map(n => n <= most / least);
    this.left = fits[0] ? Math.ceil(longest(0)) + 12 : 4;
    const keys = fits[1] ? longest(1) : 0, over = fits[1] ? Math.ceil(keys * Math.cos(slant)) + 4 : 0;
    this.top = fits[1] ? Math.ceil(keys * Math.sin(slant)) + 14 : 4;
    const cell = Math.max(.25, Math.min(34, (room - this.left - over - 4) / columns, Math.max(most, 200) / rows));
    this.cell = cell > 4 ? Math.floor(cell) : cell;
    Object.assign(this, { rows, columns });
    const wide = Math.ceil(this.left + columns * this.cell + over + 4), high = Math.ceil(this.top + rows * this.cell + 4);
    Object.assign(canvas, { width: Math.round(wide * dots), height: Math.round(high * dots) });
    Object.assign(canvas.style, { width: `${wide}px`, height: `${high}px` });
    c.setTransform(dots, 0, 0, dots, 0, 0);
    const limit = top ?? (values.reduce((a, b) => Math.max(a, Math.abs(b)), 0) || 1);
    this.paint(c, values, limit, signed);
    const style = getComputedStyle(canvas), ink = style.color, size = this.cell;
    Object.assign(c, { font: font(12), textBaseline: "middle", fillStyle: ink });
    const every = size >= 12 ? 1 : Math.ceil(12 / size);
    const write = (side, at, px, py) => {
      const text = names[side][at], chosen = at === (side ? x : y);
      c.font = font(clamp(size * .85, 10, 12), chosen);
      c.fillStyle = chosen ? markColour() : ink;
      c.textAlign = side ? "left" : "right";
      c.direction = rightToLeft.test(text) ? "rtl" : "ltr";
      writeToken(c, short(text, 16), px, py, side ? 1 : -1);
    };
    if (fits[0]) for (let r = 0; r < rows; r++) if (r === y || r % every === 0) write(0, r, this.left - 7, this.top + (r + .5) * size);
    if (fits[1]) for (let k = 0; k < columns; k++) if (k === x || k % every === 0) {
      c.save();
      c.translate(this.left + (k + .5) * size, this.top - 7);
      c.rotate(-slant);
      write(1, k, 0, 0);
      c.restore();
    }
    c.strokeStyle = markColour();
    c.lineWidth = 1.5;
    if (y >= 0) c.strokeRect(this.left - 1, this.top + y * size - .75, columns * size + 2, size + 1.5);
    if (y >= 0 && x >= 0) { c.lineWidth = 2.25; c.strokeRect(this.left + x * size - 1, this.top + y * size - 1, size + 2, size + 2); }
  }

  paint(c, values, limit, signed) {
    const { rows, columns } = this, small = make("canvas", { width: columns, height: rows }), into = small.getContext("2d");
    const image = into.createImageData(columns, rows), pixels = new Uint32Array(image.data.buffer), ramp = words32[look.theme];
    const word = ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
    for (let i = 0; i < pixels.length; i++) pixels[i] = signed ? word(signedColour(values[i] / limit)) : ramp[level(values[i], limit)];
    into.putImageData(image, 0, 0);
    c.imageSmoothingEnabled = this.cell * devicePixelRatio < 1;
    c.drawImage(small, this.left, this.top, columns * this.cell, rows * this.cell);
    if (this.cell < 9) return;
    c.fillStyle = getComputedStyle(document.body).backgroundColor;
    for (let x = 0; x <= columns; x++) c.fillRect(this.left + x * this.cell - .5, this.top, 1, rows * this.cell);
    for (let y = 0; y <= rows; y++) c.fillRect(this.left, this.top + y * this.cell - .5, columns * this.cell, 1);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect(), x = Math.floor((event.clientX - box.left - this.left) / this.cell);
    const y = Math.floor((event.clientY - box.top - this.top) / this.cell);
    return y >= 0 && y < this.rows ? [y, clamp(x, 0, this.columns - 1)] : null;
  }
}

// The names of rows or columns: tokens, or what a tile spans.
function namesOf(map, side) {
  const tokens = page.texts[map.texts[side]], step = map.steps[side];
  return step === 1 ? tokens : Array.from({ length: map.shape[side + 1] }, (_, i) => `${i * step}`);
}
