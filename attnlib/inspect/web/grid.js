// All heads: a group for each stack and kind of attention, a row for each layer, a button for each head.
const thumbs = [];  // rows of buttons over all groups, as the arrow keys walk them

function buildGrid() {
  const used = new Set(page.maps.flatMap(map => map.texts));
  for (const index of used) {
    const tokens = page.texts[index], text = make("p", { className: "text", dir: directionOf(tokens), tabIndex: tokens.length > 150 ? 0 : -1 });
    if (tokens.length > 150) Object.assign(text, { role: "region", ariaLabel: "The text" });
    for (const one of tokens.slice(0, 1200)) text.append(token(one), make("wbr"));
    if (tokens.length > 1200) text.append(" …");
    $("grid").append(text);
  }
  page.groups.forEach((group, g) => $("grid").append(buildGroup(group, g)));
  thumbs[0][0].tabIndex = 0;
}

function buildGroup(group, g) {
  const maps = group.maps.map(index => page.maps[index]), wide = Math.max(...maps.map(map => map.shape[0]));
  const [queries, keys] = maps[0].texts.map(index => page.texts[index].length);
  const tokens = queries === keys ? count(queries, "token") : `${count(queries, "query token")}, ${count(keys, "key token")}`;
  const mean = maps[0].steps.some(step => step > 1) ? `; a dot is the mean of ${maps[0].steps.join(" × ")} tokens` : "";
  const grid = make("div", { className: "heads", role: "grid" });
  grid.setAttribute("aria-label", group.label);
  grid.style.setProperty("--heads", wide);
  grid.style.setProperty("--thumb", wide > 8 ? "7.5rem" : wide > 4 ? "9.5rem" : "12rem");
  grid.append(make("div", { className: "row names", ariaHidden: "true" }, make("span"),
    ...Array.from({ length: wide }, (_, h) => make("span", { textContent: h ? String(h) : "head 0" }))));
  group.maps.forEach((index, row) => grid.append(buildRow(index, row)));
  return make("section", { className: "group" }, make("header", {}, make("h2", { id: `group${g}`, textContent: group.label }),
    make("p", { textContent: `${count(maps.length, "layer")} × ${count(wide, "head")}, ${tokens}${mean}` })), grid);
}

function buildRow(index, row) {
  const map = page.maps[index], buttons = Array.from({ length: map.shape[0] }, (_, h) => {
    const canvas = make("canvas", { width: 1, height: 1, ariaHidden: "true" });
    canvas.style.aspectRatio = `${clamp(map.shape[2] / map.shape[1], .34, 4)}`;
    const button = make("button", { type: "button", className: "thumb", tabIndex: -1, role: "gridcell" }, canvas);
    button.setAttribute("aria-label", `${map.name}, head ${map.numbers[h]}, highest weight ${number(map.peaks[h])}`);
    button.onclick = () => open(index, h);
    Object.assign(button, { map, h, index });
    return button;
  });
  thumbs.push(buttons);
  map.thumbs = buttons;
  const label = map.layer === null ? "" : row ? String(map.layer) : `layer ${map.layer}`;
  return make("div", { className: "row", role: "row" }, make("span", { textContent: label, ariaHidden: "true" }), ...buttons);
}

function paintThumb(button) {
  const canvas = button.firstChild, image = paint(button.map, button.h), context = canvas.getContext("2d");
  const wide = Math.round((canvas.clientWidth || 120) * devicePixelRatio), high = Math.round((canvas.clientHeight || 120) * devicePixelRatio);
  Object.assign(canvas, { width: wide, height: high });
  context.imageSmoothingEnabled = image.width > wide || image.height > high;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, wide, high);
}

// Map after map, giving the browser its turn between them, so that no frame waits for all.
let round = 0;
async function paintGrid() {
  const mine = ++round;
  for (const map of page.maps) {
    await weights(map);
    if ($("grid").hidden) continue;  // decoded for the other views; painted when it is seen
    let since = performance.now();
    for (const button of map.thumbs ?? []) {
      if (mine !== round) return;
      paintThumb(button);
      if (performance.now() - since > 12) {
        await new Promise(done => setTimeout(done));
        since = performance.now();
      }
    }
  }
  if (mine === round) document.documentElement.dataset.painted = String(mine);
}

function focusThumb(button) {
  for (const row of thumbs) for (const one of row) one.tabIndex = -1;
  button.tabIndex = 0;
  button.focus();
}

function gridKey(event) {
  const at = event.target.closest?.(".thumb");
  if (!at) return false;
  const y = thumbs.findIndex(row => row.includes(at)), x = thumbs[y].indexOf(at), all = event.ctrlKey;
  const move = {
    ArrowLeft: [y, x - 1], ArrowRight: [y, x + 1], ArrowUp: [y - 1, x], ArrowDown: [y + 1, x],
    Home: [all ? 0 : y, 0], End: [all ? thumbs.length - 1 : y, Infinity],
    PageUp: [y - 4, x], PageDown: [y + 4, x], "[": [y - 1, x], "]": [y + 1, x], ",": [y, x - 1], ".": [y, x + 1],
  }[event.key];
  if (!move) return false;
  const row = thumbs[clamp(move[0], 0, thumbs.length - 1)];
  focusThumb(row[clamp(move[1], 0, row.length - 1)]);
  return true;
}
