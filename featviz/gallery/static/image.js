// The page of an image: the units of each layer that respond most to it, and where in it they look.
"use strict";
featviz.imagePage = (() => {
  const { $, make, breakable, load, fetched, decoded, paint, percent, images } = featviz;
  const PAUSE = 1500; // milliseconds: from the pictures in view to the others
  let data = null;
  let others = 0; // the timer of the pictures out of view

  const asked = () => Number(/^#image-(\d+)$/.exec(location.hash)?.[1] ?? NaN);
  /** What the script of an image calls. */
  function receive(layers, picture, size) {
    document.currentScript.received({ layers, picture, size });
  }

  /** Show the image that the address asks for. */
  async function show() {
    const id = asked();
    const there = images.pages().includes(id);
    const { key, label, title } = images.names(id);
    neighbours(id);
    notice("");
    clearTimeout(others);
    $("#of-layers").replaceChildren();
    $("#image-title").replaceChildren(...breakable(there ? title : "No such image"));
    document.title = `${$("#image-title").textContent} · ${featviz.network.title}`;
    $("#image-key").textContent = label && there ? key : "";
    $("#subject").replaceChildren(...(there ? [make("img", { src: images.file(id), alt: `image ${key}` })] : []));
    if (!there) {
      notice("No image of this number has a page.");
      return;
    }
    const own = await fetched(`pages/${String(id).padStart(6, "0")}.js`).catch(() => null);
    const picture = own?.picture ? await decoded(own.picture) : null;
    if (asked() === id) draw(id, own, picture); // else another was asked for meanwhile
  }
  function draw(id, own, picture) {
    if (!own) return notice("What the network makes of this image is missing.");
    $("#of-layers").replaceChildren(...own.layers.map((layer, row) => section(id, layer, own.size, picture, row)));
    document.querySelectorAll("#of-layers li").forEach((item) => watch.observe(item));
    others = setTimeout(fillAll, PAUSE); // a print from the browser's menu does not wait for them
    return notice(own.layers.length ? "" : "No unit of any layer responds to this image.");
  }
  function notice(text) {
    $("#image-notice").textContent = text;
    $("#image-notice").hidden = text === "";
  }

  /** A layer under its name: its units, strongest first. */
  function section(id, [number, units], size, picture, row) {
    const layer = featviz.network.layers[number];
    // an image of another size than most has its own
    const own = { ...data.layers[number], input: size?.input || data.input };
    if (own.map) own.map = { ...own.map, ...size?.maps[number] };
    const heading = make("h2", {}, make("a", { href: layer.page, text: layer.name }));
    const items = units.map(([unit, share], column) => item(id, layer, own, unit, share, picture, row, column));
    return make("section", {}, heading, own.map ? null : make("p", { class: "quiet", text: "Its units look at the image as one: they have no map." }),
      make("ul", { class: "pictured" }, ...items));
  }
  function item(id, layer, own, unit, share, picture, row, column) {
    const exemplars = layer.units.find(([number]) => number === unit)?.[2] || [];
    const rank = exemplars.indexOf(id) + 1;
    const words = [make("b", { text: `unit ${unit}` }), make("span", { text: percent(share) })];
    if (rank) words.push(make("span", { class: "quiet", text: `its no. ${rank}` }));
    const image = make("span", { class: "boxed mapped" }, make("img", { src: images.file(id), alt: own.map ? `where unit ${unit} looks` : "the image" }), own.map ? veil(own, picture, row, column) : null);
    const liked = make("span", { class: "picture liked" + (isSmall(own) ? " crisp" : ""), style: `--aspect: ${featviz.aspect({ ...data, ...own })}` });
    const node = make("li", {}, make("a", { href: `${layer.page}#unit-${unit}` }, image, make("span", { class: "name" }, ...words), liked));
    node.fill = () => load(layer, unit).then((source) => fill(liked, { ...data, ...own }, source), () => { liked.textContent = "missing"; });
    return node;
  }
  /** Show a unit's patches; they are there once they are decoded, without which they print as nothing. */
  function fill(liked, own, source) {
    paint(liked, own, 0, source);
    return decoded(source);
  }
  const isSmall = featviz.isSmall;
  /** Where a unit looks, from its cell of the picture of all maps. */
  function veil({ map, input }, picture, row, column) {
    const [height, width] = map.size;
    const canvas = make("canvas", { class: "map", width, height, style: featviz.exemplars.within(map.box, input), "aria-hidden": "true" });
    featviz.exemplars.draw(canvas, picture, -column * data.side, -row * data.side);
    return canvas;
  }
  /** Load the patches of all units, also of those that are out of view. */
  const fillAll = () => Promise.all([...document.querySelectorAll("#of-layers li")].map((item) => item.fill()));
  async function printAll() {
    await fillAll();
    print();
  }
  /** A unit's own patches are loaded as they come into view. */
  const watch = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    watch.unobserve(target);
    target.fill();
  }), { rootMargin: "250px" });

  function neighbours(id) {
    const link = (by, text, label) => {
      const to = next(id, by);
      return to === undefined ? null : make("a", { href: `#image-${to}`, text, "aria-label": `${label} image` });
    };
    $("#neighbours").replaceChildren(...[link(-1, "←", "Previous"), make("a", { href: "images.html", text: "All images" }), link(1, "→", "Next")].filter(Boolean));
  }
  function next(id, by) {
    const at = images.pages().indexOf(id);
    return at < 0 ? undefined : images.pages()[at + by];
  }
  function keys(event, typing) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!data || typing) return;
    const to = by && next(asked(), by);
    if (event.key === "Escape") location.href = "images.html";
    else if (to !== undefined) location.replace(`#image-${to}`); // a step leaves no entry for the back button
  }

  function begin() {
    const source = $("#image-data");
    if (!source) return;
    data = JSON.parse(source.textContent);
    source.remove();
    window.addEventListener("hashchange", show);
    $("#print").addEventListener("click", printAll);
    window.addEventListener("beforeprint", fillAll); // a browser's own print does not wait for them, and shows those that are there
    show();
  }

  return { receive, begin, keys };
})();
