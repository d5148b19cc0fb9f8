// Two models or two texts side by side: how far their heads are apart, and one head of each beside the other.
const pair = { group: 0, layer: 0, h: 0, at: [0, 0], matrices: null, key: "", texts: [] };

// The groups that both have, of the same name or else of the same kind, as pairs of maps layer by layer.
function pairs() {
  const [a, b] = book.exhibits;
  return a.groups.flatMap(group => {
    const other = b.groups.find(one => one.label === group.label) ?? b.groups.find(one => b.maps[one.maps[0]].cross === a.maps[group.maps[0]].cross);
    const maps = other ? group.maps.slice(0, other.maps.length).map((i, layer) => [a.maps[i], b.maps[other.maps[layer]]]) : [];
    return maps.length ? [{ label: group.label, maps }] : [];
  });
}
const tokensIn = (n, index) => book.exhibits[n].texts[index];
const alike = ([a, b]) => [0, 1].every(side => tokensIn(0, a.texts[side]).join("\0") === tokensIn(1, b.texts[side]).join("\0")) && a.shape[1] === b.shape[1] && a.shape[2] === b.shape[2];

// Half the sum of |a - b| over keys, mean over queries: 0 = the same, 1 = nothing in common.
function apart(a, b, h) {
  const x = headOf(a, h), y = headOf(b, h), cells = a.steps[0] * a.steps[1];
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += Math.abs(x[i] - y[i]);
  return sum * (cells / a.steps[0]) / (2 * a.shape[1]);
}

async function showCompare() {
  const groups = pairs();
  $("apart-none").hidden = groups.length > 0;
  $("apart").hidden = !groups.length;
  if (!groups.length) return;
  pair.group = Math.min(pair.group, groups.length - 1);
  const { maps } = groups[pair.group];
  pair.layer = Math.min(pair.layer, maps.length - 1);
  await Promise.all(maps.flat().map(ready));
  const same = alike(maps[0]);
  $("pair-group").replaceChildren(...groups.map((group, g) => make("option", { value: g, textContent: group.label })));
  $("pair-group").value = pair.group;
  $("pair-group").closest("label").hidden = groups.length < 2;
  const rows = maps.map(([a, b], r) => ({ name: a.layer ?? r, values: Array.from({ length: Math.min(a.shape[0], b.shape[0]) }, (_, h) =>
    same ? apart(a, b, h) : (b.figures.entropy?.[h] ?? NaN) - (a.figures.entropy?.[h] ?? NaN)) }));
  const table = heatTable("How far apart", rows, (layer, h) => { Object.assign(pair, { layer, h }); showPair(true); }, { signed: !same });
  $("apart-what").textContent = same
    ? "Half the summed difference of weights, mean over queries: 0 the same, 1 nothing in common. Choose a head."
    : "The texts differ: entropy of the right less that of the left, in nats. Choose a head.";
  $("apart-table").replaceChildren(table);
  showPair(false);
}

async function showPair(speak) {
  const groups = pairs(), maps = groups[pair.group].maps[pair.layer], same = alike(maps);
  pair.h = Math.min(pair.h, maps[0].shape[0] - 1, maps[1].shape[0] - 1);
  pair.matrices ??= [0, 1, 2].map(n => new Matrix($(`pair-map${n}`), y => { pair.at[n % 2] = y; if (sameNow()) pair.at = [y, y]; showPair(true); }));
  const key = `${pair.group}.${maps.map(map => map.texts.join("-"))}`;
  if (pair.key !== key) {
    Object.assign(pair, { key, at: maps.map(map => Math.min(map.shape[1] - 1, 5)) });
    if (same) pair.at[1] = pair.at[0];
  }
  $("pair-name").textContent = `${groups[pair.group].label}, layer ${maps[0].layer ?? pair.layer}, head ${pair.h}`;
  const cells = maps.map(map => headOf(map, pair.h)), limit = Math.max(...cells.map(one => one.reduce((a, b) => Math.max(a, b), 0))) || 1;
  maps.forEach((map, n) => withExhibit(n, () => showHalf(map, n, cells[n], limit)));
  $("pair-third").hidden = !same;
  if (same) {
    const gap = cells[1].map((w, i) => w - cells[0][i]);
    withExhibit(0, () => pair.matrices[2].show(gap, maps[0].shape[1], maps[0].shape[2], [namesOf(maps[0], 0), namesOf(maps[0], 1)], { y: pair.at[0], signed: true }));
    $("pair-apart").textContent = `apart ${number(apart(...maps, pair.h), false)}; orange: more on the right, blue: more on the left`;
  }
  if (speak) say(`${$("pair-name").textContent}. ${maps.map((map, n) => `${book.exhibits[n].name || "AB"[n]}: ${$(`pair-most${n}`).textContent}`).join(" ")}`);
}
const sameNow = () => alike(pairs()[pair.group].maps[pair.layer]);

// Everything below looks at `page`; for a moment it is one of the two.
function withExhibit(n, act) {
  const before = page;
  page = book.exhibits[n];
  act();
  page = before;
}

function showHalf(map, n, cells, limit) {
  const y = pair.at[n] = Math.min(pair.at[n], map.shape[1] - 1), q = Math.min(y * map.steps[0], page.texts[map.texts[0]].length - 1), row = taken(map, pair.h, q);
  const best = largest(row.values, 3), names = [namesOf(map, 0), namesOf(map, 1)];
  $(`pair-title${n}`).textContent = page.name || `Side ${"AB"[n]}`;
  pair.matrices[n].show(cells, map.shape[1], map.shape[2], names, { y, x: best.length ? best[0] / map.steps[1] | 0 : -1, top: limit });
  const text = wordText(map.texts[1], () => {}, { small: true });
  colourWords(text, row.values, { top: Math.max(highest(row.values), 1e-30), hidden: look.first ? null : t => t === 0 });
  $(`pair-text${n}`).replaceChildren(text.element);
  $(`pair-most${n}`).replaceChildren(token(page.texts[map.texts[0]][q]), " takes most from ",
    ...best.flatMap((i, at) => [at ? ", " : "", token(page.texts[map.texts[1]][i]), ` ${number(row.values[i], row.digits)}`]));
}

function compareKey(event) {
  if (event.target.closest?.("select")) return false;
  if (event.target.closest?.(".heat button") && tableKey(event)) return true;
  const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10 }[event.key], { maps } = pairs()[pair.group] ?? { maps: [] };
  if (!maps.length) return false;
  const turn = { "[": [-1, 0], "]": [1, 0], ",": [0, -1], ".": [0, 1] }[event.key];
  if (by) pair.at = pair.at.map((y, n) => clamp(y + by, 0, maps[pair.layer][n].shape[1] - 1));
  else if (turn) Object.assign(pair, { layer: clamp(pair.layer + turn[0], 0, maps.length - 1), h: Math.max(pair.h + turn[1], 0) });
  else return false;
  showPair(true);
  return true;
}
