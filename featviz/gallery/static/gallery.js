// The pages of a gallery: tiles that load as they come into view, the unit panel, search, keyboard, downloads.
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
  const number = (value) => Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
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
  const blockNames = (data) => ["patches", ...data.rules]; // the blocks of a sprite, from the left
  const isSmall = (data) => Math.max(...data.tile) <= 32; // tiles whose pixels are shown as squares
  const crispClass = (data) => (isSmall(data) ? " crisp" : "");

  /** Show one block of a sprite as the background of an element. */
  function paint(node, data, block, source) {
    const n = blockNames(data).length;
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
    const faces = data.sides.map((side) => face(data, side.units[unit]));
    const note = dominant(data.sides[0].units[unit]) || number(data.sides[0].units[unit].max);
    const name = make("div", { class: "name" },
      make("b", { text: String(unit) }),
      make("span", { text: isDead(unit) ? "" : note }));
    const link = make("a", { class: "tile", href: `#unit-${unit}`, "aria-label": `unit ${unit}: ${description(unit)}` },
      make("div", { class: "faces" }, ...faces), name);
    const item = make("li", { "data-unit": unit }, link);
    item.faces = faces;
    return item;
  }
  function face(data, unit) {
    if (unit.dead) return make("div", { class: "picture dead" + crispClass(data), text: "dead" });
    return make("div", { class: "picture" + crispClass(data) });
  }
  /** A tile in words, for who does not see it. */
  function description(unit) {
    if (isDead(unit)) return "dead, no image activates it";
    const first = page.data.sides[0].units[unit];
    const response = `strongest response ${number(first.max)}`;
    return dominant(first) ? `${response}, most often ${first.label}` : response;
  }

  /** Draw what is in view, of the block that the switch shows; what has left the view is forgotten. */
  function draw(item) {
    const { data, show } = page;
    const unit = Number(item.dataset.unit);
    data.sides.forEach((side, i) => {
      if (side.units[unit].dead) return;
      if (!item.near) {
        item.faces[i].style.backgroundImage = "";
        return;
      }
      const block = blockNames(data).indexOf(show);
      load(side, unit).then(
        (source) => { if (item.near) paint(item.faces[i], data, block, source); }, // it may have left the view meanwhile
        () => { item.faces[i].textContent = "missing"; });
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
    page = { data, items: [], order: [], show: data.rules[0] };
    document.documentElement.style.setProperty("--aspect", aspect(data));
    if (data.sides.length > 1) {
      const titles = data.sides.map((side) => side.title).join("; right: ");
      $("#tiles").classList.add("sides");
      $("#count").before(make("p", { class: "lead", text: "In each pair, left: " + titles }));
    }
    page.items = data.sides[0].units.map((_, unit) => tile(data, unit));
    const watch = new IntersectionObserver((entries) => entries.forEach((entry) => {
      entry.target.near = entry.isIntersecting;
      draw(entry.target);
    }), { rootMargin: "250px" });
    page.items.forEach((item) => watch.observe(item));
    restore(data);
    listen();
    arrange();
    neighbours();
    follow();
  }
  /** Set the switch and the order as they were left on another page. */
  function restore(data) {
    const show = recall("show");
    if (blockNames(data).includes(show)) page.show = show;
    document.querySelectorAll("#show input").forEach((input) => { input.checked = input.value === page.show; });
    const sort = recall("sort");
    if ([...$("#sort").options].some((option) => option.value === sort)) $("#sort").value = sort;
  }
  function listen() {
    $("#show").addEventListener("change", (event) => {
      page.show = event.target.value;
      remember("show", page.show);
      page.items.filter((item) => item.near).forEach(draw);
    });
    $("#sort").addEventListener("change", () => {
      remember("sort", $("#sort").value);
      arrange();
    });
    $("#filter").addEventListener("input", arrange);
    $("#controls").addEventListener("submit", (event) => event.preventDefault());
    $("#controls").addEventListener("click", download);
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
    const sections = data.sides.map((side) => make("section", {}, ...panel(data, side, side.units[unit])));
    dialog.replaceChildren(
      make("header", {}, make("h2", { id: "unit-title", tabindex: "-1", text: `${layer} · unit ${unit}` }),
        stepButton("←", "Previous unit", -1), stepButton("→", "Next unit", 1),
        make("button", { type: "button", text: "PNG", "data-figure": "unit", "data-format": "png", "aria-label": "Download as PNG" }),
        make("button", { type: "button", text: "PDF", "data-figure": "unit", "data-format": "pdf", "aria-label": "Download as PDF" }),
        make("button", { type: "button", text: "Close", click: () => dialog.close() })),
      make("div", { class: data.sides.length > 1 ? "facing" : "" }, ...sections));
    dialog.onclick = download;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    $("#unit-title").focus({ preventScroll: true });
  }
  function stepButton(text, label, by) {
    const next = page.order[page.order.indexOf(page.unit) + by];
    return make("button", { type: "button", text, "aria-label": label, disabled: next === undefined ? "" : null, click: () => step(by) });
  }

  /** One network's side of a unit's panel. */
  function panel(data, side, unit) {
    const heading = data.sides.length > 1 ? [make("h3", { text: side.title })] : [];
    if (unit.dead) return [...heading, make("p", { class: "notice", text: "This unit is dead: no image activates it, so there is nothing to project." })];
    return [...heading, make("dl", { class: "stats" }, ...facts(unit)), blocks(data, side, unit),
      make("h3", { text: "Where in the images" }), exemplars(data, side, unit),
      make("h3", { text: "Strongest response in each image, over the data set" }), histogram(unit)];
  }
  function facts(unit) {
    const values = [
      ["strongest response", number(unit.max)],
      ["mean over the images", number(unit.mean)],
      ["active on", `${percent(unit.active)} of the images`],
    ];
    if (dominant(unit)) values.push(["most frequent class", `${unit.label} (${percent(unit.share)} of the strongest)`]);
    return values.map(([name, value]) => make("div", {}, make("dt", { text: name + " " }), make("dd", { text: value })));
  }

  /** The tiles of a unit, large: its weights in a first layer, the projections, the patches. */
  function blocks(data, side, unit) {
    const figures = blockNames(data).map((name) => make("figure", {},
      make("figcaption", { text: name === "patches" ? "image patches" : `${name} projections` }),
      make("div", { class: "picture" + crispClass(data), role: "img", "aria-label": `${name} of unit ${unit.unit}` })));
    const pictures = figures.map((figure) => $(".picture", figure));
    load(side, unit.unit).then(
      (source) => pictures.forEach((picture, i) => paint(picture, data, i, source)),
      () => pictures.forEach((picture) => { picture.textContent = "missing"; }));
    const weights = unit.weights ? [make("figure", { class: "weights" },
      make("figcaption", { text: "its filter, the weights" }),
      make("img", { class: "picture crisp", src: unit.weights, alt: `weights of unit ${unit.unit}` }))] : [];
    return make("div", { class: "blocks" }, ...weights, ...figures.slice(1), figures[0]);
  }

  const COMPUTED = {
    "full image": "projected from the full image",
    fallback: "projected from the full image: the crop did not give the recorded response",
  };
  function exemplars(data, side, unit) {
    const items = unit.exemplars.map((exemplar, rank) => {
      const [key, label] = image.get(exemplar.image) || ["", null];
      const computed = COMPUTED[exemplar.computed]; // a crop is the rule, and needs no words
      return make("li", {}, boxed(data, side, exemplar, key),
        make("div", { class: "score", text: `${rank + 1}.  ${number(exemplar.score)}` }),
        label ? make("div", { text: label }) : null,
        make("div", { class: "key", text: key, title: key }),
        computed ? make("div", { class: "quiet", text: computed }) : null);
    });
    return make("ol", { class: "exemplars" }, ...items);
  }
  /** An image with the box of the receptive field on it. */
  function boxed(data, side, exemplar, key) {
    const [height, width] = data.input;
    const [top, left, bottom, right] = exemplar.box;
    const position = `top:${(100 * top) / height}%;left:${(100 * left) / width}%`;
    const size = `height:${(100 * (bottom - top)) / height}%;width:${(100 * (right - left)) / width}%`;
    const file = `${side.images}/${String(exemplar.image).padStart(6, "0")}.webp`;
    return make("div", { class: "boxed" },
      make("img", { src: file, alt: `image ${key}`, loading: "lazy" }),
      make("div", { class: "box", style: `${position};${size}` }));
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
    const svg = make("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of unit ${unit.unit}: strongest response in each image` });
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
    for (let bin = from; bin <= to + 1; bin += every) {
      const x = 10 + (bin - from + gap) * each;
      if (x < width - 30) svg.append(make("text", { x, y: height - foot + 15, text: number(edge(bin)) }));
    }
    svg.append(make("text", { x: 10, y: 12, text: counted(most, "image") }),
      make("text", { x: width - 10, y: height - 3, "text-anchor": "end", text: "response (four bins to each doubling)" }));
    return svg;
  }

  // ---- downloads ---------------------------------------------------------------------------------------------------
  async function download(event) {
    const button = event.target.closest("button[data-figure]");
    if (!button) return;
    const units = button.dataset.figure === "unit" ? [page.unit] : page.order.filter((unit) => !isDead(unit));
    const stem = $("h1").textContent + (units.length === 1 ? `-unit-${units[0]}` : "");
    button.disabled = true;
    try {
      const canvas = await figure(units);
      const content = button.dataset.format === "pdf" ? await pdf(canvas) : await blob(canvas, "image/png");
      save(content, `${stem.replace(/[^\w.@-]+/g, "_").slice(0, 80)}.${button.dataset.format}`);
    } finally {
      button.disabled = false;
    }
  }
  const blob = (canvas, type, quality) => new Promise((resolve) => canvas.toBlob(resolve, type, quality));
  function save(content, name) {
    const address = URL.createObjectURL(content);
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  }

  /** Units as in the paper's figure 2, projections left of patches, on a canvas. */
  async function figure(units) {
    const { data } = page;
    const living = (unit) => data.sides.filter((side) => !side.units[unit].dead);
    const shown = units.flatMap((unit) => living(unit).map((side) => ({ unit, side })));
    const pictureOf = async ({ unit, side }) => decoded(await load(side, unit));
    const n = blockNames(data).length;
    const first = shown.length ? await pictureOf(shown[0]) : { width: 300, height: 100 }; // all of a layer are of one size
    const scale = figureScale(shown.length, n, first.height);
    const [w, h] = [first.width * scale, first.height * scale];
    const columns = Math.max(1, Math.min(shown.length, Math.round(Math.sqrt((1.3 * shown.length * (h + 28)) / (w + 12)))));
    const rows = Math.ceil(shown.length / columns);
    const head = 54;
    const canvas = make("canvas", { width: Math.max(620, Math.ceil(columns * (w + 12) + 16)), height: Math.ceil(head + rows * (h + 28) + 12) });
    const pen = canvas.getContext("2d");
    writeHead(pen, units);
    const put = ({ unit, side }, picture, i) => {
      const [x, y] = [12 + (i % columns) * (w + 12), head + Math.floor(i / columns) * (h + 28)];
      const blockWidth = picture.width / n;
      pen.fillText(data.sides.length > 1 ? `${unit}, ${side.title}` : String(unit), x, y + 13, w);
      for (let block = 0; block < n; block++) { // patches, which come first in the sprite, go to the right
        pen.drawImage(picture, blockWidth * ((block + 1) % n), 0, blockWidth, picture.height, x + (w / n) * block, y + 18, w / n - 2, h);
      }
    };
    for (let start = 0; start < shown.length; start += 16) { // a few at a time, so that not all are held unpacked
      const group = shown.slice(start, start + 16);
      const pictures = await Promise.all(group.map(pictureOf));
      pictures.forEach((picture, i) => put(group[i], picture, start + i));
    }
    return canvas;
  }
  /** How much sprites of this height are enlarged: a single unit fills a screen, a layer some 30 megapixels at most. */
  function figureScale(count, blocks, height) {
    if (count === page.data.sides.length) return Math.max(1, Math.round(480 / height));
    const pixels = Math.max(1, count) * height * height * blocks;
    return Math.min(Math.max(1, Math.round(96 / height)), Math.sqrt(3e7 / pixels));
  }
  function writeHead(pen, units) {
    const { data } = page;
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
    pen.imageSmoothingEnabled = !isSmall(data);
    pen.fillStyle = "#1b1b1f";
    pen.font = "bold 17px sans-serif";
    pen.fillText(`${network.title}: ${$("h1").textContent}` + (units.length === 1 ? `, unit ${units[0]}` : ""), 12, 24);
    pen.font = "13px sans-serif";
    pen.fillText(`${[...data.rules, "image patches"].join(" | ")}: the ${data.k} strongest responses; middle grey = 0`, 12, 44);
  }

  /** One page that shows the canvas. */
  async function pdf(canvas) {
    const jpeg = await blob(canvas, "image/jpeg", 0.93);
    const [w, h] = [canvas.width * 0.75, canvas.height * 0.75]; // points
    const drawing = `q ${w} 0 0 ${h} 0 0 cm /I Do Q`;
    const objects = [
      ["<< /Type /Catalog /Pages 2 0 R >>"], ["<< /Type /Pages /Kids [3 0 R] /Count 1 >>"],
      [`<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${w} ${h}] /Contents 4 0 R /Resources << /XObject << /I 5 0 R >> >> >>`],
      [`<< /Length ${drawing.length} >>\nstream\n${drawing}\nendstream`],
      [`<< /Type /XObject /Subtype /Image /Width ${canvas.width} /Height ${canvas.height} /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /DCTDecode /Length ${jpeg.size} >>\nstream\n`, jpeg, "\nendstream"],
    ];
    const chunks = ["%PDF-1.4\n"];
    const size = () => chunks.reduce((sum, chunk) => sum + (chunk.size ?? chunk.length), 0);
    const starts = objects.map((object, i) => {
      const start = size();
      chunks.push(`${i + 1} 0 obj\n`, ...object, "\nendobj\n");
      return start;
    });
    const table = size();
    chunks.push(`xref\n0 ${objects.length + 1}\n0000000000 65535 f \n`, ...starts.map((start) => `${String(start).padStart(10, "0")} 00000 n \n`));
    chunks.push(`trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${table}\n%%EOF\n`);
    return new Blob(chunks, { type: "application/pdf" });
  }

  // ---- search ------------------------------------------------------------------------------------------------------
  /** What a query leads to: layers by name, units by number, then units by the images that they respond to. */
  function results(query) {
    const text = query.trim().toLowerCase();
    if (!text) return [];
    const address = /^(?:(.*?)[\s:#]+)?(?:unit[\s-]*)?(\d+)$/.exec(text); // conv3 17, conv3:17, conv3 unit 17, 17
    const matching = imagesNamed(text);
    const byName = [];
    const byImage = [];
    for (const layer of network.layers.filter((each) => each.units)) {
      const name = layer.name.toLowerCase();
      if (name.includes(text)) byName.push({ href: layer.page, name: layer.name, note: `layer, ${layer.units.length} units` });
      for (const [unit, label, exemplars] of layer.units) {
        const result = { href: `${layer.page}#unit-${unit}`, name: `${layer.name} unit ${unit}` };
        if (address && Number(address[2]) === unit && name.includes(address[1] || "")) {
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
    const holding = [...image].filter(([, names]) => names.some((name) => name && name.toLowerCase().includes(text)));
    return new Set(holding.map(([id]) => id));
  }

  const SHOWN = 100; // results
  function search() {
    const list = results($("#query").value);
    $("#result-count").textContent = $("#query").value.trim() ? resultCount(list.length) : "";
    $("#results").replaceChildren(...list.slice(0, SHOWN).map(resultItem));
    choose(0);
  }
  const resultCount = (n) => (n > SHOWN ? `the first ${SHOWN} of ${n} results` : counted(n, "result"));
  function resultItem(result, i) {
    const link = make("a", { href: result.href, tabindex: "-1", text: result.name, click: () => $("#search").close() }, make("span", { text: result.note }));
    return make("li", { role: "option", id: `result-${i}`, "aria-selected": String(i === 0) }, link);
  }
  function choose(to) {
    const options = [...$("#results").children];
    if (!options.length) return $("#query").removeAttribute("aria-activedescendant");
    const at = Math.max(0, Math.min(options.length - 1, to));
    options.forEach((option, i) => option.setAttribute("aria-selected", String(i === at)));
    options[at].scrollIntoView({ block: "nearest" });
    return $("#query").setAttribute("aria-activedescendant", options[at].id);
  }
  function startSearch() {
    $("#search").showModal();
    $("#query").select();
  }

  // ---- keyboard ----------------------------------------------------------------------------------------------------
  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input:not([type='radio']), select, textarea");
    if ($("#search").open) {
      searchKeys(event);
    } else if (event.key === "/" && !typing) {
      event.preventDefault();
      startSearch();
    } else if (page) pageKeys(event, typing);
  }
  function searchKeys(event) {
    const at = [...$("#results").children].findIndex((option) => option.getAttribute("aria-selected") === "true");
    if (event.key === "Escape") $("#search").close(); // at once, where the field would first be emptied
    else if (event.key === "ArrowDown") choose(at + 1);
    else if (event.key === "ArrowUp") choose(at - 1);
    else if (event.key === "Enter" && event.target.id === "query") $("#results [aria-selected='true'] a")?.click();
    else return;
    event.preventDefault();
  }
  function pageKeys(event, typing) {
    const panel = $("#unit").open;
    if (panel && !typing && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
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
    $("#open-search").addEventListener("click", startSearch);
    $("#query").addEventListener("input", search);
    document.addEventListener("keydown", keys);
    begin();
  });
  return {
    sprite,
    /** What index.js calls. */
    network: (index) => {
      network = index;
      index.images.forEach(([id, ...names]) => image.set(id, names));
    },
  };
})();
