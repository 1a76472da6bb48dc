// The pages of a gallery: tiles that load as they come into view. What else there is, such as the address, the keyboard, a unit's
// panel and search, is in files of their own, which this one is loaded before.
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
  /** A name that may go on in a new line behind each dot, slash and underscore, and not within a word: children of an element. */
  const breakable = (name) => name.split(/(?<=[._/])/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));
  const number = (value) => value === null ? "not a number" : Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
  /** The class that dominates a unit's exemplars, where at least two of them share it. */
  const dominant = (unit) => (unit.label && unit.share * unit.exemplars.length > 1.5 ? unit.label : "");
  /** A share in words, in which only all of it is 100%. */
  function percent(share) {
    if (share > 0 && share < 0.01) return "below 1%";
    return (share < 1 ? Math.min(99, Math.round(100 * share)) : Math.round(100 * share)) + "%";
  }
  /** So many digits behind the point, with a sign where they are below zero. */
  function signed(value, digits) {
    const size = Math.abs(value).toFixed(digits);
    return (value < 0 && Number(size) ? "−" : "") + size;
  }
  const grouped = (n) => n.toLocaleString("en"); // 1,280
  const counted = (n, thing) => `${grouped(n)} ${thing}${n === 1 ? "" : "s"}`;
  /** Whether a text, in small letters, holds another: a space may stand for an underscore, a hyphen or a dot. */
  const even = (text) => text.replace(/[\s_.-]+/g, " ");
  const holds = (text, wanted) => text.includes(wanted) || even(text).includes(even(wanted));
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
  let kept = 200; // of them, so that a layer of thousands does not fill the memory

  /** A promise of the address of a unit's sprite. */
  function load(side, unit) {
    const address = addressOf(side, unit);
    const picture = sprites.get(address) || fetched(address);
    sprites.delete(address); // and set again, which makes it the last
    sprites.set(address, picture);
    if (sprites.size > kept) forget(sprites.keys().next().value);
    return picture;
  }
  /** A unit's own number: in a comparison another's, beside which it is, is its place on the page. */
  const ownNumber = (unit) => unit.own ?? unit.unit;
  const addressOf = (side, unit) => `${side.folder}/${side.units[unit]?.own ?? unit}.js`;
  /** The data of a page as it is of one side, whose layer may have another size of tiles and of maps. */
  const ofSide = (data, side) => ({ ...data, ...side.layer });
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
    sprites.delete(address);
    rests.delete(address);
  }
  const rests = new Map(); // address of a sprite -> what else its script holds
  /** The address of the picture of a unit's activation maps, and what else its panel shows, once its sprite is loaded. */
  const maps = (side, unit) => rests.get(addressOf(side, unit))?.maps || "";
  const details = (side, unit) => rests.get(addressOf(side, unit))?.details || null;
  /** What a unit's script calls. */
  function sprite(picture, maps, details) {
    rests.set(document.currentScript.getAttribute("src"), { maps, details });
    document.currentScript.received(picture);
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

  /** Show one block of a sprite, or of its preview, as the background of an element. */
  function paint(node, data, block, source, isPreview = false) {
    const n = data.blocks.length;
    const wide = Math.ceil(Math.sqrt(data.k)) * (data.tile[1] + 1) - 1; // pixels of a block
    const cut = node.classList.contains("crisp") ? 0 : 1; // half a pixel on either side, so that no neighbour shines through
    node.classList.toggle("preview", isPreview);
    node.style.backgroundImage = `url("${source}")`;
    node.style.backgroundSize = `${(100 * n * wide) / (wide - cut)}% 100%`;
    node.style.backgroundPosition = `${(100 * (block * wide + cut / 2)) / (n * wide - wide + cut)}% 0`;
  }
  /** The same in a tile, where a first layer's filter, large, takes the place of projections that are all that filter. */
  function paintFace(node, data, block, source, unit, isPreview) {
    if (unit.weights && data.blocks[block].view === "projection") {
      Object.assign(node.style, { backgroundImage: `url("${unit.weights}")`, backgroundSize: "contain", backgroundPosition: "50% 50%" });
    } else paint(node, data, block, source, isPreview);
  }
  function aspect(data) {
    const across = Math.ceil(Math.sqrt(data.k));
    const down = Math.ceil(data.k / across);
    return `${across * (data.tile[1] + 1) - 1} / ${down * (data.tile[0] + 1) - 1}`;
  }
  const isDead = (unit) => page.data.sides.every((side) => side.units[unit].dead);

  /** A unit as the first side shows it in which it is not dead. */
  function firstLiving(data, unit) {
    const units = data.sides.map((side) => side.units[unit]);
    return units.find((own) => !own.dead) || units[0];
  }
  function tile(data, unit) {
    const first = firstLiving(data, unit);
    const note = matches(data, unit) || dominant(first) || number(first.max);
    const name = make("div", { class: "name" },
      make("b", { text: String(unit) }),
      make("span", { text: isDead(unit) ? "" : note }));
    const link = make("a", { class: "tile", href: `#unit-${unit}`, "aria-label": `unit ${unit}: ${description(unit)}` },
      make("div", { class: "faces" }), name);
    return make("li", { "data-unit": unit }, link, featviz.list.box(unit));
  }
  /** How well the units of the other sides match; empty where they are those of the same number. */
  function matches(data, unit) {
    const values = data.sides.map((side) => side.units[unit].match).filter((value) => value !== undefined);
    return values.length ? `match ${values.map((value) => signed(value, 2)).join(", ")}` : "";
  }
  /** The pictures of a tile, still empty: those that the switch shows, side after side. */
  function faces(data, unit, blocks) {
    return data.sides.flatMap((side) => blocks.map(() => (side.units[unit].dead
      ? make("div", { class: "picture dead", text: side.units[unit].unmatched ? "no match" : "dead" })
      : make("div", { class: "picture" + crispClass(ofSide(data, side)) }))));
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
    previewAll(items);
    document.querySelectorAll(".trust").forEach((badge) => { badge.hidden = badge.dataset.rule !== page.rule; });
  }
  /** Put previews into all tiles, some in each frame, so that none is ever empty that comes into view. */
  async function previewAll(items) {
    const faces = items.map((item) => item.faces);
    for (const [unit, item] of items.entries()) {
      if (!item || item.faces !== faces[unit]) continue; // not shown, or made anew meanwhile
      page.data.sides.forEach((_, i) => preview(item, i));
      if (unit % 64 === 63) await new Promise(requestAnimationFrame);
    }
  }
  /** A tile in words, for who does not see it. */
  function description(unit) {
    if (isDead(unit)) return "dead, no image activates it";
    const first = firstLiving(page.data, unit);
    const response = `strongest response ${number(first.max)}`;
    const words = dominant(first) ? `${response}, most often ${first.label}` : response;
    return [words, matches(page.data, unit)].filter(Boolean).join(", ");
  }

  /** Draw what is in view, of the blocks that the switch shows; what has left the view is its preview again. */
  function draw(item) {
    page.data.sides.forEach((side, i) => {
      const unit = side.units[item.dataset.unit];
      if (unit.dead) return;
      if (!item.near) {
        if (item.drawn) put(item, i, unit.preview, true);
        return;
      }
      preview(item, i);
      item.drawn = load(side, unit.unit).then(
        (source) => { if (item.near) put(item, i, source, false); }, // it may have left the view meanwhile
        () => facesOf(item, i).forEach((picture) => { picture.textContent = "missing"; }));
    });
  }
  /** Show the preview of a side of a tile where it shows nothing yet. */
  function preview(item, i) {
    const unit = page.data.sides[i].units[item.dataset.unit];
    if (!unit.dead && !facesOf(item, i)[0].style.backgroundImage) put(item, i, unit.preview, true);
  }
  /** Show the picture of a side of a tile, which its preview stands for until it is there. */
  function put(item, i, source, isPreview) {
    const side = page.data.sides[i];
    const unit = side.units[item.dataset.unit];
    facesOf(item, i).forEach((picture, j) => paintFace(picture, ofSide(page.data, side), page.blocks[j], source, unit, isPreview));
  }
  const facesOf = (item, i) => item.faces.slice(i * page.blocks.length, (i + 1) * page.blocks.length);

  /** Units at their numbers, with holes for those that are not shown, which map, filter and forEach pass over. */
  function byNumber(units) {
    const all = [];
    units.forEach((unit) => { all[unit.unit] = unit; });
    return all;
  }

  /** Build the page of a layer from the data in it. */
  function begin() {
    const source = $("#data");
    if (!source) return; // the front page
    const data = JSON.parse(source.textContent);
    source.remove();
    page = { data, items: [], order: [], show: $("#show input").value, rule: data.rules[0], blocks: [], list: [], units: [] };
    document.documentElement.style.setProperty("--aspect", aspect(data));
    if (data.sides.length > 1) {
      $("#count").before(make("p", { class: "lead", text: "From the left: " + data.sides.map((side) => side.title).join("; ") }));
    }
    data.sides.forEach((side) => { side.units = byNumber(side.units); });
    page.items = data.sides[0].units.map((_, unit) => tile(data, unit));
    featviz.arrange.offerClasses();
    featviz.restore();
    const beside = ({ boundingClientRect: box }) => Math.max(-box.bottom, box.top - innerHeight, 0); // pixels from the view
    const watch = new IntersectionObserver((entries) => {
      entries.forEach((entry) => { entry.target.near = entry.isIntersecting; });
      const inView = entries.filter((entry) => !beside(entry)).map((entry) => entry.target);
      inView.forEach(draw);
      const rest = entries.filter(beside).sort((a, b) => beside(a) - beside(b)); // when what is in view is there
      Promise.allSettled(inView.map((item) => item.drawn)).then(() => rest.forEach((entry) => draw(entry.target)));
    }, { rootMargin: "250px" });
    page.items.forEach((item) => watch.observe(item));
    page.items.forEach((_, unit) => featviz.notes.mark(unit));
    listen();
    neighbours();
    featviz.address.begin();
  }
  function listen() {
    for (const name of ["show", "rule"]) {
      if ($("#" + name)) $("#" + name).addEventListener("change", (event) => featviz.choose(name, event.target.value));
    }
    for (const name of ["sort", "reverse", "only", "class", "filter"]) {
      if ($("#" + name)) $("#" + name).addEventListener("input", () => rearrange(name));
    }
    $("#controls").addEventListener("submit", (event) => event.preventDefault());
    $("#controls").addEventListener("click", featviz.download);
    $("#tiles").addEventListener("click", openTile);
    $("#print").addEventListener("click", printAll);
    featviz.list.begin();
    for (const dialog of [$("#unit"), $("#large")]) {
      dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }); // beside the panel
    }
    $("#unit").addEventListener("close", featviz.unit.closed);
    window.addEventListener("hashchange", featviz.address.follow);
  }
  /** Print the page of a layer, with the pictures of all its units. */
  async function printAll() {
    kept = Infinity;
    const items = page.order.map((unit) => page.items[unit]);
    items.forEach((item) => {
      item.near = true;
      draw(item);
    });
    await Promise.all(items.map((item) => item.drawn));
    await Promise.all([...sprites.values()].map((source) => source.then(decoded, () => {}))); // a picture that is not decoded yet prints as nothing
    print();
  }
  function rearrange(name) {
    if (name === "sort") remember(name, $("#sort").value);
    featviz.arrange();
    if (name === "filter") featviz.address.writeSoon();
    else featviz.address.write();
  }
  /** A click on a tile opens its unit, under an address that names what is chosen too; with a key held down, elsewhere. */
  function openTile(event) {
    const link = event.target.closest("a.tile");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    featviz.address.enter(Number(link.parentNode.dataset.unit));
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

  document.addEventListener("DOMContentLoaded", () => {
    $("#open-search").addEventListener("click", featviz.search.start);
    $("#query").addEventListener("input", featviz.search.update);
    document.addEventListener("keydown", featviz.keys);
    begin();
    featviz.images.begin();
    if (!page) featviz.front();
    featviz.imagePage.begin();
  });
  return {
    // what the other scripts share with this one
    $, make, breakable, number, signed, grouped, counted, holds, refill, percent, dominant, image, load, fetched, maps, aspect, details, decoded, remember, recall, paint, ownNumber, ofSide, shownBlocks, caption, crispClass, isSmall, isDead,
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
