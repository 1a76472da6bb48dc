// The images that have a page: where they are linked, and the index of them.
"use strict";
featviz.images = (() => {
  const { $, make, breakable, grouped, counted, holds, image } = featviz;

  const file = (id) => `images/${String(id).padStart(6, "0")}.webp`;
  const address = (id) => `image.html#image-${id}`;
  const pages = () => featviz.network.pages || [];
  /** A label, where an image has one, and its key. */
  const names = (id) => {
    const [key, label] = image.get(id) || ["", null];
    return { key, label, title: label || key };
  };
  /** The key of an image, as a link to its page where it has one. */
  function key(id, text) {
    return pages().includes(id) ? make("a", { href: address(id), title: `${text}: what the network makes of it` }, ...breakable(text)) : make("span", { title: text }, ...breakable(text));
  }

  function thumbnail(id) {
    const { key, label } = names(id);
    const words = [label ? make("b", { text: label }) : null, make("span", { class: "key" }, ...breakable(key))];
    return make("li", {}, make("a", { href: address(id), title: key },
      make("img", { src: file(id), alt: `image ${key}`, loading: "lazy" }), ...words));
  }
  /** The index: the images that the filter lets through. */
  function arrange() {
    const wanted = $("#filter-images").value.trim().toLowerCase();
    const items = [...$("#images").children];
    items.forEach((item) => { item.hidden = wanted !== "" && !holds(item.words, wanted); });
    const shown = items.filter((item) => !item.hidden).length;
    $("#image-count").textContent = shown === items.length ? counted(shown, "image") : `${grouped(shown)} of ${counted(items.length, "image")}`;
  }
  /** The images that are exemplars of units; a spectrum shows others, too. */
  const exemplars = () => new Set(featviz.network.layers.flatMap((layer) => (layer.units || []).flatMap(([, , images]) => images)));
  function begin() {
    if (pages().length) {
      $(".to-images").href = "images.html";
      $(".to-images").hidden = false;
    }
    if (!$("#images")) return;
    const items = pages().map(thumbnail);
    items.forEach((item, i) => { item.words = Object.values(names(pages()[i])).filter(Boolean).join("\n").toLowerCase(); });
    $("#images").replaceChildren(...items);
    const all = exemplars().size;
    if (all > items.length) $("#of-images").append(` Of the ${grouped(all)} images that are exemplars, these ${grouped(items.length)} are so of the most units.`);
    $("#filter-images").addEventListener("input", arrange);
    arrange(); // a browser may have kept what was typed
  }

  return { file, address, pages, names, key, begin };
})();
