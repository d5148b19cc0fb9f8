// Writing, token by token: what was likely next, and what the text so far and the source were used for.
const player = { at: 0, timer: 0, key: "", own: null, source: null };

const selfGroup = () => page.groups.findIndex((_, g) => !isCross(g) && page.maps[page.groups[g].maps[0]].texts[0] === page.steps.text);
const crossGroup = () => page.groups.findIndex((_, g) => isCross(g) && page.maps[page.groups[g].maps[0]].texts[0] === page.steps.text);
const lastStep = () => page.steps.first + page.steps.chances.length - 1;

async function showWriting() {
  fillLens(g => g === selfGroup() || g === crossGroup());
  const groups = [selfGroup(), crossGroup()].filter(g => g >= 0);
  await Promise.all(groups.map(g => lensReady(g)));
  const { steps } = page, key = `${book.exhibits.indexOf(page)}.${steps.text}`;
  if (player.key !== key) {
    const cross = crossGroup();
    Object.assign(player, { key, at: steps.first, own: wordText(steps.text, at => step(at, true)),
      source: cross < 0 ? null : wordText(lensTexts(cross)[1], () => {}) });
    player.own.words.forEach(word => word.span.classList.toggle("given", steps.written !== null && word.tokens.at(-1) < steps.written));
    $("script").replaceChildren(...(player.source ? [make("h3", { textContent: "Source" }), player.source.element, make("h3", { textContent: "What was written" })] : []), player.own.element);
    Object.assign($("step-range"), { min: steps.first, max: lastStep() });
  }
  step(player.at, false);
  if (page.texts[steps.text].length > 1500) player.own.spans[player.at]?.scrollIntoView({ block: "center" });
}

// Show the choice of the token in a column: it was read off the column before it.
function step(at, speak) {
  const { steps } = page, tokens = page.texts[steps.text];
  player.at = at = clamp(at, steps.first, lastStep());
  const n = at - steps.first, chance = steps.chances[n];
  $("step-range").value = at;
  $("step-range").setAttribute("aria-valuetext", `token ${at}, ${tokens[at]}`);
  $("step-count").textContent = `${at} of ${tokens.length - 1}`;
  player.own.words.forEach(word => word.span.classList.toggle("unwritten", word.tokens[0] > at));
  const parts = [selfGroup(), crossGroup()].map((g, i) => g < 0 || !lensMaps(g).length ? null : [i ? player.source : player.own, takenByAll(lensHeads(g), at - 1)]);
  const [own, source] = parts;
  if (own) {
    const seen = Float32Array.from(own[1].values, (w, t) => t < at ? w : 0);  // means of tiles reach past the token
    own[2] = colourWords(own[0], seen, { hidden: look.first ? null : t => t === 0 });
  }
  if (source) source[2] = colourWords(source[0], source[1].values, { hidden: look.first ? null : t => t === 0 });
  markWord(player.own, at, "now");
  if (speak || player.timer) player.own.spans[at]?.scrollIntoView({ block: "nearest" });
  $("step-token").replaceChildren(token(tokens[at]));
  $("step-chance").textContent = `chance ${number(chance, false)}` + (steps.written !== null && at < steps.written ? " · was given" : steps.written === null ? "" : " · written");
  const options = steps.options[n], met = options.some(([text]) => text === tokens[at]);
  barList($("step-options"), [...options, ...(met ? [] : [[tokens[at], chance]])].map(([text, value]) => ({ text, value, exact: false, chosen: text === tokens[at] })));
  const most = source ?? own;
  if (most) barList($("step-used"), wordBars(most[0], most[2].sums, 5, most[1].digits));
  $("step-note").textContent = `Read off token ${at - 1}, ${short(tokens[at - 1])}; ${lensName(source ? crossGroup() : selfGroup())}${most ? `; ${kindText[most[1].kind]}${most[1].rest > 0 ? `, all others ${number(most[1].rest)}` : ""}` : ""}`;
  if (speak) say(`Token ${at}, ${tokens[at]}, chance ${number(chance, false)}`);
}

function play(on = !player.timer) {
  clearInterval(player.timer);
  player.timer = 0;
  if (on) {
    if (player.at >= lastStep()) step(page.steps.first, false);
    player.timer = setInterval(() => {
      if (player.at >= lastStep() || $("writing").hidden) play(false);
      else step(player.at + 1, false);
    }, +$("pace").value);
  }
  $("play").textContent = on ? "❚❚ Pause" : "▶ Play";
}

function writingKey(event) {
  if (event.target.closest?.("select")) return false;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10, Home: -Infinity, End: Infinity }[event.key];
  if (by) { play(false); step(player.at + by, true); return true; }
  if (event.key !== " " || event.target.closest?.("button:not(#play)")) return false;
  play();
  return true;
}
