// The maps of the page, the colours of weights, and small helpers. All scripts share one scope.
const $ = id => document.getElementById(id);
const book = JSON.parse($("data").textContent);
let page = book.exhibits[0];  // the one shown: where two are compared, `x` shows the other
const look = { curve: "root", range: "page", theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light", first: true };
const peak = Math.max(...book.exhibits.flatMap(one => one.maps).flatMap(map => map.peaks)) || 1;

const halves = Float32Array.from({ length: 65536 }, (_, bits) => {
  const power = (bits >> 10) & 31, part = bits & 1023, sign = bits >> 15 ? -1 : 1;
  return power ? sign * (1 + part / 1024) * 2 ** (power - 15) : sign * part * 2 ** -24;  // no infinities are written
});

// Weights [H * Q * K] of a map, decoded once.
function weights(map) {
  map.values ??= unpack(map);
  return map.values;
}

function bytesOf(text) {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
async function inflate(text) {
  const bytes = Uint8Array.fromBase64?.(text) ?? bytesOf(atob(text));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Numbers of two or four bytes, all lowest bytes first.
function halvesOf(raw) {
  const values = new Float32Array(raw.length / 2);
  for (let i = 0; i < values.length; i++) values[i] = halves[raw[i] | raw[i + values.length] << 8];
  return values;
}
function wholesOf(raw) {
  const n = raw.length / 4, values = new Int32Array(n);
  for (let i = 0; i < n; i++) values[i] = raw[i] | raw[i + n] << 8 | raw[i + 2 * n] << 16 | raw[i + 3 * n] << 24;
  return values;
}

async function unpack(map) {
  const raw = await inflate(map.data), [, rows, columns] = map.shape, cells = rows * columns;
  if (map.exact) map.decoded = halvesOf(raw);
  else {
    map.raw = raw;
    map.decoded = new Float32Array(raw.length);
    for (let i = 0; i < raw.length; i++) map.decoded[i] = map.peaks[i / cells | 0] * (raw[i] / 255) ** 2;
  }
  map.data = null;
  return map.decoded;
}

// The weights and all that a long text brought beside them: targets of some heads, rows in full.
function ready(map) {
  map.whole ??= (async () => {
    for (const top of Object.values(map.tops ?? {})) {
      const [keys, parts, rest] = await Promise.all([inflate(top.keys), inflate(top.weights), inflate(top.rest)]);
      Object.assign(top, { keys: wholesOf(keys), weights: halvesOf(parts), rest: halvesOf(rest) });
    }
    if (map.rows) map.rows.data = halvesOf(await inflate(map.rows.data));
    return weights(map);
  })();
  return map.whole;
}

const headOf = (map, h) => map.decoded.subarray(h * map.shape[1] * map.shape[2], (h + 1) * map.shape[1] * map.shape[2]);

// Lightness falls (light) or rises (dark) all the way, in blues and greens only: safe for every colour vision, and in grey.
const stops = {
  light: ["#ffffff", "#f1f8dd", "#d3edc3", "#9bd7bd", "#5cbfc0", "#2b9cc0", "#2073b2", "#234596", "#141d5c"],
  dark: ["#1a1d22", "#1f2a52", "#223f87", "#2062a8", "#1f88b8", "#3eaebd", "#79ccb6", "#bfe6b4", "#fbfbd0"],
};
const ramps = Object.fromEntries(Object.entries(stops).map(([theme, colours]) => {
  const points = colours.map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));
  return [theme, Array.from({ length: 256 }, (_, i) => {
    const at = i / 255 * (points.length - 1), low = Math.min(at | 0, points.length - 2);
    return points[low].map((v, c) => Math.round(v + (points[low + 1][c] - v) * (at - low)));
  })];
}));
const words32 = Object.fromEntries(Object.entries(ramps).map(([theme, ramp]) =>
  [theme, Uint32Array.from(ramp, ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0)]));  // little-endian RGBA

const ceiling = (map, h) => look.range === "one" ? 1 : look.range === "page" ? peak : map.peaks[h] || 1;
const decades = 4;  // what a logarithmic scale spans
const bend = part => look.curve === "root" ? Math.sqrt(part) : look.curve === "linear" ? part : Math.max(0, 1 + Math.log10(part) / decades);
const level = (w, top) => {
  const part = Math.min(w / top, 1);
  return Math.round(255 * bend(part));
};
const colour = (w, top) => ramps[look.theme][level(w, top)];
const inkOn = ([r, g, b]) => .299 * r + .587 * g + .114 * b > 140 ? "#14161a" : "#ffffff";

// A canvas of one pixel a cell.
function paint(map, h) {
  const [, rows, columns] = map.shape, values = headOf(map, h), top = ceiling(map, h), ramp = words32[look.theme];
  const canvas = make("canvas", { width: columns, height: rows }), context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows), pixels = new Uint32Array(image.data.buffer);
  if (map.raw) {  // 256 weights, and a colour for each
    const colours = Uint32Array.from({ length: 256 }, (_, b) => ramp[level(map.peaks[h] * (b / 255) ** 2, top)]), from = h * values.length;
    for (let i = 0; i < values.length; i++) pixels[i] = colours[map.raw[from + i]];
  } else for (let i = 0; i < values.length; i++) pixels[i] = ramp[level(values[i], top)];
  context.putImageData(image, 0, 0);
  return canvas;
}

// For scores with a sign: orange for, blue against, the paper between; told apart by every colour vision.
const poles = { light: [[255, 255, 255], [178, 76, 0], [0, 90, 165]], dark: [[26, 29, 34], [255, 166, 92], [110, 180, 255]] };
function signedColour(share) {
  const [zero, above, below] = poles[look.theme], pole = share < 0 ? below : above, part = Math.sqrt(Math.min(Math.abs(share), 1));
  return zero.map((v, c) => Math.round(v + (pole[c] - v) * part));
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// A token as text of its own direction, its space marks pale.
function token(text) {
  const [, before, core, after] = /^(␣*)([^]*?)(␣*)$/.exec(text);
  const marks = part => part ? [make("i", { textContent: part })] : [];
  const element = make("bdi", {}, ...marks(before), core, ...marks(after));
  element.translate = false;
  return element;
}

const rightToLeft = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;
const directionOf = tokens => {
  const letters = tokens.slice(0, 400).filter(t => /\p{L}/u.test(t));
  return letters.filter(t => rightToLeft.test(t)).length * 2 > letters.length ? "rtl" : "ltr";
};
const short = (text, most = 18) => {
  const parts = Array.from(text);
  return parts.length > most ? parts.slice(0, most - 1).join("") + "…" : text;
};
const number = (w, exact = true) =>
  w === 0 ? "0" : w >= 1000 || w < (exact ? .0005 : .0001) ? w.toExponential(1).replace("-", "−") : w.toFixed(exact ? 4 : 3);
const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
