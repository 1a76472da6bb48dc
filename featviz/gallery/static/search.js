// Search across the network: layers, unit numbers, labels and keys of images.
"use strict";
featviz.search = (() => {
  const { $, make, counted, holds } = featviz;

  /** What a query leads to: layers by name, units by number, then units by the images that they respond to. */
  function results(query) {
    const text = query.trim().toLowerCase();
    if (!text) return [];
    const address = /^(?:(.*?)[\s:#]+)??(?:unit[\s-]*)?(\d+)$/.exec(text); // conv3 17, conv3:17, conv3 unit 17, unit 17, 17
    const matching = imagesNamed(text);
    const byName = [];
    const byImage = [];
    for (const layer of featviz.network.layers.filter((each) => each.units)) {
      const name = layer.name.toLowerCase();
      if (holds(name, text)) byName.push({ href: layer.page, name: layer.name, note: `layer, ${counted(layer.units.length, "unit")}`, images: [] });
      for (const [unit, label, exemplars] of layer.units) {
        const result = { href: `${layer.page}#unit-${unit}`, name: `${layer.name} unit ${unit}`, images: exemplars.slice(0, 3) };
        if (address && Number(address[2]) === unit && holds(name, address[1] || "")) {
          byName.push({ ...result, note: label || "" });
        } else if (matching.size) {
          const hits = exemplars.filter((id) => matching.has(id)).length;
          if (hits) byImage.push({ ...result, note: `${hits} of its ${exemplars.length} strongest`, hits });
        }
      }
    }
    return [...byName, ...byImage.sort((a, b) => b.hits - a.hits)];
  }
  /** The images whose key or label holds a text. */
  function imagesNamed(text) {
    const holding = [...featviz.image].filter(([, names]) => names.some((name) => name && holds(name.toLowerCase(), text)));
    return new Set(holding.map(([id]) => id));
  }

  const SHOWN = 100; // results
  function update() {
    const list = results($("#query").value);
    $("#result-count").textContent = $("#query").value.trim() ? resultCount(list.length) : "";
    $("#results").replaceChildren(...list.slice(0, SHOWN).map(resultItem));
    choose(0);
  }
  const resultCount = (n) => (n > SHOWN ? `the first ${SHOWN} of ${counted(n, "result")}` : counted(n, "result"));
  function resultItem(result, i) {
    const pictures = result.images.map((id) => make("img", { src: `images/${String(id).padStart(6, "0")}.webp`, alt: "", loading: "lazy" }));
    return make("a", { role: "option", id: `result-${i}`, "aria-selected": String(i === 0), href: result.href, tabindex: "-1", click: () => $("#search").close() },
      make("b", { text: result.name }), make("span", { text: result.note }), make("span", { class: "strongest" }, ...pictures));
  }
  function choose(to) {
    const options = [...$("#results").children];
    if (!options.length) return $("#query").removeAttribute("aria-activedescendant");
    const at = Math.max(0, Math.min(options.length - 1, to));
    options.forEach((option, i) => option.setAttribute("aria-selected", String(i === at)));
    options[at].scrollIntoView({ block: "nearest" });
    return $("#query").setAttribute("aria-activedescendant", options[at].id);
  }
  function start() {
    $("#search").showModal();
    $("#query").select();
  }
  function keys(event) {
    const at = [...$("#results").children].findIndex((option) => option.getAttribute("aria-selected") === "true");
    if (event.key === "Escape") $("#search").close(); // at once, where the field would first be emptied
    else if (event.key === "ArrowDown") choose(at + 1);
    else if (event.key === "ArrowUp") choose(at - 1);
    else if (event.key === "Enter" && event.target.id === "query") $("#results [aria-selected='true']")?.click();
    else return;
    event.preventDefault();
  }

  return { start, update, keys };
})();
