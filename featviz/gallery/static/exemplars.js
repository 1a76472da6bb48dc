// A unit's exemplars in their whole images, with the activation map over each: on hover and focus, and large on a click.
"use strict";
featviz.exemplars = (() => {
  const { $, make, number, load, ownNumber, decoded, remember, recall } = featviz;

  const COMPUTED = {
    "full image": "projected from the full image",
    fallback: "projected from the full image: the crop did not give the recorded response",
  };
  const named = (exemplar) => featviz.image.get(exemplar.image) || ["", null];

  /** The list of a unit's exemplars, under its heading and the switch of its maps. */
  function list(data, side, unit) {
    const items = unit.exemplars.map((exemplar, rank) => {
      const [key, label] = named(exemplar);
      const computed = COMPUTED[exemplar.computed]; // a crop is the rule, and needs no words
      const open = make("button", { type: "button", class: "boxed", "aria-haspopup": "dialog", "aria-label": `exemplar ${rank + 1} large`, click: () => enlarge(data, side, unit, rank) },
        ...boxed(data, side, exemplar, key));
      return make("li", {}, open,
        make("div", { class: "score", text: `${rank + 1}.  ${number(exemplar.score)}` }),
        label ? make("div", { text: label }) : null,
        make("div", { class: "key", title: key }, featviz.images.key(exemplar.image, key)),
        computed ? make("div", { class: "quiet", text: computed }) : null);
    });
    const exemplars = make("ol", { class: "exemplars" }, ...items);
    if (data.map) lay(exemplars, side, unit);
    if (data.map && shown()) exemplars.classList.add("mapped");
    return [make("div", { class: "heading" }, make("h3", { text: "Where in the images" }), data.map ? mapSwitch(exemplars) : ""), exemplars];
  }
  const shown = () => recall("maps") === "on";
  /** Shows the maps of all at once, where hover and focus show one. */
  function mapSwitch(exemplars) {
    const change = (event) => {
      remember("maps", event.target.checked ? "on" : "off");
      exemplars.classList.toggle("mapped", event.target.checked);
    };
    const box = make("input", { type: "checkbox", class: "show-maps", change });
    box.checked = shown();
    return make("label", { class: "quiet" }, box, "activation maps over all");
  }

  /** An image with the box of what tiles show of it, and room for the map. */
  function boxed(data, side, exemplar, key) {
    const file = `${side.images}/${String(exemplar.image).padStart(6, "0")}.webp`;
    const size = exemplar.input || data.input; // its own, where images differ in size
    const map = mapOf(data, exemplar);
    const canvas = map ? make("canvas", { class: "map", width: map.size[1], height: map.size[0], style: within(map.box, size), "aria-hidden": "true" }) : null;
    return [make("img", { src: file, alt: `image ${key}`, loading: "lazy" }), canvas,
      make("span", { class: "box", style: within(exemplar.box, size) })].filter(Boolean);
  }
  const mapOf = (data, exemplar) => data.map && { ...data.map, ...exemplar.map };
  /** A box of an image's pixels in percent of it. */
  function within([top, left, bottom, right], [height, width]) {
    return `top:${(100 * top) / height}%;left:${(100 * left) / width}%;height:${(100 * (bottom - top)) / height}%;width:${(100 * (right - left)) / width}%`;
  }

  /** Draw the maps of a unit's exemplars, from the first on, or of one, on the canvases in an element. */
  async function lay(node, side, unit, first = 0) {
    const canvases = [...node.querySelectorAll(".map")];
    const source = await load(side, unit.unit).then(() => featviz.maps(side, unit.unit), () => "");
    if (!source) return;
    const column = await decoded(source);
    canvases.forEach((canvas, i) => draw(canvas, column, 0, -(first + i) * canvas.height));
  }
  /** A map, out of a picture of many, as a veil over the image: clear where the unit responds as at its strongest, dark where it does not. */
  function draw(canvas, maps, left, top) {
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(maps, left, top);
    const picture = pen.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < picture.data.length; i += 4) {
      const share = picture.data[i] / 255;
      picture.data.set([8, 8, 24, Math.round(VEIL * (1 - share) * 255)], i);
    }
    pen.putImageData(picture, 0, 0);
  }
  const VEIL = 0.74;

  /** An exemplar large, in a dialog above the panel. */
  function enlarge(data, side, unit, rank) {
    const dialog = $("#large");
    const exemplar = unit.exemplars[rank];
    const [key, label] = named(exemplar);
    const step = (by) => () => { if (unit.exemplars[rank + by]) enlarge(data, side, unit, rank + by); };
    const button = (text, name, by) => make("button", { type: "button", text, "aria-label": name, disabled: unit.exemplars[rank + by] ? null : "", click: step(by) });
    const facts = [["rank", `${rank + 1} of ${unit.exemplars.length}`], ["response", number(exemplar.score)], ["class", label], ["image", featviz.images.key(exemplar.image, key)],
      ["projection", COMPUTED[exemplar.computed]], ["map", data.map ? mapWords(mapOf(data, exemplar)) : null]];
    const picture = make("div", { class: "boxed mapped" }, ...boxed(data, side, exemplar, key));
    const toggle = make("input", { type: "checkbox", id: "large-map", change: (event) => picture.classList.toggle("mapped", event.target.checked) });
    toggle.checked = true;
    dialog.replaceChildren(
      make("div", { class: "head" }, make("h2", { id: "large-title", tabindex: "-1", text: `unit ${ownNumber(unit)}, exemplar ${rank + 1}` }),
        button("←", "Previous exemplar", -1), button("→", "Next exemplar", 1),
        make("button", { type: "button", text: "Close", click: () => dialog.close() })),
      picture,
      data.map ? make("label", { class: "quiet" }, toggle, "activation map") : "",
      make("dl", { class: "stats" }, ...facts.filter(([, value]) => value).map(([name, value]) => make("div", {}, make("dt", { text: name + " " }), make("dd", {}, value)))));
    dialog.step = (by) => step(by)();
    if (data.map) lay(picture.parentNode, side, unit, rank);
    if (!dialog.open) dialog.showModal();
    $("#large-title").focus();
  }
  function mapWords(map) {
    const pooled = map.size.join() === map.of.join() ? "" : `, the largest of each field of ${map.size.join(" × ")}`;
    return `${map.of.join(" × ")} positions${pooled}; clear: the response of this exemplar; dark: none`;
  }

  return { list, within, draw };
})();
