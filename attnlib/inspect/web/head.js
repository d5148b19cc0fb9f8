// One head in full: one canvas the size of the window over a sheet that scrolls, so that any length costs the same to draw.
const view = { map: null, h: 0, x: 0, y: 0, q: 0, held: false, cell: 0, fitted: true, image: null, axis: { left: 0, top: 0, over: 0 }, due: false };
const slant = 55 * Math.PI / 180;
const font = (size, bold) => `${bold ? 600 : 400} ${size}px ${getComputedStyle(document.body).fontFamily}`;

const tokensOf = side => page.texts[view.map.texts[side]];
// The tokens that row or column `at` stands for: one, or those of a tile.
function spanOf(side, at) {
  const tokens = tokensOf(side), step = view.map.steps[side], first = at * step, last = Math.min(first + step, tokens.length) - 1;
  return { first, last, text: first === last ? tokens[first] : `${short(tokens[first], 10)} … ${short(tokens[last], 10)}`, place: first === last ? String(first) : `${first}–${last}` };
}
const valueAt = (y, x) => view.values[y * view.map.shape[2] + x];

async function showHead(index, h) {
  const before = view.map, map = page.maps[index];
  await ready(map);
  const same = before && before.texts.join() === map.texts.join() && before.shape[1] === map.shape[1];
  Object.assign(view, { map, h, index, values: headOf(map, h), image: null });
  if (!same) Object.assign(view, { x: 0, y: Math.min(map.shape[1] >> 1, 12), held: false, fitted: true });
  const group = page.groups.find(one => one.maps.includes(index)), layers = group.maps.indexOf(index);
  $("where").textContent = group.label;
  $("layer").textContent = map.layer === null ? map.name : `layer ${map.layer}`;
  $("nth").textContent = `head ${map.numbers[h]}`;
  $("layer-").disabled = layers === 0;
  $("layer+").disabled = layers === group.maps.length - 1;
  $("head-").disabled = h === 0;
  $("head+").disabled = h === map.shape[0] - 1;
  $("plot").setAttribute("aria-label", `${map.name}, head ${map.numbers[h]}: ${count(map.shape[1], "row")} of queries, ${count(map.shape[2], "column")} of keys`);
  if (!same) buildReading();
  measure();
  if (!same) best();
  choose(view.y, view.x);
}

// The widths of both axes from their longest labels, the size of a cell, and of the sheet.
function measure() {
  const { map, axis } = view, plot = $("plot"), context = $("map").getContext("2d");
  const split = $("split"), beside = getComputedStyle(split).gridTemplateColumns.includes(" "), side = beside ? split.lastElementChild.offsetWidth + 30 : 0;
  const most = split.clientWidth - side, room = Math.max(beside ? 260 : innerHeight * .6, innerHeight - split.getBoundingClientRect().top - scrollY - 26);
  document.documentElement.style.setProperty("--room", `${room}px`);
  context.font = font(12.5);
  axis.letters = most < 520 ? 9 : 18;
  const widest = (side, n) => {
    let most = 20;
    for (let i = 0; i < Math.min(n, 600); i++) most = Math.max(most, context.measureText(short(spanOf(side, i).text, axis.letters)).width);
    return most;
  };
  const keys = widest(1, map.shape[2]), ten = context.measureText("0").width;
  axis.digits = ten * String(tokensOf(0).length).length;
  axis.left = Math.ceil(widest(0, map.shape[1]) + axis.digits + 30);
  axis.top = Math.ceil(keys * Math.sin(slant) + 36);
  axis.over = Math.ceil(keys * Math.cos(slant) + 10);
  const fit = Math.min((most - 2 - axis.left - axis.over) / map.shape[2], (room - 2 - axis.top - 12) / map.shape[1]);
  if (view.fitted) view.cell = clamp(fit, Math.max(...map.shape.slice(1)) > 160 ? Math.min(2, Math.max(fit, 220 / map.shape[2])) : 15, 52);
  view.cell = view.cell > 3 ? Math.floor(view.cell) : view.cell;
  const wide = axis.left + map.shape[2] * view.cell + axis.over, high = axis.top + map.shape[1] * view.cell + 12;
  Object.assign($("sheet").style, { width: `${wide}px`, height: `${high}px` });
  const bars = [high + 2 > room ? 16 : 0, wide + 2 > most ? 16 : 0];  // where a scroll bar will stand
  Object.assign(plot.style, { width: `${Math.min(most, wide + 2 + bars[0])}px`, height: `${Math.min(room, high + 2 + bars[1])}px` });
  redraw();
}

function redraw() {
  if (view.due || !view.map) return;
  view.due = true;
  requestAnimationFrame(() => { view.due = false; if (!$("head").hidden) draw(); });
}

// Set the crosshair, and say what stands there.
function choose(y, x, { scroll = false, speak = false } = {}) {
  const { map, axis, cell } = view, plot = $("plot");
  view.y = y = clamp(y, 0, map.shape[1] - 1);
  view.x = x = clamp(x, 0, map.shape[2] - 1);
  const w = valueAt(y, x), query = spanOf(0, y), key = spanOf(1, x), mean = map.steps.some(step => step > 1);
  if (view.q < query.first || view.q > query.last) view.q = query.first;
  $("weight").textContent = (map.exact ? "" : "≈ ") + number(w, map.exact);
  $("unit").textContent = (mean ? "mean weight of the tile" : "weight") + (view.held ? " · held, Enter releases" : "");
  for (const [name, span] of [["query", query], ["key", key]])
    $(name).replaceChildren(token(span.text), make("small", { textContent: span.place }));
  listTop();
  colourReading();
  if (scroll) {
    const [px, py] = [x * cell, y * cell], seenX = plot.clientWidth - axis.left - 30, seenY = plot.clientHeight - axis.top - 16;
    if (px < plot.scrollLeft) plot.scrollLeft = px;
    else if (px + cell > plot.scrollLeft + seenX) plot.scrollLeft = px + cell - seenX;
    if (py < plot.scrollTop) plot.scrollTop = py;
    else if (py + cell > plot.scrollTop + seenY) plot.scrollTop = py + cell - seenY;
  }
  if (speak) say(`Query ${query.place}, ${query.text}. Key ${key.place}, ${key.text}. ${mean ? "Mean weight" : "Weight"} ${number(w, map.exact)}.`);
  redraw();
}

const tileRow = y => view.values.subarray(y * view.map.shape[2], (y + 1) * view.map.shape[2]);
const best = () => { view.x = tileRow(view.y).indexOf(Math.max(...tileRow(view.y))); };

// The largest targets of the row of the map, or, where a long text brought them, of one token of the tile.
function listTop() {
  const { map, h, q } = view, fine = map.steps[0] > 1 || map.steps[1] > 1 ? taken(map, h, q) : null, single = fine && fine.kind !== "mean";
  $("token-step").hidden = !single;
  if (single) return listTargets(fine);
  const row = tileRow(view.y), order = Array.from(row.keys()).filter(i => row[i] > 0).sort((a, b) => row[b] - row[a]).slice(0, 7);
  const subject = map.steps[0] > 1 ? "These queries take" : "This query takes";
  $("most").textContent = `${subject} ${order.length ? "most from" : "nothing"}`;
  barList($("top"), order.map(i => ({ text: spanOf(1, i).text, value: row[i], exact: map.exact, chosen: i === view.x,
    act: () => { view.held = true; choose(view.y, i, { scroll: true }); } })));
}

function listTargets({ values, kind, rest }) {
  const { map, q } = view, tokens = tokensOf(1);
  $("token-now").replaceChildren(token(short(tokensOf(0)[q], 14)), make("small", { textContent: q }));
  $("most").textContent = `This token takes most from (${kindText[kind]})`;
  const list = largest(values, 16);
  barList($("top"), list.map(k => ({ text: `${tokens[k]}`, value: values[k],
    act: () => { view.held = true; choose(view.y, k / map.steps[1] | 0, { scroll: true }); } })));
  if (kind === "top") $("top").append(restOf({ rest }));
}

// To another token of the text, and the tile that it is in.
function stepToken(by) {
  view.q = clamp(view.q + by, 0, tokensOf(0).length - 1);
  choose(view.q / view.map.steps[0] | 0, view.x, { scroll: true });
  say(`${$("token-now").textContent}: ${$("top").textContent}`);
}

// The text itself, coloured by what the chosen query takes from each key.
function buildReading() {
  const section = $("reading"), [q, k] = view.map.texts;
  section.replaceChildren();
  view.spans = [null, null];
  if (view.map.steps.some(step => step > 1) || view.map.shape[2] > 700 || view.map.shape[1] > 700) return;
  const strip = (side, label) => {
    const words = make("p", { className: "words", dir: directionOf(tokensOf(side)) });
    view.spans[side] = tokensOf(side).map((text, i) => {
      const span = token(text);
      span.onclick = () => { view.held = true; side ? choose(view.y, i, { scroll: true }) : choose(i, view.x, { scroll: true }); };
      words.append(span, make("wbr"));
      return span;
    });
    section.append(make("h3", { textContent: label }), words);
  };
  if (q !== k) strip(0, "Queries: choose one");
  strip(q === k ? 0 : 1, q === k ? "What it takes from the text" : "What it takes from the keys");
  if (q === k) view.spans[1] = view.spans[0];
}

function colourReading() {
  const [queries, keys] = view.spans, row = tileRow(view.y), top = ceiling(view.map, view.h);
  keys?.forEach((span, i) => {
    const paint = colour(row[i], top), blank = level(row[i], top) < 3;
    span.style.background = blank ? "none" : `rgb(${paint})`;
    span.style.color = blank ? "" : inkOn(paint);
  });
  queries?.forEach((span, i) => span.toggleAttribute("data-at", i === view.y));
}

function resize(factor) {
  const plot = $("plot"), before = view.cell;
  view.fitted = factor === 0;
  if (factor) view.cell = clamp(Math.max(before * factor, before + Math.sign(factor - 1) * (before > 3 ? 1 : .2)), .5, 64);
  measure();
  plot.scrollLeft = (plot.scrollLeft + plot.clientWidth / 2 - view.axis.left) * view.cell / before - plot.clientWidth / 2 + view.axis.left;
  plot.scrollTop = (plot.scrollTop + plot.clientHeight / 2 - view.axis.top) * view.cell / before - plot.clientHeight / 2 + view.axis.top;
  choose(view.y, view.x, { scroll: true });
}

function headKey(event) {
  const far = event.shiftKey ? 10 : 1, move = {
    ArrowLeft: [0, -far], ArrowRight: [0, far], ArrowUp: [-far, 0], ArrowDown: [far, 0], PageUp: [-10, 0], PageDown: [10, 0],
    Home: [event.ctrlKey ? -Infinity : 0, -Infinity], End: [event.ctrlKey ? Infinity : 0, Infinity],
  }[event.key];
  if (move) {
    if (!event.target.closest?.("#plot")) return false;
    choose(view.y + move[0], view.x + move[1], { scroll: true, speak: true });
    return true;
  }
  const act = {
    "[": () => turn(-1, 0), "]": () => turn(1, 0), ",": () => turn(0, -1), ".": () => turn(0, 1), Escape: close,
    "+": () => resize(1.25), "=": () => resize(1.25), "-": () => resize(.8), 0: () => resize(0),
    m: () => { best(); choose(view.y, view.x, { scroll: true, speak: true }); },
    j: () => stepToken(-1), k: () => stepToken(1), l: () => go("lines"),
    Enter: event.target.id === "plot" && (() => { view.held = !view.held; choose(view.y, view.x, { speak: true }); }),
  }[event.key];
  if (!act) return false;
  act();
  return true;
}

function pointAt(event) {
  const plot = $("plot"), box = plot.getBoundingClientRect(), px = event.clientX - box.left - plot.clientLeft, py = event.clientY - box.top - plot.clientTop;
  if (px < 0 || py < 0 || px > plot.clientWidth || py > plot.clientHeight) return null;
  const x = Math.floor((px - view.axis.left + plot.scrollLeft) / view.cell), y = Math.floor((py - view.axis.top + plot.scrollTop) / view.cell);
  const inX = px >= view.axis.left && x < view.map.shape[2], inY = py >= view.axis.top && y < view.map.shape[1];
  return inX || inY ? [inY ? y : view.y, inX ? x : view.x] : null;  // on an axis, one of the two stays
}
