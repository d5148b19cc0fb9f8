// Source and target: which words of the source stand behind each token of the target, as one alignment.
const alignment = { y: 0, key: "", matrix: null, source: null, target: null };
const isCross = g => page.maps[page.groups[g].maps[0]].cross;

async function showCross() {
  fillLens(isCross);
  await lensReady();
  const [q, k] = lensTexts(), key = `${q}.${k}`;
  alignment.matrix ??= new Matrix($("align-map"), y => align(y, true));
  if (alignment.key !== key) {
    Object.assign(alignment, { key, y: 0, source: wordText(k, () => {}), target: wordText(q, at => align(Math.floor(at / lensMaps()[0].steps[0]), true)) });
    $("align-source").replaceChildren(alignment.source.element);
    $("align-target").replaceChildren(alignment.target.element);
  }
  align(alignment.y, false);
}

function align(y, speak) {
  const heads = lensHeads(), [map] = heads[0], [, rows, columns] = map.shape, [q] = lensTexts(), step = map.steps[0];
  alignment.y = y = clamp(y, 0, rows - 1);
  const token_ = Math.min(y * step, page.texts[q].length - 1), row = takenByAll(heads, token_), best = largest(row.values, 1);
  alignment.matrix.show(meanCells(heads), rows, columns, [namesOf(map, 0), namesOf(map, 1)], { y, x: best.length ? best[0] / map.steps[1] | 0 : -1 });
  const { sums, most } = colourWords(alignment.source, row.values, { hidden: look.first ? null : t => t === 0 });
  markWord(alignment.target, token_);
  $("align-what").replaceChildren(token(page.texts[q][token_]), " stands on");
  barList($("align-most"), wordBars(alignment.source, sums, 8, row.digits));
  $("align-note").textContent = `${lensName()}; token ${token_} of ${page.texts[q].length}; strongest word ${number(most, row.digits)}`;
  if (speak) say(`${page.texts[q][token_]} stands on ${wordBars(alignment.source, sums, 3).map(one => `${one.text} ${number(one.value, false)}`).join(", ")}.`);
}

function crossKey(event) {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity }[event.key];
  if (!by || event.target.closest?.("select")) return false;
  align(alignment.y + by * (event.shiftKey ? 10 : 1), true);
  return true;
}
