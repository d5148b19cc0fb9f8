// A text with its words intact: what was typed, gaps and all, and what the tokenizer added as marks beside it.
const CHUNK = 160;  // words of a block that the browser need not lay out before it is seen

// { element, spans: the element of each token, words: [{ span, tokens }] }
function wordText(index, choose, { small = false } = {}) {
  const tokens = page.texts[index], known = page.words[index], words = [], spans = [];
  const element = make("div", { className: small ? "prose small" : "prose", dir: directionOf(tokens) });
  const long = tokens.length > 1500;
  let block = long ? element.appendChild(make("div", { className: "block" })) : element;
  const put = (span, mine) => {
    words.push({ span, tokens: mine });
    for (const t of mine) spans[t] = span;
    span.translate = false;
    span.onclick = event => choose(mine[mine.length - 1], event, mine);
    block.append(span);
    if (long && words.length % CHUNK === 0) block = element.appendChild(make("div", { className: "block" }));
  };
  const mark = t => { const span = token(tokens[t]); span.className = "mark"; put(span, [t]); };
  if (!known) {
    tokens.forEach((text, t) => { put(token(text), [t]); block.append(make("wbr")); });
    return { element, spans, words };
  }
  const members = known.parts.length > 1 ? Array.from({ length: known.parts.length >> 1 }, () => []) : [];
  known.of.forEach((word, t) => { if (word >= 0) members[word].push(t); });
  let at = 0;  // tokens put so far
  const added = until => { for (; at < until; at++) if (known.of[at] < 0) mark(at); };
  known.parts.forEach((part, i) => {
    if (i % 2 === 0) { if (part) block.append(part); return; }
    const mine = members[i >> 1];
    if (mine.length) added(mine[0]);
    put(make("bdi", { textContent: part }), mine);
  });
  added(tokens.length);
  return { element, spans, words };
}

// Colours by token: the sum of a word's tokens. Sums are of what is shown, so the first token may be left out.
function colourWords(text, values, { signed = false, top = null, hidden = null } = {}) {
  const sums = text.words.map(word => word.tokens.reduce((sum, t) => sum + (hidden?.(t) ? 0 : values[t] ?? 0), 0));
  const most = top ?? (Math.max(...sums.map(Math.abs)) || 1);
  text.words.forEach((word, i) => {
    const share = sums[i] / most, paint = signed ? signedColour(share) : ramps[look.theme][Math.round(255 * bend(clamp(share, 0, 1)))];
    const blank = Math.abs(share) < .004, key = blank ? "" : paint.join();
    if (word.key === key) return;
    word.key = key;
    word.span.style.background = blank ? "" : `rgb(${key})`;
    word.span.style.color = blank ? "" : inkOn(paint);
  });
  return { sums, most };
}

const largestWords = (sums, count) => Array.from(sums.keys()).filter(i => sums[i] > 0).sort((a, b) => sums[b] - sums[a]).slice(0, count);
const wordBars = (text, sums, count, exact) => largestWords(sums, count).map(i => ({ text: text.words[i].span.textContent, value: sums[i], exact }));

const restOf = row => make("li", { className: "still" }, "all other tokens", make("span", { textContent: number(row.rest) }));

function markWord(text, tokens, name = "at") {
  for (const span of text.element.querySelectorAll(`[data-${name}]`)) delete span.dataset[name];
  for (const t of [tokens].flat()) if (text.spans[t]) text.spans[t].dataset[name] = "";
}

// A list of bars: [{ text, value, act }], the longest as wide as the list.
function barList(list, entries, signed = false) {
  const most = Math.max(...entries.map(one => Math.abs(one.value)), 1e-30);
  list.replaceChildren(...entries.map(one => {
    const bar = make("b"), item = make("li", {}, bar, token(short(one.text, 24)), make("span", { textContent: (one.value < 0 ? "−" : "") + number(Math.abs(one.value), one.exact ?? true) }));
    bar.style.width = `${100 * Math.abs(one.value) / most}%`;
    if (signed) bar.className = one.value < 0 ? "against" : "for";
    if (one.chosen) item.dataset.at = "";
    if (one.act) item.onclick = one.act;
    else item.className = "still";
    return item;
  }));
}
