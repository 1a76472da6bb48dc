// A unit's panel: its tiles large, its exemplars in their images, and how it responds over the data set.
"use strict";
featviz.panel = (() => {
  const { $, make, number, counted, percent, dominant, load, paint, ownNumber, ofSide, shownBlocks, caption, crispClass } = featviz;

  /** One network's side of a unit's panel. */
  function panel(page, side, unit) {
    const data = ofSide(page, side);
    const heading = data.sides.length > 1 ? [make("h3", { text: side.title + matched(unit) })] : [];
    if (unit.unmatched) return [...heading, make("p", { class: "notice", text: "No unit of this network is left that responds as this one does." })];
    if (unit.dead) return [...heading, make("p", { class: "notice", text: "This unit is dead: no image activates it, so there is nothing to project." })];
    return [...heading, make("dl", { class: "stats" }, ...facts(unit)), badge(), blocks(data, side, unit),
      ...featviz.exemplars.list(data, side, unit),
      make("div", { class: "made-of" }, ...featviz.links.list(data, side, unit)),
      ...detailed(data, side, unit)];
  }
  /** Units that respond to the same images, and how a unit responds over the data set; what of this is in its script comes with that. */
  function detailed(data, side, unit) {
    const alike = make("div", { class: "alike" });
    const spread = make("div", {}, make("h3", { text: "Strongest response in each image, over the data set" }), histogram(unit));
    const fill = () => {
      const details = featviz.details(side, unit.unit);
      if (!details) return;
      alike.append(...featviz.links.alike(data, side, details));
      spread.append(make("div", { class: "below" }, ...featviz.spectrum.columns(side, unit, details), ...featviz.spectrum.classes(details)));
    };
    load(side, unit.unit).then(fill, () => {});
    return [alike, spread];
  }
  /** Which unit a comparison shows beside another, and how alike both respond. */
  const matched = (unit) => (unit.match === undefined ? "" : ` · unit ${unit.own}, correlation ${number(unit.match)}`);
  /** The page's badge of the chosen rule again; a comparison has those of its sides beside the pictures alone. */
  function badge() {
    const shown = $("main details.trust:not([hidden])");
    return shown ? shown.cloneNode(true) : "";
  }
  function facts(unit) {
    const values = [
      ["strongest response", number(unit.max)],
      ["mean over the images", number(unit.mean)],
      ["active on", `${percent(unit.active)} of the images`],
    ];
    if (dominant(unit)) values.push(["most frequent class", `${unit.label} (${percent(unit.share)} of the strongest)`]);
    for (const [rule, count] of Object.entries(unit.silent || {})) {
      values.push([`without any signal under ${rule}`, `${count} of ${counted(unit.exemplars.length, "exemplar")}, in plain grey`]);
    }
    return values.map(([name, value]) => make("div", {}, make("dt", { text: name + " " }), make("dd", { text: value })));
  }

  /** The blocks that the switch shows, of every rule, and then the patches. */
  const panelBlocks = (data) => [...new Set([...shownBlocks(data, featviz.page.show, data.rules), 0])];

  /** The tiles of a unit, large: its weights in a first layer, the views that are chosen, the patches. */
  function blocks(page, side, unit) {
    const data = ofSide(page, side);
    const isFilter = (block) => unit.weights && data.blocks[block].view === "projection"; // which is the filter again, for every patch
    const shown = panelBlocks(data).filter((block) => !isFilter(block));
    const figures = shown.map((block) => make("figure", {},
      make("figcaption", { text: caption(data, block) }, marked(data, side, block)),
      make("div", { class: "picture" + crispClass(data), role: "img", "aria-label": `${caption(data, block)} of unit ${ownNumber(unit)}` })));
    const pictures = figures.map((figure) => $(".picture", figure));
    const put = (source, isPreview) => pictures.forEach((picture, i) => paint(picture, data, shown[i], source, isPreview));
    put(unit.preview, true);
    load(side, unit.unit).then((source) => put(source, false), () => pictures.forEach((picture) => { picture.textContent = "missing"; }));
    const weights = unit.weights ? [make("figure", { class: "weights" },
      make("figcaption", { text: "its filter, the weights" }),
      make("img", { class: "picture crisp", src: unit.weights, alt: `weights of unit ${ownNumber(unit)}` }))] : [];
    return make("div", { class: "blocks" }, ...weights, ...figures, ...maximized(data, side, unit));
  }

  /** The image that was made to drive a unit, and what the unit gives for it. */
  function maximized(data, side, unit) {
    if (unit.maximized === undefined) return [];
    return [make("figure", { class: "maximized" },
      make("figcaption", { text: `made to drive it: response ${number(unit.maximized)}` }),
      make("img", { class: "picture" + crispClass(data), src: `${side.folder}/${ownNumber(unit)}-maximized.webp`, alt: `image made to drive unit ${ownNumber(unit)}` }))];
  }

  /** Beside the name of pictures that hardly depend on the unit or on the image: that they do not. */
  function marked(data, side, block) {
    const mark = side.marks[data.blocks[block].rule];
    return mark ? make("span", { class: "mark" }, make("span", { "aria-hidden": "true", text: "≈ " }), mark) : null;
  }

  /** Bins of the record: not above 0; below 2**-16; then four to each doubling, the last without an end. */
  const LAST = 129;
  function edge(bin) {
    if (bin < 1) return -Infinity;
    if (bin < 2) return 0;
    const quarter = (bin - 2) % 4;
    return 2 ** (-16 + Math.floor((bin - 2) / 4)) * (1 + quarter / 4);
  }
  function range(bin) {
    if (bin === 0) return "not above 0";
    if (bin === LAST) return `${number(edge(bin))} and above`;
    return `${number(edge(bin))} to ${number(edge(bin + 1))}`;
  }

  function histogram(unit) {
    const [width, height, foot] = [Math.max(300, Math.min(640, innerWidth - 36)), 170, 34];
    const counts = new Map(unit.histogram);
    const above = [...counts.keys()].filter((bin) => bin > 0);
    const [from, to] = [Math.min(...above), Math.max(...above)];
    const bars = to - from + 1;
    const gap = counts.has(0) ? 2 : 0;
    const each = (width - 20) / (bars + gap);
    const most = Math.max(...counts.values());
    const svg = make("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of unit ${ownNumber(unit)}: strongest response in each image` });
    const bar = (bin, x) => {
      const count = counts.get(bin) || 0;
      const tall = ((height - foot - 16) * count) / most;
      const title = make("title", { text: `${range(bin)}: ${counted(count, "image")}` });
      svg.append(make("rect", { x, y: height - foot - tall, width: Math.max(1, each - 1), height: tall, class: bin ? "" : "none" }, title));
    };
    if (gap) {
      bar(0, 10);
      svg.append(make("text", { x: 10, y: height - foot + 15, text: "≤ 0" }));
    }
    for (let bin = from; bin <= to; bin++) bar(bin, 10 + (bin - from + gap) * each);
    svg.append(make("line", { x1: 10, x2: width - 10, y1: height - foot + 0.5, y2: height - foot + 0.5 }));
    const every = Math.max(1, Math.ceil((bars * 80) / width));
    const first = gap ? 44 : 0; // beside "≤ 0"
    for (let bin = from; bin <= to + 1; bin += every) {
      const x = 10 + (bin - from + gap) * each;
      if (x >= first && x < width - 30) svg.append(make("text", { x, y: height - foot + 15, text: number(edge(bin)) }));
    }
    svg.append(make("text", { x: 10, y: 12, text: counted(most, "image") }),
      make("text", { x: width - 10, y: height - 3, "text-anchor": "end", text: "response (four bins to each doubling)" }));
    return svg;
  }

  /** Show other blocks in a panel that is open. */
  function redraw(dialog, data) {
    dialog.querySelectorAll("section").forEach((section) => {
      const side = data.sides[section.dataset.side];
      const unit = side.units[section.dataset.unit];
      if (!unit.dead) $(".blocks", section).replaceWith(blocks(data, side, unit));
    });
  }

  return Object.assign(panel, { redraw, panelBlocks });
})();
