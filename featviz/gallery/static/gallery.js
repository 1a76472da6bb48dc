// The pages of a gallery: tiles that load as they come into view, and the keyboard. What a unit's panel shows, figures to
// download and search are in files of their own, which this one is loaded before.
// Sprites come as scripts, since a page opened from disk may not read the pixels of a picture file.
"use strict";
const featviz = (() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  let network = { title: "", images: [], layers: [] };
  const image = new Map(); // number -> [key, label]
  let page = null; // the layer page, where there is one

  const SVG = ["svg", "rect", "line", "text", "title"];
  /** A new element; attributes by name, `text` as its text, functions as listeners, then children. */
  function make(tag, attributes = {}, ...children) {
    const node = SVG.includes(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") node.textContent = value;
      else if (typeof value === "function") node.addEventListener(name, value);
      else if (value !== null && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  const number = (value) => value === null ? "not a number" : Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
  /** The class that dominates a unit's exemplars, where at least two of them share it. */
  const dominant = (unit) => (unit.label && unit.share * unit.exemplars.length > 1.5 ? unit.label : "");
  const percent = (share) => (share > 0 && share < 0.01 ? "below 1%" : Math.round(100 * share) + "%");
  const counted = (n, thing) => `${n} ${thing}${n === 1 ? "" : "s"}`;
  /** Choices that last; a private window has no storage, and remembers nothing. */
  function remember(name, value) {
    try {
      localStorage.setItem("featviz-" + name, value);
    } catch { /* a private window */ }
  }
  function recall(name) {
    try {
      return localStorage.getItem("featviz-" + name);
    } catch {
      return null;
    }
  }

  // ---- sprites -----------------------------------------------------------------------------------------------------
  const sprites = new Map(); // address -> promise of a picture's address; the last used come last
  const KEPT = 200; // of them, so that a layer of thousands does not fill the memory

  /** A promise of the address of a unit's sprite. */
  function load(side, unit) {
    const address = `${side.folder}/${unit}.js`;
    const picture = sprites.get(address) || fetched(address);
    sprites.delete(address); // and set again, which makes it the last
    sprites.set(address, picture);
    if (sprites.size > KEPT) forget(sprites.keys().next().value);
    return picture;
  }
  function fetched(address) {
    return new Promise((resolve, reject) => {
      const script = make("script", { src: address });
      script.received = resolve;
      script.onload = () => script.remove();
      script.onerror = () => {
        script.remove();
        sprites.delete(address);
        reject(new Error(address));
      };
      document.head.append(script);
    });
  }
  function forget(address) {
    sprites.get(address).then(URL.revokeObjectURL, () => {});
    sprites.delete(address);
  }
  /** What a unit's script calls: its picture becomes a blob, which takes a third of the memory that the text does. */
  function sprite(data) {
    const text = atob(data.slice(data.indexOf(",") + 1));
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    document.currentScript.received(URL.createObjectURL(new Blob([bytes], { type: "image/webp" })));
  }

  function decoded(data) {
    return new Promise((resolve, reject) => {
      const picture = new Image();
      picture.onload = () => resolve(picture);
      picture.onerror = reject;
      picture.src = data;
    });
  }

  // ---- a layer's page ----------------------------------------------------------------------------------------------
  /** The blocks of a sprite that a choice shows, as their numbers from the left. What a rule has no view of is shown in all it has. */
  function shownBlocks(data, show, rules) {
    if (show === "patch") return [0];
    const numbers = data.blocks.map((_, block) => block);
    return rules.flatMap((rule) => {
      const own = numbers.filter((block) => data.blocks[block].rule === rule);
      const chosen = own.filter((block) => data.blocks[block].view === show);
      return chosen.length ? chosen : own;
    });
  }
  const CAPTIONS = {
    patch: () => "image patches",
    masked: (rule) => `patches masked by ${rule}`,
    projection: (rule) => `${rule} projections`,
    heat: (rule) => `${rule} heat maps`,
  };
  const caption = (data, block) => CAPTIONS[data.blocks[block].view](data.blocks[block].rule);
  const isSmall = (data) => Math.max(...data.tile) <= 32; // tiles whose pixels are shown as squares
  const crispClass = (data) => (isSmall(data) ? " crisp" : "");

  /** Show one block of a sprite as the background of an element. */
  function paint(node, data, block, source) {
    const n = data.blocks.length;
    const wide = Math.ceil(Math.sqrt(data.k)) * (data.tile[1] + 1) - 1; // pixels of a block
    const cut = node.classList.contains("crisp") ? 0 : 1; // half a pixel on either side, so that no neighbour shines through
    node.style.backgroundImage = `url("${source}")`;
    node.style.backgroundSize = `${(100 * n * wide) / (wide - cut)}% 100%`;
    node.style.backgroundPosition = `${(100 * (block * wide + cut / 2)) / (n * wide - wide + cut)}% 0`;
  }
  function aspect(data) {
    const across = Math.ceil(Math.sqrt(data.k));
    const down = Math.ceil(data.k / across);
    return `${across * (data.tile[1] + 1) - 1} / ${down * (data.tile[0] + 1) - 1}`;
  }
  const isDead = (unit) => page.data.sides.every((side) => side.units[unit].dead);

  function tile(data, unit) {
    const note = dominant(data.sides[0].units[unit]) || number(data.sides[0].units[unit].max);
    const name = make("div", { class: "name" },
      make("b", { text: String(unit) }),
      make("span", { text: isDead(unit) ? "" : note }));
    const link = make("a", { class: "tile", href: `#unit-${unit}`, "aria-label": `unit ${unit}: ${description(unit)}` },
      make("div", { class: "faces" }), name);
    return make("li", { "data-unit": unit }, link);
  }
  /** The pictures of a tile, still empty: those that the switch shows, side after side. */
  function faces(data, unit, blocks) {
    return data.sides.flatMap((side) => blocks.map(() => (side.units[unit].dead
      ? make("div", { class: "picture dead" + crispClass(data), text: "dead" })
      : make("div", { class: "picture" + crispClass(data) }))));
  }
  /** Make room in every tile for what the switch shows, draw it, and show the badge of its rule. */
  function refill() {
    const { data, items } = page;
    page.blocks = shownBlocks(data, page.show, [page.rule]);
    document.documentElement.style.setProperty("--across", data.sides.length * page.blocks.length);
    items.forEach((item, unit) => {
      item.faces = faces(data, unit, page.blocks);
      $(".faces", item).replaceChildren(...item.faces);
      if (item.near) draw(item);
    });
    document.querySelectorAll(".trust").forEach((badge) => { badge.hidden = badge.dataset.rule !== page.rule; });
  }
  /** A tile in words, for who does not see it. */
  function description(unit) {
    if (isDead(unit)) return "dead, no image activates it";
    const first = page.data.sides[0].units[unit];
    const response = `strongest response ${number(first.max)}`;
    return dominant(first) ? `${response}, most often ${first.label}` : response;
  }

  /** Draw what is in view, of the blocks that the switch shows; what has left the view is forgotten. */
  function draw(item) {
    const { data, blocks } = page;
    const unit = Number(item.dataset.unit);
    data.sides.forEach((side, i) => {
      if (side.units[unit].dead) return;
      const pictures = item.faces.slice(i * blocks.length, (i + 1) * blocks.length);
      if (!item.near) {
        pictures.forEach((picture) => { picture.style.backgroundImage = ""; });
        return;
      }
      load(side, unit).then(
        (source) => { if (item.near) pictures.forEach((picture, j) => paint(picture, data, blocks[j], source)); }, // it may have left the view meanwhile
        () => pictures.forEach((picture) => { picture.textContent = "missing"; }));
    });
  }

  /** What the filter looks in: a unit's number, and the names and labels of its images. */
  function words(unit) {
    const lines = [`unit ${unit}`];
    for (const side of page.data.sides) {
      for (const exemplar of side.units[unit].exemplars) lines.push(...(image.get(exemplar.image) || []));
    }
    return lines.filter(Boolean).join("\n").toLowerCase();
  }
  function matches(unit, wanted) {
    if (!wanted) return true;
    return /^\d+$/.test(wanted) ? String(unit) === wanted : words(unit).includes(wanted);
  }
  const ORDERS = {
    unit: (numbers) => numbers.unit,
    max: (numbers) => -numbers.max,
    active: (numbers) => numbers.active,
    share: (numbers) => -numbers.share,
  };

  /** Show the units that the filter lets through, in the order that is asked for. */
  function arrange() {
    const { data, items } = page;
    const wanted = $("#filter").value.trim().toLowerCase();
    const first = data.sides[0].units;
    const order = ORDERS[$("#sort").value];
    const before = (a, b) => isDead(a) - isDead(b) || order(first[a]) - order(first[b]) || a - b;
    page.order = items.map((_, unit) => unit).filter((unit) => matches(unit, wanted)).sort(before);
    $("#tiles").replaceChildren(...page.order.map((unit) => items[unit]));
    $("#count").textContent = count(page.order, items.length);
  }
  function count(order, all) {
    if (!order.length) return `0 of ${all} units: nothing matches the filter`;
    const dead = order.filter(isDead).length;
    const shown = order.length === all ? `${all} units` : `${order.length} of ${all} units`;
    return dead ? `${shown}, ${dead} of them dead and shown last` : shown;
  }

  /** Build the page of a layer from the data in it. */
  function begin() {
    const source = $("#data");
    if (!source) return; // the front page
    const data = JSON.parse(source.textContent);
    source.remove();
    page = { data, items: [], order: [], show: $("#show input").value, rule: data.rules[0], blocks: [] };
    document.documentElement.style.setProperty("--aspect", aspect(data));
    if (data.sides.length > 1) {
      const titles = data.sides.map((side) => side.title).join("; right: ");
      $("#count").before(make("p", { class: "lead", text: "In each pair, left: " + titles }));
    }
    page.items = data.sides[0].units.map((_, unit) => tile(data, unit));
    restore();
    refill();
    const watch = new IntersectionObserver((entries) => entries.forEach((entry) => {
      entry.target.near = entry.isIntersecting;
      draw(entry.target);
    }), { rootMargin: "250px" });
    page.items.forEach((item) => watch.observe(item));
    listen();
    arrange();
    neighbours();
    follow();
  }
  /** Set the switches and the order as they were left on another page. */
  function restore() {
    for (const name of ["show", "rule"]) {
      const value = recall(name);
      if ([...document.querySelectorAll(`#${name} input`)].some((input) => input.value === value)) page[name] = value;
      check(name);
    }
    const sort = recall("sort");
    if ([...$("#sort").options].some((option) => option.value === sort)) $("#sort").value = sort;
  }
  /** Every switch of this name, of the page and of the panel, stands where the page does. */
  function check(name) {
    document.querySelectorAll(`#${name} input, #unit-${name} input`).forEach((input) => { input.checked = input.value === page[name]; });
  }
  /** What a change of a switch does: the tiles, and the panel where it is open, show something else. */
  function choose(name, value) {
    page[name] = value;
    remember(name, value);
    check(name);
    refill();
    if (name === "show" && $("#unit").open) featviz.panel.redraw($("#unit"), page.data, page.unit);
  }
  function listen() {
    for (const name of ["show", "rule"]) {
      if ($("#" + name)) $("#" + name).addEventListener("change", (event) => choose(name, event.target.value));
    }
    $("#sort").addEventListener("change", () => {
      remember("sort", $("#sort").value);
      arrange();
    });
    $("#filter").addEventListener("input", arrange);
    $("#controls").addEventListener("submit", (event) => event.preventDefault());
    $("#controls").addEventListener("click", featviz.download);
    const dialog = $("#unit");
    dialog.addEventListener("close", leave);
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }); // beside the panel
    window.addEventListener("hashchange", follow);
  }

  /** Links to the layers before and after this one, and a list of them all. */
  function neighbours() {
    const layers = network.layers.filter((layer) => layer.units);
    const here = layers.findIndex((layer) => layer.page === $("#main").dataset.page);
    const link = (layer, text, label) => (layer ? make("a", { href: layer.page, text, "aria-label": `${label} layer, ${layer.name}` }) : null);
    const option = (layer, i) => {
      const node = make("option", { value: layer.page, text: layer.name });
      node.selected = i === here;
      return node;
    };
    const list = make("select", { "aria-label": "Layer", change: (event) => { location.href = event.target.value; } }, ...layers.map(option));
    $("#neighbours").replaceChildren(...[link(layers[here - 1], "←", "Previous"), list, link(layers[here + 1], "→", "Next")].filter(Boolean));
  }

  // ---- a unit's panel ----------------------------------------------------------------------------------------------
  function follow() {
    const match = /^#unit-(\d+)$/.exec(location.hash);
    const unit = match ? Number(match[1]) : NaN;
    if (unit in page.items) open(unit);
    else if ($("#unit").open) $("#unit").close();
  }
  function leave() {
    if (location.hash) history.replaceState(null, "", location.href.split("#")[0]);
    document.title = page.title || document.title;
    const item = page.items[page.unit];
    if (item && item.isConnected) $("a", item).focus();
  }
  function step(by) {
    const at = page.order.indexOf(page.unit);
    const next = page.order[at + by];
    if (next === undefined) return;
    history.replaceState(null, "", `#unit-${next}`); // at once: following the address would come after the next key
    open(next);
  }

  function open(unit) {
    const { data } = page;
    page.unit = unit;
    page.title = page.title || document.title;
    const layer = $("h1").textContent;
    document.title = `${layer} unit ${unit}`;
    const dialog = $("#unit");
    const sections = data.sides.map((side) => make("section", {}, ...featviz.panel(data, side, side.units[unit])));
    dialog.replaceChildren(...[
      make("header", {}, make("h2", { id: "unit-title", tabindex: "-1", text: `${layer} · unit ${unit}` }),
        stepButton("←", "Previous unit", -1), stepButton("→", "Next unit", 1),
        make("button", { type: "button", text: "PNG", "data-figure": "unit", "data-format": "png", "aria-label": "Download as PNG" }),
        make("button", { type: "button", text: "PDF", "data-figure": "unit", "data-format": "pdf", "aria-label": "Download as PDF" }),
        make("button", { type: "button", text: "Close", click: () => dialog.close() })),
      isDead(unit) ? null : panelSwitch(),
      make("div", { class: data.sides.length > 1 ? "facing" : "" }, ...sections),
    ].filter(Boolean));
    check("show");
    dialog.onclick = featviz.download;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    $("#unit-title").focus({ preventScroll: true });
  }
  /** The page's switch between views again, in the panel. */
  function panelSwitch() {
    const labels = [...document.querySelectorAll("#show label")].map((label) => make("label", {},
      make("input", { type: "radio", name: "unit-show", value: $("input", label).value }), make("span", { text: label.textContent })));
    const options = make("div", { class: "switch", id: "unit-show", change: (event) => choose("show", event.target.value) }, ...labels);
    return make("div", { class: "controls" }, make("fieldset", {}, make("legend", { text: "Show" }), options));
  }
  function stepButton(text, label, by) {
    const next = page.order[page.order.indexOf(page.unit) + by];
    return make("button", { type: "button", text, "aria-label": label, disabled: next === undefined ? "" : null, click: () => step(by) });
  }

  // ---- keyboard ----------------------------------------------------------------------------------------------------
  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input:not([type='radio']), select, textarea");
    if ($("#search").open) {
      featviz.search.keys(event);
    } else if (event.key === "/" && !typing) {
      event.preventDefault();
      featviz.search.start();
    } else if (page) pageKeys(event, typing);
  }
  function pageKeys(event, typing) {
    const panel = $("#unit").open;
    const switching = event.target.matches("input[type='radio']"); // whose own keys the arrows are
    if (panel && !typing && !switching && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      event.preventDefault();
      step(event.key === "ArrowLeft" ? -1 : 1);
    } else if (!panel && event.key === "Escape") {
      if (typing) event.target.blur();
      else location.href = "index.html#" + $("#main").dataset.page.replace(".html", "");
    } else if (!panel && !event.target.matches("input, select") && event.key.startsWith("Arrow")) {
      stepAmongTiles(event);
    }
  }
  function stepAmongTiles(event) {
    const tiles = [...$("#tiles").children];
    const at = tiles.findIndex((item) => item.contains(document.activeElement));
    const secondRow = tiles.findIndex((item) => item.offsetTop !== tiles[0].offsetTop);
    const columns = secondRow < 0 ? tiles.length : secondRow;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = at < 0 ? tiles[0] : tiles[at + by];
    // where no tile has the focus, up and down scroll the page as ever
    if (next && (at >= 0 || event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      event.preventDefault();
      $("a", next).focus();
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    $("#open-search").addEventListener("click", featviz.search.start);
    $("#query").addEventListener("input", featviz.search.update);
    document.addEventListener("keydown", keys);
    begin();
  });
  return {
    // what the other scripts share with this one
    $, make, number, counted, percent, dominant, image, load, decoded, paint, shownBlocks, caption, crispClass, isSmall, isDead,
    get network() { return network; },
    get page() { return page; },
    /** What the scripts of units call. */
    sprite,
    /** What index.js calls. */
    setNetwork: (index) => {
      network = index;
      index.images.forEach(([id, ...names]) => image.set(id, names));
    },
  };
})();
