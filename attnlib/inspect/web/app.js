// Which of the two views stands, the keys and buttons of both, and the scale of colours.
let speaking = 0;
function say(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => { $("live").textContent = text; }, 120);  // not every cell of a held key
}

async function open(index, h) {
  const fresh = $("head").hidden;
  $("grid").hidden = true;
  $("head").hidden = false;
  if (fresh) view.map = null;
  const address = `#${index}.${h}`;
  if (location.hash !== address) location.hash = address;
  await showHead(index, h);
  if (fresh) { scrollTo(0, 0); measure(); $("plot").focus({ preventScroll: true }); }
  const value = number(valueAt(view.y, view.x), view.map.exact);
  say(`${view.map.name}, head ${h}. Query ${spanOf(0, view.y).text}, key ${spanOf(1, view.x).text}, weight ${value}.`);
}

function close() {
  if ($("head").hidden) return;
  $("head").hidden = true;
  $("grid").hidden = false;
  if (location.hash) location.hash = "";
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
  const [index, h] = location.hash.slice(1).split(".").map(Number), map = location.hash ? page.maps[index] : null;
  if (!map || !(h >= 0 && h < map.shape[0])) close();
  else if ($("head").hidden || view.index !== index || view.h !== h) open(index, h);
}

function relook(change = {}) {
  Object.assign(look, change);
  document.documentElement.dataset.theme = look.theme;
  $("theme").textContent = look.theme === "dark" ? "Light" : "Dark";
  $("curve").value = look.curve;
  $("range").value = look.range;
  drawLegend();
  view.image = null;
  if (view.map) { colourReading(); redraw(); }
  paintGrid();
}

function drawLegend() {
  const ramp = $("ramp").getContext("2d"), image = ramp.createImageData(256, 1);
  new Uint32Array(image.data.buffer).set(words32[look.theme]);
  ramp.putImageData(image, 0, 0);
  const top = look.range === "one" ? 1 : look.range === "page" ? peak : null, parts = { root: [0, .1, .4, 1], linear: [0, .25, .5, 1], log: [1e-4, .01, 1] }[look.curve];
  const text = part => top === null ? part === 1 ? "highest" : part ? `${100 * part}%` : "0" : String(+(part * top).toPrecision(2)).replace("-", "−");
  $("ticks").replaceChildren(...parts.map(part => {
    const tick = make("span", { textContent: text(part) });
    tick.style.left = `${100 * bend(part)}%`;
    return tick;
  }));
  $("legend").setAttribute("aria-label", `Colours of weights from 0 to ${top === null ? "the highest of each head" : number(top)}, ${$("curve").selectedOptions[0].textContent} scale`);
}

function next(select) {
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change"));
  say(`${select.closest("label").firstChild.textContent} ${select.selectedOptions[0].textContent}`);
}

document.addEventListener("keydown", event => {
  if ($("keys").open || event.altKey || event.metaKey || (event.ctrlKey && !/^(Home|End)$/.test(event.key))) return;
  if (event.target.closest?.("select")) return;
  const both = {
    "?": () => $("keys").showModal(), t: () => $("theme").click(), s: () => next($("curve")), r: () => next($("range")),
  }[event.key];
  if (both) both();
  else if (!($("head").hidden ? gridKey(event) : headKey(event))) return;
  event.preventDefault();
});

$("theme").onclick = () => relook({ theme: look.theme === "dark" ? "light" : "dark" });
$("help").onclick = () => $("keys").showModal();
$("curve").onchange = () => relook({ curve: $("curve").value });
$("range").onchange = () => relook({ range: $("range").value });
$("back").onclick = close;
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
  settling = setTimeout(paintGrid, 200);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", event => relook({ theme: event.matches ? "dark" : "light" }));
let screenTheme = null;  // paper is white
addEventListener("beforeprint", () => {
  screenTheme = look.theme;
  document.documentElement.dataset.theme = look.theme = "light";
  drawLegend();
  view.image = null;
  if ($("head").hidden) page.maps.filter(map => map.decoded).forEach(map => map.thumbs.forEach(paintThumb));
  else {
    const sheet = $("sheet");  // all of it, not what the window shows
    Object.assign($("plot").style, { width: `${Math.min(sheet.offsetWidth, 4000) + 2}px`, height: `${Math.min(sheet.offsetHeight, 4000) + 2}px` });
    colourReading();
    draw();
  }
});
addEventListener("afterprint", () => {
  relook({ theme: screenTheme });
  if (view.map) measure();
});

function start() {
  const heads = page.maps.reduce((sum, map) => sum + map.shape[0], 0), exact = page.maps.every(map => map.exact);
  const tiled = page.maps.some(map => map.steps.some(step => step > 1));
  const held = exact ? "weights as float16" : tiled ? "long text, drawn as means of tiles" : "weights in 256 steps a head";
  $("summary").textContent = `${count(heads, "head")} in ${count(page.maps.length, "attention layer")}; ${held}`;
  if (tiled) look.curve = "log";  // means over many keys are small, and a few tiles are not
  buildGrid();
  relook();
  route();
}

try {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old to unpack the maps (it lacks DecompressionStream)");
  start();
} catch (error) {
  $("trouble").hidden = false;
  $("trouble").textContent = `The maps cannot be shown: ${error.message}`;
  throw error;
}
