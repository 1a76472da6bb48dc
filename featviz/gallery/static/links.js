// Other units as pictures to follow: those that make up a unit, those that it feeds, and those that respond to the same images.
"use strict";
featviz.links = (() => {
  const { make, breakable, load, paint, aspect, crispClass, signed } = featviz;
  const SHARES = [
    ["excite", "Excited by", "what it adds to the response, in the mean over the exemplars"],
    ["inhibit", "Inhibited by", "what it takes from the response"],
    ["feed", "Feeds", "the share of this unit in the response of that one"],
  ];
  const ALIKE = [
    ["own", "In this layer", "the correlation of the strongest responses of both in each image"],
    ["others", "In other layers", "the same, of the units of all other layers of the gallery"],
  ];

  /** The units that a unit is made of and that it feeds. */
  function list(data, side, unit) {
    return rows(data, side, "Units that it is made of, and that it feeds", SHARES, unit.links || {}, percent);
  }
  /** The units that respond to the same images. */
  function alike(data, side, details) {
    const over = featviz.counted(details.over, "image");
    return rows(data, side, `Units that respond to the same images (correlation over ${over})`, ALIKE, details, correlation);
  }
  /** Under a heading, a row for each kind of which there are some. */
  function rows(data, side, title, kinds, links, words) {
    const filled = kinds.filter(([kind]) => links[kind]?.length).map(([kind, name, note]) =>
      make("div", { class: "links" }, make("h4", { text: name, title: note }),
        make("ul", {}, ...links[kind].map((link) => make("li", {}, item(data, side, link, words))))));
    return filled.length ? [make("h3", { text: title }), ...filled] : [];
  }
  /** One unit with its number; one that the gallery does not show has a name alone. */
  function item(data, side, [name, unit, value], written) {
    const words = [make("b", { text: written(value) }), " ", make("span", {}, ...breakable(`${name} ${unit}`))];
    const layer = featviz.network.layers.find((each) => each.name === name && (each.units || []).some(([number]) => number === unit));
    const isElsewhere = side !== data.sides[0] && data.matched; // where pages are numbered by the units of the first network
    if (!layer || isElsewhere) return make("span", { class: "quiet" }, ...words);
    return make("a", { href: `${layer.page}#unit-${unit}` }, ...pictured(data, layer, unit), ...words);
  }
  /** The first of the pictures that the panel shows; none where two networks face each other, or of a dead unit. */
  function pictured(data, layer, unit) {
    const [, , exemplars] = layer.units.find(([number]) => number === unit);
    if (data.sides.length > 1 || !exemplars.length) return [];
    const own = { ...data, tile: layer.tile || data.tile }; // as its own page shows it
    const picture = make("span", { class: "picture" + crispClass(own), style: `--aspect: ${aspect(own)}` });
    const block = featviz.panel.panelBlocks(own)[0];
    load(layer, unit).then((source) => paint(picture, own, block, source), () => {});
    return [picture];
  }
  const percent = (share) => `${share < 0 ? "" : "+"}${signed(100 * share, 0)}%`;
  const correlation = (value) => signed(value, 2);

  return { list, alike };
})();
