// The text itself, coloured by what a chosen token, class or head used, its words intact.
const reader = { by: -1, target: 0, q: null, texts: [], query: null };  // by: -1 = attention, else the number of an explanation

function buildText() {
  Object.assign(reader, { by: page.explanations.length ? 0 : -1, target: 0, q: null, key: "" });
  $("by").replaceChildren(make("option", { value: -1, textContent: "attention" }),
    ...page.explanations.map((one, i) => make("option", { value: i, textContent: one.method.replaceAll("_", " ") })));
  $("by").closest("label").hidden = !page.explanations.length;
}

async function showText() {
  drawLegend();
  $("lens").hidden = reader.by >= 0;
  $("by").value = reader.by;
  $("of").closest("label").hidden = reader.by < 0;
  if (reader.by >= 0) return showExplained(page.explanations[reader.by]);
  fillLens();
  await lensReady();
  const [q, k] = lensTexts(), key = `a${q}.${k}`;
  if (reader.key !== key) layText([[k, "keys"], ...(q === k ? [] : [[q, "queries"]])], key, at => { reader.q = at; paintText(true); });
  const most = page.texts[q].length - 1;
  reader.q = clamp(reader.q ?? (page.steps ? most : Math.min(most, 5)), 0, most);
  paintText(false);
}

function layText(parts, key, choose) {
  reader.key = key;
  reader.texts = parts.map(([index, role]) => ({ index, role, ...wordText(index, role === "keys" && parts.length > 1 ? () => {} : choose) }));
  const heading = { keys: parts.length > 1 ? "What it used" : "The text: choose a word", queries: "Choose one of its words", source: "Source", text: "Text" };
  $("prose").replaceChildren(...reader.texts.flatMap(one => [make("h3", { textContent: heading[one.role] }), one.element]));
}

function paintText(speak) {
  const [q, k] = lensTexts(), row = takenByAll(lensHeads(), reader.q), keys = reader.texts[0], queries = reader.texts[1] ?? keys;
  const name = page.texts[q][reader.q], hidden = look.first ? null : t => t === 0;
  const { sums, most } = colourWords(keys, row.values, { hidden });
  markWord(queries, reader.q);
  const order = largestWords(sums, 12);
  $("used").replaceChildren("What ", token(name), " used");
  $("used-where").textContent = `token ${reader.q} of ${page.texts[q].length}; ${lensName()}; ${kindText[row.kind]}`;
  barList($("used-most"), order.map(i => ({ text: keys.words[i].span.textContent, value: sums[i], exact: row.digits,
    act: q === k ? () => { reader.q = keys.words[i].tokens.at(-1); paintText(true); } : null })));
  if (row.rest > 0) $("used-most").append(restOf(row));
  $("scale-note").textContent = `Strongest: ${number(most, row.digits)}. A word has the sum of its tokens.` + (look.first ? "" : " The first token is left out.");
  if (speak) {
    reader.texts.at(-1).spans[reader.q]?.scrollIntoView({ block: "nearest" });
    say(`${name}, token ${reader.q}, used most ${order.slice(0, 3).map(i => `${keys.words[i].span.textContent} ${number(sums[i], false)}`).join(", ")}.`);
  }
}

// -- explanations ------------------------------------------------------------------------------------------------------
async function showExplained(one) {
  for (const side of one.sides) side.scores ??= halvesOf(await inflate(side.data));
  $("of").replaceChildren(...one.targets.map((name, i) => make("option", { value: i, textContent: short(name, 40) })));
  reader.target = clamp(reader.target, 0, one.targets.length - 1);
  $("of").value = reader.target;
  const key = `e${reader.by}`;
  if (reader.key !== key) layText(one.sides.map(side => [side.text, side.name]), key, at => {
    const found = one.columns.indexOf(at - 1);  // the token in the column after the one it was read off
    if (found >= 0) { reader.target = found; showExplained(one); }
  });
  paintExplained(one, false);
}

function paintExplained(one, speak) {
  const n = reader.target, rows = one.sides.map(side => {
    const size = page.texts[side.text].length;
    return side.scores.subarray(n * size, (n + 1) * size).map(share => share * side.top);
  });
  let most = 1e-30;
  reader.texts.forEach((text, i) => { for (const word of text.words) most = Math.max(most, Math.abs(word.tokens.reduce((sum, t) => sum + rows[i][t], 0))); });
  const all = reader.texts.flatMap((text, i) => {
    const { sums } = colourWords(text, rows[i], { signed: one.signed, top: most });
    markWord(text, one.sides[i].name === "text" && one.columns[n] !== null && one.targets.length > 1 ? one.columns[n] + 1 : []);
    return sums.map((value, w) => ({ text: text.words[w].span.textContent, value }));
  });
  all.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  $("used").replaceChildren("What ", token(one.targets[n]), " comes from");
  $("used-where").textContent = `${one.method.replaceAll("_", " ")}; probability ${number(Math.exp(one.logprobs[n]), false)}`;
  barList($("used-most"), all.filter(entry => entry.value).slice(0, 12), one.signed);
  $("scale-note").textContent = one.signed ? `Orange speaks for it, blue against it; strongest ${number(most)}.` : `Strongest: ${number(most)}; an amount, with no sign.`;
  if (speak) say(`${one.targets[n]}: ${all.slice(0, 3).map(entry => `${entry.text} ${number(entry.value, false)}`).join(", ")}.`);
}

function textKey(event) {
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10, Home: -Infinity, End: Infinity }[event.key];
  if (!by || event.target.closest?.("select")) return false;
  if (reader.by >= 0) {
    const one = page.explanations[reader.by];
    reader.target = clamp(reader.target + by, 0, one.targets.length - 1);
    $("of").value = reader.target;
    paintExplained(one, true);
  } else {
    reader.q = clamp(reader.q + by * (event.shiftKey ? 10 : 1), 0, page.texts[lensTexts()[0]].length - 1);
    paintText(true);
  }
  return true;
}
