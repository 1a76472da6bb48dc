// What lies below a unit's strongest responses: its weakest images, some of each tenth, and the classes that it responds to.
"use strict";
featviz.spectrum = (() => {
  const { make, number, grouped, counted } = featviz;
  const COLUMN = 4; // images

  /** Columns of images, from the weakest to the strongest; none of a scan that has not counted them. */
  function columns(side, unit, details) {
    if (!details.spectrum) return [];
    const { weakest, tenths } = details.spectrum;
    const strongest = unit.exemplars.slice(0, COLUMN).map(({ image, score }) => [image, score]).reverse();
    const groups = [["weakest", weakest], ...tenths.map((images, i) => [`tenth ${i + 1}`, images]), ["strongest", strongest]];
    const shown = groups.filter(([, images]) => images.length);
    const note = `Tenths are of ${counted(details.over, "image")}, from the lowest responses to the highest: a few of each, in order.`;
    return [make("h3", { text: "From the weakest images to the strongest" }), make("p", { class: "quiet", text: note }),
      make("ol", { class: "spectrum" }, ...shown.map(([name, images]) => make("li", {}, make("h4", { text: name }), ...images.map((each) => picture(side, each)))))];
  }
  function picture(side, [image, score]) {
    const names = featviz.image.get(image) || [""];
    const words = [...names].reverse().filter(Boolean).join(", ");
    const file = `${side.images}/${String(image).padStart(6, "0")}.webp`;
    return make("figure", {}, make("img", { src: file, alt: `image ${words}`, title: words, loading: "lazy" }), make("figcaption", { text: number(score) }));
  }

  /** The classes of the highest mean, and of the lowest where there are many. */
  function classes(details) {
    const list = details.classes || [];
    if (list.length < 2) return [];
    const most = Math.max(...list.map(([, mean]) => mean));
    const row = ([label, mean, images]) => make("li", {},
      make("span", { class: "label", text: label }), " ",
      make("span", { class: "extent" }, make("span", { style: `width:${most > 0 ? Math.max(0, (100 * mean) / most) : 0}%` })),
      make("span", { class: "value", text: number(mean) }), " ",
      make("span", { class: "quiet", text: counted(images, "image") }));
    const rows = list.map(row);
    const left = (details.of_classes || 0) - list.length;
    if (left > 0) rows.splice(list.length / 2, 0, make("li", { class: "gap quiet", text: `… ${grouped(left)} more …` }));
    return [make("h3", { text: "Classes, by the mean of the strongest response in each image" }), make("ol", { class: "classes" }, ...rows)];
  }

  return { columns, classes };
})();
