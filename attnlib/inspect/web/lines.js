// Lines between tokens, queries on the left and keys on the right; the stronger the weight, the stronger the line.
const LINES = 200;  // most tokens of a side
const wires = { side: 0, at: null, off: new Set(), lists: [null, null], key: "" };
const hues = { light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#3f7fae", "#6b4c9a", "#444444"],
  dark: ["#56b4e9", "#ff9d5c", "#2fc79a", "#e6a3c8", "#f0e442", "#8ecae6", "#b39ddb", "#dddddd"] };

async function showLines() {
  fillLens(() => true, true);
  const [q, k] = lensTexts(), sizes = [page.texts[q].length, page.texts[k].length], long = Math.max(...sizes) > LINES;
  $("too-long").hidden = !long;
  $("wires").hidden = $("line-heads").hidden = long;
  $("too-long").textContent = `Lines are for texts of up to ${LINES} tokens; this one has ${Math.max(...sizes).toLocaleString("en")}. All heads, Text and Head report show it.`;
  if (long) return;
  await lensReady();
  const key = `${book.exhibits.indexOf(page)}.${q}.${k}`;
  if (wires.key !== key) {
    Object.assign(wires, { key, at: null, side: 0, off: new Set() });
    wires.lists = [q, k].map((index, side) => {
      const list = $(side ? "wire-keys" : "wire-queries");
      list.dir = directionOf(page.texts[index]);
      list.replaceChildren(...page.texts[index].map((text, at) => {
        const item = make("li", {}, token(short(text, 26)));
        item.onclick = () => wire(wires.side === side && wires.at === at ? null : at, side, true);
        return item;
      }));
      return list;
    });
  }
  const heads = lensHeads(), each = lens.head === "each";
  $("line-heads").replaceChildren(...(each ? heads.map(([map, h]) => {
    const chip = make("button", { type: "button", className: "chip", textContent: `head ${map.numbers[h]}` });
    chip.style.setProperty("--hue", hues[look.theme][h % 8]);
    chip.setAttribute("aria-pressed", String(!wires.off.has(h)));
    chip.onclick = () => { wires.off.has(h) ? wires.off.delete(h) : wires.off.add(h); showLines(); };
    return chip;
  }) : []));
  drawLines();
}

function wire(at, side = wires.side, speak = false) {
  Object.assign(wires, { at: at === null ? null : clamp(at, 0, wires.lists[side].children.length - 1), side });
  drawLines();
  if (wires.at !== null) wires.lists[side].children[wires.at].scrollIntoView({ block: "nearest" });
  if (!speak) return;
  if (wires.at === null) return say("All tokens");
  const text = page.texts[lensTexts()[side]][wires.at], row = wireRow(wires.at, side);
  say(`${text}: ${largest(row, 3).map(i => `${page.texts[lensTexts()[1 - side]][i]} ${number(row[i], false)}`).join(", ")}`);
}

// What a query takes from each key, or what a key gives to each query.
function wireRow(at, side) {
  if (side === 0) return takenByAll(lensHeads(), at).values;
  const cells = meanCells(lensHeads()), [, rows, columns] = lensHeads()[0][0].shape;
  return Float32Array.from({ length: rows }, (_, q) => cells[q * columns + at]);
}

function drawLines() {
  const canvas = $("wire-canvas"), c = canvas.getContext("2d"), dots = devicePixelRatio, box = canvas.parentElement;
  const [left, right] = wires.lists, high = Math.max(left.offsetHeight, right.offsetHeight), wide = canvas.clientWidth || 240;
  Object.assign(canvas, { width: Math.round(wide * dots), height: Math.round(high * dots) });
  canvas.style.height = `${high}px`;
  c.setTransform(dots, 0, 0, dots, 0, 0);
  const each = lens.head === "each", heads = lensHeads().filter(([, h]) => !each || !wires.off.has(h));
  const sets = !heads.length ? [] : each ? heads.map(([map, h]) => [[map, h]]) : [heads];
  const middle = item => item.offsetTop + item.offsetHeight / 2, ys = [left, right].map(list => Array.from(list.children, middle));
  const sums = [new Float32Array(ys[0].length), new Float32Array(ys[1].length)];
  let most = 1e-30;
  const cells = sets.map(meanCells), columns = ys[1].length;
  const from = look.first ? 0 : 1, visible = (q, k) => k >= from && (wires.at === null || (wires.side ? k : q) === wires.at);
  for (const one of cells) for (let q = 0; q < ys[0].length; q++) for (let k = from; k < columns; k++) if (visible(q, k)) most = Math.max(most, one[q * columns + k]);
  cells.forEach((one, n) => {
    c.strokeStyle = each ? hues[look.theme][sets[n][0][1] % 8] : markColour();
    for (let q = 0; q < ys[0].length; q++) for (let k = from; k < columns; k++) {
      const w = one[q * columns + k] / most;
      if (!visible(q, k) || w < .02) continue;
      sums[0][q] = Math.max(sums[0][q], w);
      sums[1][k] = Math.max(sums[1][k], w);
      const a = ys[0][q], b = ys[1][k];
      c.globalAlpha = Math.min(1, w * (wires.at === null ? .75 : 1));
      c.lineWidth = .6 + 2.2 * w;
      c.beginPath(); c.moveTo(0, a); c.bezierCurveTo(wide * .4, a, wide * .6, b, wide, b); c.stroke();
    }
  });
  c.globalAlpha = 1;
  [left, right].forEach((list, side) => Array.from(list.children).forEach((item, i) => {
    item.toggleAttribute("data-at", wires.at === i && wires.side === side);
    item.style.setProperty("--w", (wires.at === null ? 0 : side === wires.side ? 0 : sums[side][i]).toFixed(3));
  }));
  const what = wires.at === null ? "All tokens: choose one on either side" : `${wires.side ? "Who takes from" : "What is taken by"} “${page.texts[lensTexts()[wires.side]][wires.at]}”`;
  $("wire-note").textContent = `${each ? lensName().replace("mean of heads", "each head") : lensName()}. ${what}. Strongest line: ${number(most === 1e-30 ? 0 : most)}; lines under 2% of it are not drawn.` + (look.first ? "" : " The first key is left out.");
}

function linesKey(event) {
  if ($("wires").hidden || event.target.closest?.("select")) return false;
  const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
  if (by) wire(wires.at === null ? (by > 0 ? 0 : Infinity) : wires.at + by, wires.side, true);
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") wire(wires.at ?? 0, event.key === "ArrowLeft" ? 0 : 1, true);
  else if (event.key === "Escape" && wires.at !== null) wire(null, 0, true);
  else return false;
  return true;
}
