// One head opened and closed, keys and buttons of all views, the scale of colours, paper, and the start.
let speaking = 0;
function say(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => { $("live").textContent = text; }, 120);  // not every cell of a held key
}

async function open(index, h) {
  const fresh = $("head").hidden;
  play(false);
  for (const name of Object.keys(views)) $(name).hidden = true;
  $("lens").hidden = true;
  $("head").hidden = false;
  if (fresh) view.map = null;
  address(`${index}.${h}`);
  const group = page.groups.findIndex(one => one.maps.includes(index));
  Object.assign(lens, { group, layer: page.groups[group].maps.indexOf(index), head: h });
  await showHead(index, h);
  if (fresh) drawLegend();
  if (fresh) { scrollTo(0, 0); measure(); $("plot").focus({ preventScroll: true }); }
  const value = number(valueAt(view.y, view.x), view.map.exact);
  say(`${view.map.name}, head ${view.map.numbers[h]}. Query ${spanOf(0, view.y).text}, key ${spanOf(1, view.x).text}, weight ${value}.`);
}

function close() {
  if ($("head").hidden) return;
  go("grid", { silent: true });
  const thumb = view.map.thumbs[view.h];
  document.querySelector(".thumb.last")?.classList.remove("last");
  thumb.classList.add("last");
  focusThumb(thumb);
  say("All heads");
}

// To another layer of the same group, or another head.
function turn(layers, heads) {
  const group = page.groups.find(one => one.maps.includes(view.index)), at = group.maps.indexOf(view.index) + layers;
  if (at < 0 || at >= group.maps.length) return;
  const index = group.maps[at], h = view.h + heads;
  if (h < 0 || (heads && h >= page.maps[index].shape[0])) return;
  open(index, Math.min(h, page.maps[index].shape[0] - 1));
}

function route() {
  const place = location.hash.slice(1).replace("/", ""), [index, h] = place.split(".").map(Number), map = place ? page.maps[index] : null;
  if (map && h >= 0 && h < map.shape[0]) {
    if ($("head").hidden || view.index !== index || view.h !== h) open(index, h);
  } else if (!$("head").hidden && !views[place]) close();
  else if (current !== (views[place] ? place : "grid") || !$("head").hidden || !document.documentElement.dataset.view) go(views[place] ? place : "grid");
}

function relook(change = {}) {
  Object.assign(look, change);
  document.documentElement.dataset.theme = look.theme;
  $("theme").textContent = look.theme === "dark" ? "Light" : "Dark";
  $("curve").value = look.curve;
  $("range").value = look.range;
  drawLegend();
  view.image = null;
  if (view.map && !$("head").hidden) { colourReading(); redraw(); }
  if (current !== "grid") for (const text of [...reader.texts, alignment.source, player.own, player.source]) text?.words.forEach(word => { word.key = null; });
  if (current !== "grid" && !starting) refresh();
  paintGrid();
}

// The scale of what stands: of all maps, of one row, or of scores with a sign.
const tick = w => w && w < .001 ? w.toExponential(0).replace("-", "−") : String(+w.toPrecision(2));
function drawLegend() {
  const row = $("head").hidden && (views[current].lens || current === "compare"), signed = row && current === "text" && page.explanations[reader.by]?.signed;
  const ramp = $("ramp").getContext("2d"), image = ramp.createImageData(256, 1), pixels = new Uint32Array(image.data.buffer);
  if (signed) for (let i = 0; i < 256; i++) {
    const [r, g, b] = signedColour(i / 127.5 - 1);
    pixels[i] = (255 << 24 | b << 16 | g << 8 | r) >>> 0;
  } else pixels.set(words32[look.theme]);
  ramp.putImageData(image, 0, 0);
  const top = row ? null : look.range === "one" ? 1 : look.range === "page" ? peak : null, parts = { root: [0, .1, .4, 1], linear: [0, .25, .5, 1], log: [1e-4, .01, 1] }[look.curve];
  const text = part => top === null ? part === 1 ? "highest" : part ? `${+(100 * part).toPrecision(2)}%` : "0" : tick(part * top);
  const marks = signed ? [[0, "against"], [.5, "0"], [1, "for"]] : parts.map(part => [bend(part), text(part)]);
  $("ticks").replaceChildren(...marks.map(([at, textContent]) => {
    const mark = make("span", { textContent });
    mark.style.left = `${100 * at}%`;
    return mark;
  }));
  const limit = row ? "the highest shown" : top === null ? "the highest of each head" : number(top);
  $("legend").setAttribute("aria-label", signed ? "Colours of scores: blue against, orange for" : `Colours of weights from 0 to ${limit}, ${$("curve").selectedOptions[0].textContent} scale`);
  $("range").disabled = row;
  $("legend").hidden = $("head").hidden && /^(lines|report)$/.test(current);  // whose colours are heads, or have figures in them
}

function next(select) {
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change"));
  say(`${select.closest("label").firstChild.textContent} ${select.selectedOptions[0].textContent}`);
}

document.addEventListener("keydown", event => {
  if ($("keys").open || event.altKey || event.metaKey || (event.ctrlKey && !/^(Home|End)$/.test(event.key))) return;
  if (event.target.closest?.("select, input[type=range]") && !/^[1-9]$/.test(event.key)) return;
  const names = able(), tab = /^[1-9]$/.test(event.key) ? names[event.key - 1] : null;
  const both = {
    "?": () => $("keys").showModal(), t: () => $("theme").click(), s: () => next($("curve")), r: () => next($("range")), x: swap,
    f: () => { leaveFirst(look.first); say(look.first ? "First token kept" : "First token left out"); },
  }[event.key] ?? (tab ? () => go(tab) : null);
  if (both) both();
  else if (!($("head").hidden ? viewKey(event) : headKey(event))) return;
  event.preventDefault();
});

// What the view does not take itself: layers and heads of the lens, and the way back.
function viewKey(event) {
  if (views[current].key(event)) return true;
  const turn = { "[": ["layer", -1], "]": ["layer", 1], ",": ["head", -1], ".": ["head", 1] }[event.key];
  if (turn && views[current].lens && !$("lens").hidden) stepLens(...turn);
  else if (event.key === "Escape" && current !== "grid") go("grid");
  else return false;
  return true;
}

$("theme").onclick = () => relook({ theme: look.theme === "dark" ? "light" : "dark" });
$("help").onclick = () => $("keys").showModal();
$("curve").onchange = () => relook({ curve: $("curve").value });
$("range").onchange = () => relook({ range: $("range").value });
$("back").onclick = close;
$("as-lines").onclick = () => go("lines");
$("as-text").onclick = () => { Object.assign(reader, { by: -1, q: view.q }); go("text"); };
for (const [id, layers, heads] of [["layer-", -1, 0], ["layer+", 1, 0], ["head-", 0, -1], ["head+", 0, 1]]) $(id).onclick = () => turn(layers, heads);
$("zoom-").onclick = () => resize(.8);
$("zoom+").onclick = () => resize(1.25);
let pointer = [];
$("plot").addEventListener("scroll", redraw, { passive: true });
$("plot").addEventListener("pointermove", event => {
  const still = event.clientX === pointer[0] && event.clientY === pointer[1];  // the sheet moved under it, not the hand
  pointer = [event.clientX, event.clientY];
  const at = still || view.held || event.pointerType === "touch" ? null : pointAt(event);
  if (at && (at[0] !== view.y || at[1] !== view.x)) choose(...at);
});
$("plot").addEventListener("click", event => {
  const at = pointAt(event);
  if (!at) return;
  view.held = !(view.held && at[0] === view.y && at[1] === view.x);
  choose(...at, { speak: true });
});
addEventListener("hashchange", route);
let settling = 0;
addEventListener("resize", () => {
  if (view.map && !$("head").hidden) measure();
  clearTimeout(settling);
  settling = setTimeout(() => { paintGrid(); if (/^(lines|cross|compare)$/.test(current)) refresh(); }, 200);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", event => relook({ theme: event.matches ? "dark" : "light" }));
let screenTheme = null;  // paper is white
addEventListener("beforeprint", () => {
  screenTheme = look.theme;
  document.documentElement.dataset.theme = look.theme = "light";
  drawLegend();
  view.image = null;
  if (!$("head").hidden) printHead();
  else if (current === "grid") page.maps.filter(map => map.decoded).forEach(map => map.thumbs.forEach(paintThumb));
  else relook();  // colours of words, lines and tables are of the theme
});
function printHead() {
  const sheet = $("sheet");  // all of it, not what the window shows
  Object.assign($("plot").style, { width: `${Math.min(sheet.offsetWidth, 4000) + 2}px`, height: `${Math.min(sheet.offsetHeight, 4000) + 2}px` });
  colourReading();
  draw();
}
addEventListener("afterprint", () => {
  relook({ theme: screenTheme });
  if (view.map) measure();
});

let starting = true;
async function start() {
  settle();
  starting = false;
  if (location.hash) route();
  else await go(page.explanations.length ? "text" : "grid", { silent: true });
}

function fail(error) {
  $("trouble").hidden = false;
  $("trouble").textContent = `The maps cannot be shown: ${error.message}`;
  throw error;
}
if (typeof DecompressionStream === "undefined") fail(new Error("this browser is too old to unpack the maps (it lacks DecompressionStream)"));
start().catch(fail);
