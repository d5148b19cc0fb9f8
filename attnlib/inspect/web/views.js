// The views of the page and the way between them: tabs, number keys, and the address.
const views = {
  grid: { label: "All heads", show: paintGrid, key: event => gridKey(event) },
  text: { label: "Text", show: showText, key: textKey, lens: true },
  lines: { label: "Lines", show: showLines, key: linesKey, lens: true },
  cross: { label: "Source & target", show: showCross, key: crossKey, lens: true, needs: () => page.groups.some((_, g) => isCross(g)) },
  writing: { label: "Writing", show: showWriting, key: writingKey, lens: true, needs: () => page.steps && selfGroup() >= 0 },
  report: { label: "Head report", show: showReport, key: tableKey },
  compare: { label: "Side by side", show: showCompare, key: compareKey, needs: () => book.exhibits.length > 1 },
};
let current = "grid";
const able = () => Object.keys(views).filter(name => !views[name].needs || views[name].needs());

function buildTabs() {
  $("tabs").replaceChildren(...able().map((name, i) => {
    const tab = make("button", { type: "button", id: `tab-${name}` }, views[name].label, make("kbd", { textContent: i + 1, ariaHidden: "true" }));
    tab.setAttribute("aria-keyshortcuts", String(i + 1));
    tab.onclick = () => go(name);
    return tab;
  }));
  $("other").hidden = book.exhibits.length < 2;
  $("other").textContent = `${"AB"[book.exhibits.indexOf(page)]}: ${short(page.name || "", 22)}`;
}

function address(text) {
  if (location.hash.slice(1) !== text) location.hash = text;
}

// To a view; the one-head view is a room of the grid and has an address of its own.
async function go(name, { silent = false } = {}) {
  if (!able().includes(name)) name = "grid";
  if (name !== "writing") play(false);
  current = name;
  for (const other of Object.keys(views)) $(other).hidden = other !== name;
  $("head").hidden = true;
  $("lens").hidden = !views[name].lens;
  for (const tab of $("tabs").children) tab.toggleAttribute("aria-current", tab.id === `tab-${name}`);
  document.querySelector("#tabs [aria-current]")?.setAttribute("aria-current", "page");
  if (name !== "grid") address(`/${name}`);  // no element has this for its id, so nothing jumps
  else if (location.hash) address("");
  drawLegend();
  await views[name].show();
  document.documentElement.dataset.view = name;
  if (!silent) say(views[name].label);
}

async function refresh() {
  if ($("head").hidden) {
    drawLegend();
    await views[current].show();
  }
}

// The other exhibit.
function swap() {
  if (book.exhibits.length < 2) return;
  page = book.exhibits[1 - book.exhibits.indexOf(page)];
  view.map = null;
  alignment.key = reader.key = wires.key = player.key = "";
  $("grid").replaceChildren();
  thumbs.length = 0;
  settle();
  go(current === "compare" ? "grid" : current, { silent: true });
  say(`Shown: ${page.name}`);
}

// What is made anew for the exhibit that is shown.
function settle() {
  const heads = page.maps.reduce((sum, map) => sum + map.shape[0], 0), exact = page.maps.every(map => map.exact);
  const tiled = page.maps.some(map => map.steps.some(step => step > 1));
  const held = exact ? "weights as float16" : tiled ? "long text, drawn as means of tiles" : "weights in 256 steps a head";
  $("summary").textContent = `${count(heads, "head")} in ${count(page.maps.length, "attention layer")}; ${held}`;
  if (tiled) look.curve = "log";  // means over many keys are small, and a few tiles are not
  buildGrid();
  buildLens();
  buildText();
  buildTabs();
  relook();
}

for (const what of ["group", "layer", "head"]) $(`lens-${what}`).onchange = event => turnLens({ [what]: lensValue(event.target.value), ...(what === "group" ? { layer: null, head: null } : {}) });
$("pair-group").onchange = event => { Object.assign(pair, { group: +event.target.value, key: "" }); showCompare(); };
$("by").onchange = event => { Object.assign(reader, { by: +event.target.value, target: 0 }); showText(); };
$("of").onchange = event => { reader.target = +event.target.value; paintExplained(page.explanations[reader.by], true); };
$("other").onclick = swap;
$("play").onclick = () => play();
$("step-").onclick = () => { play(false); step(player.at - 1, true); };
$("step+").onclick = () => { play(false); step(player.at + 1, true); };
$("step-range").oninput = event => { play(false); step(+event.target.value, false); };
$("pace").onchange = () => { if (player.timer) play(true); };
$("token-").onclick = () => stepToken(-1);
$("token+").onclick = () => stepToken(1);
$("first").onchange = event => leaveFirst(event.target.checked);
function leaveFirst(out) {
  look.first = !out;
  $("first").checked = out;
  refresh();
}
