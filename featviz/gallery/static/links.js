// The units of the layers before that make up a unit, and those that it feeds: pictures to follow.
"use strict";
featviz.links = (() => {
  const { $, make, load, paint } = featviz;
  const KINDS = [
    ["excite", "Excited by", "what it adds to the response, in the mean over the exemplars"],
    ["inhibit", "Inhibited by", "what it takes from the response"],
    ["feed", "Feeds", "the share of this unit in the response of that one"],
  ];

  /** Under a heading, a row for each kind of which there are some. */
  function list(data, side, unit) {
    const rows = KINDS.filter(([kind]) => unit.links && unit.links[kind].length).map(([kind, title, note]) =>
      make("div", { class: "links" }, make("h4", { text: title, title: note }),
        make("ul", {}, ...unit.links[kind].map((link) => make("li", {}, item(data, link))))));
    return rows.length ? [make("h3", { text: "Units that it is made of, and that it feeds" }), ...rows] : [];
  }
  /** One unit with its share; one that the gallery does not show has a name alone. */
  function item(data, [name, unit, share]) {
    const words = [make("b", { text: percent(share) }), make("span", { text: `${name} ${unit}` })];
    const layer = featviz.network.layers.find((each) => each.name === name && (each.units || []).some(([number]) => number === unit));
    if (!layer) return make("span", { class: "quiet" }, ...words);
    return make("a", { href: `${layer.page}#unit-${unit}` }, ...pictured(data, layer, unit), ...words);
  }
  /** The first of the pictures that the panel shows; none where two networks face each other. */
  function pictured(data, layer, unit) {
    if (data.sides.length > 1) return [];
    const picture = make("span", { class: "picture" });
    const block = featviz.panel.panelBlocks(data)[0];
    load(layer, unit).then((source) => paint(picture, data, block, source), () => {});
    return [picture];
  }
  const percent = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(0)}%`;

  return { list };
})();
