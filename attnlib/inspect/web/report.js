// Figures of all heads: a small coloured table for each figure, and one table of all that can be sorted.
const meanings = {
  entropy: ["Entropy", "nats: 0 looks at one token, more at many"],
  distance: ["Mean distance", "tokens between query and key"],
  first: ["First token", "mass on the first token, an attention sink where it is large"],
  beside: ["Right beside", "mass on neighbours; where the mask is causal, on the previous token"],
  itself: ["Itself", "mass on the query's own token"],
};
const meaning = name => meanings[name] ?? [name[0].toUpperCase() + name.slice(1).replaceAll("_", " "), ""];
// Scores that a head report brought, each with what it would be were the keys shuffled.
const kinds = {
  previous: ["Previous token", "mass on the token just before"],
  induction: ["Induction", "mass on what followed an earlier token like this one"],
  duplicate: ["Duplicates", "mass on earlier tokens like this one"],
  positional: ["Positional", "share of the weights that distance alone explains"],
  delimiter: ["Delimiters", "mass on punctuation, line ends and the model's own tokens"],
  first: ["First token", "mass on the first token, an attention sink where it is large"],
  rare: ["Rare tokens", "mass on the rarest tokens of the text"],
};
const ranking = { by: null, down: true };
const figure = v => v === undefined ? "" : Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 10 ? v.toFixed(1) : v.toFixed(2).replace("-", "−");

// A table of layers by heads, each cell coloured by its share of the largest; `open` on a click or Enter.
function heatTable(label, rows, act, { signed = false, top = null, note = () => "" } = {}) {
  const most = top ?? (Math.max(...rows.flatMap(row => row.values.map(Math.abs)).filter(Number.isFinite)) || 1), wide = Math.max(...rows.map(row => row.values.length));
  const table = make("table", { className: "heat" }), head = make("tr", {}, make("td"), ...Array.from({ length: wide }, (_, h) => make("th", { scope: "col", textContent: h })));
  table.setAttribute("aria-label", label);
  table.append(make("thead", {}, head), make("tbody", {}, ...rows.map((row, r) => make("tr", {}, make("th", { scope: "row", textContent: row.name }),
    ...row.values.map((value, h) => {
      const share = value / most, paint = signed ? signedColour(share) : ramps[look.theme][Math.round(255 * clamp(share, 0, 1))];
      const button = make("button", { type: "button", textContent: Number.isFinite(value) ? figure(value) : "–", tabIndex: r || h ? -1 : 0 });
      button.setAttribute("aria-label", `layer ${row.name}, head ${h}: ${figure(value)}${note(r, h)}`);
      if (row.named?.includes(h)) button.dataset.named = "";
      button.style.background = `rgb(${paint})`;
      button.style.color = inkOn(paint);
      button.onclick = () => act(r, h);
      return make("td", {}, button);
    })))));
  return table;
}

function showReport() {
  const sections = page.groups.map(group => {
    const maps = group.maps.map(index => page.maps[index]), scored = Object.keys(kinds).filter(kind => maps.some(map => map.scores[kind]));
    const known = new Set(maps.flatMap(map => Object.keys(map.figures))), skip = scored.length ? ["first", "beside"] : [];
    const names = [...known].filter(name => !skip.includes(name)), act = (r, h) => open(group.maps[r], h);
    const small = (title, text, table) => make("figure", { className: "small" }, make("figcaption", {}, make("b", { textContent: title }), ` ${text}`), make("div", { className: "wide" }, table));
    const plain = names.map(name => small(...meaning(name), heatTable(meaning(name)[0], maps.map((map, r) => ({ name: map.layer ?? r, values: map.figures[name] ?? [] })), act)));
    const beside = scored.map(kind => {
      const base = maps.flatMap(map => map.scores[kind]?.baselines ?? []), mean = base.reduce((a, b) => a + b, 0) / base.length;
      const rows = maps.map((map, r) => ({ name: map.layer ?? r, values: map.scores[kind]?.values ?? [], named: map.scores[kind]?.named }));
      return small(kinds[kind][0], `${kinds[kind][1]}; ${figure(mean)} were keys shuffled`, heatTable(kinds[kind][0], rows, act,
        { note: (r, h) => `, ${figure(maps[r].scores[kind].baselines[h])} shuffled${rows[r].named.includes(h) ? ", named" : ""}` }));
    });
    const told = scored.length ? "a ring: far above its baseline, named after the kind" : "the mean over the text";
    return make("section", { className: "group" }, make("header", {}, make("h2", { textContent: group.label }), make("p", { textContent: known.size ? `rows are layers, columns heads; ${told}` : "no figures were made" })),
      make("div", { className: "smalls" }, ...beside, ...plain), known.size ? rankTable(group, maps, scored, names) : "");
  });
  $("figures").replaceChildren(...sections);
}

function rankTable(group, maps, scored, figures) {
  const names = [...scored, ...figures], value = (map, h, name) => scored.includes(name) ? map.scores[name]?.values[h] : map.figures[name]?.[h];
  const meaning = name => scored.includes(name) ? kinds[name] : meanings[name] ?? [name, ""];
  const heads = maps.flatMap((map, r) => Array.from({ length: map.shape[0] }, (_, h) => ({ map, h, index: group.maps[r] })));
  const by = names.includes(ranking.by) ? ranking.by : names.includes("previous") ? "previous" : names.includes("beside") ? "beside" : names[0];
  heads.sort((a, b) => (ranking.down ? 1 : -1) * ((value(b.map, b.h, by) ?? -1) - (value(a.map, a.h, by) ?? -1)));
  const title = name => {
    const button = make("button", { type: "button", textContent: `${meaning(name)[0]}${name === by ? (ranking.down ? " ↓" : " ↑") : ""}` });
    button.onclick = () => {
      Object.assign(ranking, { down: ranking.by === name || (ranking.by === null && by === name) ? !ranking.down : true, by: name });
      showReport();
      say(`Sorted by ${meaning(name)[0]}`);
    };
    const cell = make("th", { scope: "col" }, button);
    if (name === by) cell.setAttribute("aria-sort", ranking.down ? "descending" : "ascending");
    return cell;
  };
  const body = heads.slice(0, 12).map(({ map, h, index }) => {
    const go = make("button", { type: "button", className: "link", textContent: `layer ${map.layer ?? map.name}, head ${map.numbers[h]}` });
    go.onclick = () => open(index, h);
    return make("tr", {}, make("th", { scope: "row" }, go), ...names.map(name => make("td", { textContent: figure(value(map, h, name)) })));
  });
  return make("table", { className: "rank" }, make("caption", { textContent: heads.length > 12 ? `The first 12 of ${heads.length} heads` : "All heads" }),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "Head" }), ...names.map(title))), make("tbody", {}, ...body));
}

// Arrows walk a table of heads, as they walk the grid.
function tableKey(event) {
  const at = event.target.closest?.(".heat button"), by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -99], End: [0, 99] }[event.key];
  if (!at || !by) return false;
  const rows = [...at.closest("tbody").rows], y = rows.indexOf(at.closest("tr")), buttons = row => [...row.querySelectorAll("button")];
  const row = buttons(rows[clamp(y + by[0], 0, rows.length - 1)]), to = row[clamp(buttons(rows[y]).indexOf(at) + by[1], 0, row.length - 1)];
  if (!to) return true;
  at.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
  return true;
}
