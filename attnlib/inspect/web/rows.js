// What one query takes from every key of the text, of as much as travelled: all of it, its largest targets, or the means of tiles.

// { values [K], kind: "exact", "near" (256 steps), "top" or "mean", rest, digits: whether all are to be trusted } of query q.
function taken(map, h, q) {
  const row = takenAs(map, h, q);
  return { ...row, digits: row.kind === "exact" || row.kind === "top" };
}
function takenAs(map, h, q) {
  const [, rows, columns] = map.shape, [stepQ, stepK] = map.steps, keys = page.texts[map.texts[1]].length;
  const y = Math.min(q / stepQ | 0, rows - 1), tile = headOf(map, h).subarray(y * columns, (y + 1) * columns);
  if (stepQ === 1 && stepK === 1) return { values: tile, kind: map.exact ? "exact" : "near", rest: 0 };
  const full = map.rows?.numbers.indexOf(q) ?? -1;
  if (full >= 0) {
    const from = (full * map.shape[0] + h) * keys;
    return { values: map.rows.data.subarray(from, from + keys), kind: "exact", rest: 0 };
  }
  const values = new Float32Array(keys), top = map.tops?.[h];
  if (top) {
    for (let i = q * top.count; i < (q + 1) * top.count; i++) if (top.keys[i] >= 0) values[top.keys[i]] = top.weights[i];
    return { values, kind: "top", rest: top.rest[q] };
  }
  for (let k = 0; k < keys; k++) values[k] = tile[k / stepK | 0];
  return { values, kind: "mean", rest: 0 };
}

const kindText = { exact: "exact weights", near: "weights in 256 steps", top: "the 16 largest targets, exact", mean: "means of tiles" };

// The mean of several heads of several maps over the same two texts.
function takenByAll(heads, q) {
  if (heads.length === 1) return taken(...heads[0], q);
  let sum = null, kind = "exact";
  for (const [map, h] of heads) {
    const one = map.steps[0] > 1 || map.steps[1] > 1 ? meanRow(map, h, q) : taken(map, h, q);
    sum ??= new Float32Array(one.values.length);
    for (let i = 0; i < sum.length; i++) sum[i] += one.values[i];
    if (one.kind !== "exact") kind = one.kind;
  }
  for (let i = 0; i < sum.length; i++) sum[i] /= heads.length;
  return { values: sum, kind, rest: 0, digits: kind === "exact" };
}

function meanRow(map, h, q) {
  const plain = { ...map, tops: null, rows: null };
  return taken(plain, h, q);
}

// The cells of several heads averaged, as they travelled: [rows * columns].
function meanCells(heads) {
  const [, rows, columns] = heads[0][0].shape, sum = new Float32Array(rows * columns);
  for (const [map, h] of heads) {
    const one = headOf(map, h);
    for (let i = 0; i < sum.length; i++) sum[i] += one[i];
  }
  for (let i = 0; i < sum.length; i++) sum[i] /= heads.length;
  return sum;
}

// The largest of a row as keys, without the first token where that is left out.
function largest(values, count) {
  const from = look.first ? 0 : 1, found = [];
  for (let k = from; k < values.length; k++) {
    const w = values[k];
    if (!(w > 0) || (found.length === count && w <= values[found[count - 1]])) continue;
    let at = found.length;
    while (at && values[found[at - 1]] < w) at--;
    found.splice(at, 0, k);
    if (found.length > count) found.pop();
  }
  return found;
}
const highest = values => {
  let most = 0;
  for (let i = look.first ? 0 : 1; i < values.length; i++) most = Math.max(most, values[i]);
  return most;
};
