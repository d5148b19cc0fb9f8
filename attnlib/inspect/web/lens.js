// The lens: through which attention a text is looked at; one head, or the mean of a layer's or of all heads.
const lens = { group: 0, layer: null, head: null };

const lensMaps = (group = lens.group) => {
  const maps = page.groups[group].maps;
  return (lens.layer === null ? maps : [maps[Math.min(lens.layer, maps.length - 1)]]).map(index => page.maps[index]);
};
const lensHeads = (group = lens.group) => lensMaps(group).flatMap(map =>
  typeof lens.head === "number" ? [[map, Math.min(lens.head, map.shape[0] - 1)]] : Array.from({ length: map.shape[0] }, (_, h) => [map, h]));
const lensReady = (group = lens.group) => Promise.all(lensMaps(group).map(ready));
const lensTexts = (group = lens.group) => page.maps[page.groups[group].maps[0]].texts;

function lensName(group = lens.group) {
  const maps = lensMaps(group), layer = lens.layer === null ? "" : maps[0].layer === null ? maps[0].name : `layer ${maps[0].layer}`;
  const head = typeof lens.head === "number" ? `head ${maps[0].numbers[Math.min(lens.head, maps[0].shape[0] - 1)]}` : "";
  return `${page.groups[group].label}, ${layer || "all layers"}, ${head || "mean of heads"}`;
}

// Of a long text, whose means are of tiles: the first head of a group that brought its exact targets along.
function toldHead(group) {
  for (const [layer, index] of page.groups[group].maps.entries()) {
    const [head] = Object.keys(page.maps[index].tops ?? {});
    if (head !== undefined) return { layer, head: +head };
  }
  return {};
}

function buildLens() {
  Object.assign(lens, { group: 0, layer: null, head: null, ...toldHead(0) });
  $("lens-group").replaceChildren(...page.groups.map((group, g) => make("option", { value: g, textContent: group.label })));
  fillLens();
}

// The layers and heads that there are; `fits` says which groups the view at hand can show.
function fillLens(fits = () => true, colours = false) {
  const allowed = page.groups.map((_, g) => fits(g));
  if (!allowed[lens.group]) {
    const group = Math.max(allowed.indexOf(true), 0);
    Object.assign(lens, { group, layer: null, head: null, ...toldHead(group) });
  }
  const maps = page.groups[lens.group].maps.map(index => page.maps[index]);
  lens.layer = lens.layer === null ? null : Math.min(lens.layer, maps.length - 1);
  const heads = lens.layer === null ? Math.min(...maps.map(map => map.shape[0])) : maps[lens.layer].shape[0];
  if (typeof lens.head === "number") lens.head = Math.min(lens.head, heads - 1);
  if (lens.head === "each" && !(colours && lens.layer !== null)) lens.head = null;
  [...$("lens-group").options].forEach((option, g) => { option.hidden = option.disabled = !allowed[g]; });
  const option = (value, textContent) => make("option", { value, textContent });
  $("lens-layer").replaceChildren(option("", "all, mean"), ...maps.map((map, i) => option(i, map.layer ?? map.name)));
  $("lens-head").replaceChildren(option("", "all, mean"), ...(colours && lens.layer !== null ? [option("each", "each, in colours")] : []),
    ...Array.from({ length: heads }, (_, h) => {
      const map = maps[lens.layer ?? 0];
      return option(h, `${map.numbers[h]}${lens.layer !== null && map.tops?.[h] ? " · exact targets" : ""}`);
    }));
  $("lens-group").value = lens.group;
  $("lens-layer").value = lens.layer ?? "";
  $("lens-head").value = lens.head ?? "";
  $("lens-group").closest("label").hidden = allowed.filter(Boolean).length < 2;
}

const lensValue = text => text === "" ? null : text === "each" ? text : +text;
function turnLens(change, speak = true) {
  Object.assign(lens, change);
  refresh();
  if (speak) say(lensName());
}
function stepLens(what, by) {
  const select = $(`lens-${what}`), at = clamp(select.selectedIndex + by, 0, select.options.length - 1);
  if (at !== select.selectedIndex) turnLens({ [what]: lensValue(select.options[at].value) });
}
