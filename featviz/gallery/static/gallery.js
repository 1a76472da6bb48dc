// The pages of a gallery: tiles that load as they come into view, the unit panel, search, keyboard, downloads.
// Sprites come as scripts, since a page opened from disk may not read the pixels of a picture file.
"use strict";
const featviz = (() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  let network = { title: "", images: [], layers: [] };
  const image = new Map(); // number -> [key, label]
  let page = null; // the layer page, where there is one

  /** A new element; attributes by name, `text` as its text, functions as listeners, then children. */
  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "rect", "line", "text", "title"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
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
  const remember = (name, value) => { try { localStorage.setItem("featviz-" + name, value); } catch { /* private window */ } };
  const recall = (name) => { try { return localStorage.getItem("featviz-" + name); } catch { return null; } };

  // ---- sprites -----------------------------------------------------------------------------------------------------
  const sprites = new Map(); // address -> promise of a picture's address; the last used come last
  const KEPT = 200; // of them, so that a layer of thousands does not fill the memory

  function load(side, unit) {
    const address = `${side.folder}/${unit}.js`;
    const found = sprites.get(address) || new Promise((resolve, reject) => {
      const script = make("script", { src: address });
      script.received = resolve;
      script.onload = () => script.remove();
      script.onerror = () => { script.remove(); sprites.delete(address); reject(new Error(address)); };
      document.head.append(script);
    });
    sprites.delete(address);
    sprites.set(address, found);
    if (sprites.size > KEPT) forget(sprites.keys().next().value);
    return found;
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
  const names = (data) => ["patches", ...data.rules]; // the blocks of a sprite, from the left

  function paint(node, data, block, source) {
    const n = names(data).length;
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
    const faces = data.sides.map((side) => {
      const dead = side.units[unit].dead;
      const small = Math.max(...data.tile) <= 32;
      return make("div", { class: "picture" + (dead ? " dead" : "") + (small ? " crisp" : ""), text: dead ? "dead" : "" });
    });
    const first = data.sides[0].units[unit];
    const says = isDead(unit) ? "dead, no image activates it" : `strongest response ${number(first.max)}` + (dominant(first) ? `, most often ${first.label}` : "");
    const link = make("a", { class: "tile", href: `#unit-${unit}`, "aria-label": `unit ${unit}: ${says}` },
      make("div", { class: "faces" }, ...faces),
      make("div", { class: "name" }, make("b", { text: String(unit) }), make("span", { text: isDead(unit) ? "" : dominant(first) || number(first.max) })));
    const item = make("li", { "data-unit": unit }, link);
    item.faces = faces;
    return item;
  }

  /** Draw what is in view, of the block that the switch shows; what has left the view is forgotten. */
  function draw(item) {
    const { data, show } = page;
    const unit = Number(item.dataset.unit);
    data.sides.forEach((side, i) => {
      if (side.units[unit].dead) return;
      if (!item.near) item.faces[i].style.backgroundImage = "";
      else load(side, unit).then((source) => { if (item.near) paint(item.faces[i], data, names(data).indexOf(show), source); }, () => { item.faces[i].textContent = "missing"; });
    });
  }

  function words(unit) {
    const parts = [`unit ${unit}`];
    for (const side of page.data.sides) {
      for (const exemplar of side.units[unit].exemplars) parts.push(...(image.get(exemplar.image) || []));
    }
    return parts.filter(Boolean).join("\n").toLowerCase();
  }

  function arrange() {
    const { data, items } = page;
    const wanted = $("#filter").value.trim().toLowerCase();
    const by = $("#sort").value;
    const first = data.sides[0].units;
    const order = { unit: (u) => u, max: (u) => -first[u].max, active: (u) => first[u].active, share: (u) => -first[u].share }[by];
    const matches = (u) => !wanted || (/^\d+$/.test(wanted) ? String(u) === wanted : words(u).includes(wanted));
    page.order = items.map((_, u) => u).filter(matches).sort((a, b) => isDead(a) - isDead(b) || order(a) - order(b) || a - b);
    $("#tiles").replaceChildren(...page.order.map((u) => items[u]));
    const dead = page.order.filter(isDead).length;
    $("#count").textContent = `${page.order.length === items.length ? "" : page.order.length + " of "}${items.length} units` +
      (dead ? `, ${dead} of them dead and shown last` : "") + (page.order.length ? "" : ": nothing matches the filter");
  }

  function begin() {
    const source = $("#data");
    if (!source) return;
    const data = JSON.parse(source.textContent);
    source.remove();
    page = { data, items: [], order: [], show: data.rules[0] };
    document.documentElement.style.setProperty("--aspect", aspect(data));
    if (data.sides.length > 1) {
      $("#tiles").classList.add("sides");
      $("#count").before(make("p", { class: "lead", text: "In each pair, left: " + data.sides.map((side) => side.title).join("; right: ") }));
    }
    page.items = data.sides[0].units.map((_, unit) => tile(data, unit));
    const watch = new IntersectionObserver((entries) => entries.forEach((entry) => {
      entry.target.near = entry.isIntersecting;
      draw(entry.target);
    }), { rootMargin: "250px" });
    page.items.forEach((item) => watch.observe(item));
    const kept = recall("show");
    if (names(data).includes(kept)) page.show = kept;
    document.querySelectorAll("#show input").forEach((input) => { input.checked = input.value === page.show; });
    const known = recall("sort");
    if ([...$("#sort").options].some((option) => option.value === known)) $("#sort").value = known;
    $("#show").addEventListener("change", (event) => {
      page.show = event.target.value;
      remember("show", page.show);
      page.items.filter((item) => item.near).forEach(draw);
    });
    $("#sort").addEventListener("change", () => { remember("sort", $("#sort").value); arrange(); });
    $("#filter").addEventListener("input", arrange);
    $("#controls").addEventListener("submit", (event) => event.preventDefault());
    $("#controls").addEventListener("click", download);
    arrange();
    neighbours();
    const dialog = $("#unit");
    dialog.addEventListener("close", leave);
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    window.addEventListener("hashchange", follow);
    follow();
  }

  /** Links to the layers before and after this one, and a list of them all. */
  function neighbours() {
    const layers = network.layers.filter((layer) => layer.units);
    const here = layers.findIndex((layer) => layer.page === $("#main").dataset.page);
    const link = (layer, text, label) => (layer ? make("a", { href: layer.page, text, "aria-label": `${label} layer, ${layer.name}` }) : null);
    const list = make("select", { "aria-label": "Layer", change: (event) => { location.href = event.target.value; } },
      ...layers.map((layer, i) => { const option = make("option", { value: layer.page, text: layer.name }); option.selected = i === here; return option; }));
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
    const at = page.order.indexOf(unit);
    const button = (text, label, by) => make("button", { type: "button", text, "aria-label": label, disabled: page.order[at + by] === undefined ? "" : null, click: () => step(by) });
    dialog.replaceChildren(
      make("header", {}, make("h2", { id: "unit-title", tabindex: "-1", text: `${layer} · unit ${unit}` }),
        button("←", "Previous unit", -1), button("→", "Next unit", 1),
        make("button", { type: "button", text: "PNG", "data-figure": "unit", "data-format": "png", "aria-label": "Download as PNG" }),
        make("button", { type: "button", text: "PDF", "data-figure": "unit", "data-format": "pdf", "aria-label": "Download as PDF" }),
        make("button", { type: "button", text: "Close", click: () => dialog.close() })),
      make("div", { class: data.sides.length > 1 ? "facing" : "" }, ...data.sides.map((side) => make("section", {}, ...panel(data, side, side.units[unit])))));
    dialog.onclick = download;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    $("#unit-title").focus({ preventScroll: true });
  }

  function panel(data, side, unit) {
    const heading = data.sides.length > 1 ? [make("h3", { text: side.title })] : [];
    const fact = (name, value) => make("div", {}, make("dt", { text: name + " " }), make("dd", { text: value }));
    const facts = [fact("strongest response", number(unit.max)), fact("mean over the images", number(unit.mean)), fact("active on", `${percent(unit.active)} of the images`)];
    if (dominant(unit)) facts.push(fact("most frequent class", `${unit.label} (${percent(unit.share)} of the strongest)`));
    if (unit.dead) return [...heading, make("p", { class: "notice", text: "This unit is dead: no image activates it, so there is nothing to project." })];
    return [...heading, make("dl", { class: "stats" }, ...facts), blocks(data, side, unit),
      make("h3", { text: "Where in the images" }), exemplars(data, side, unit),
      make("h3", { text: "Strongest response in each image, over the data set" }), histogram(unit)];
  }

  function blocks(data, side, unit) {
    const small = Math.max(...data.tile) <= 32;
    const figures = names(data).map((name) => make("figure", {},
      make("figcaption", { text: name === "patches" ? "image patches" : `${name} projections` }),
      make("div", { class: "picture" + (small ? " crisp" : ""), role: "img", "aria-label": `${name} of unit ${unit.unit}` })));
    load(side, unit.unit).then((source) => figures.forEach((figure, i) => paint($(".picture", figure), data, i, source)),
      () => figures.forEach((figure) => { $(".picture", figure).textContent = "missing"; }));
    const weights = unit.weights ? [make("figure", { class: "weights" }, make("figcaption", { text: "its filter, the weights" }),
      make("img", { class: "picture crisp", src: unit.weights, alt: `weights of unit ${unit.unit}` }))] : [];
    return make("div", { class: "blocks" }, ...weights, ...figures.slice(1), figures[0]);
  }

  function exemplars(data, side, unit) {
    const [h, w] = data.input;
    return make("ol", { class: "exemplars" }, ...unit.exemplars.map((exemplar, rank) => {
      const [key, label] = image.get(exemplar.image) || ["", null];
      const [top, left, bottom, right] = exemplar.box;
      const place = `top:${(100 * top) / h}%;left:${(100 * left) / w}%;height:${(100 * (bottom - top)) / h}%;width:${(100 * (right - left)) / w}%`;
      const file = `${side.images}/${String(exemplar.image).padStart(6, "0")}.webp`;
      return make("li", {}, make("div", { class: "whole" }, make("img", { src: file, alt: `image ${key}`, loading: "lazy" }), make("div", { class: "box", style: place })),
        make("div", { class: "score", text: `${rank + 1}.  ${number(exemplar.score)}` }),
        label ? make("div", { text: label }) : null, make("div", { class: "key", text: key, title: key }),
        exemplar.whole ? make("div", { class: "quiet", text: "projected from the whole image" }) : null);
    }));
  }

  /** Bins of the record: not above 0; below 2**-16; then four to each doubling, the last without an end. */
  const LAST = 129;
  function edge(bin) { return bin < 1 ? -Infinity : bin < 2 ? 0 : 2 ** (-16 + Math.floor((bin - 2) / 4)) * (1 + ((bin - 2) % 4) / 4); }

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
      const says = bin === 0 ? "not above 0" : bin === LAST ? `${number(edge(bin))} and above` : `${number(edge(bin))} to ${number(edge(bin + 1))}`;
      svg.append(make("rect", { x, y: height - foot - tall, width: Math.max(1, each - 1), height: tall, class: bin ? "" : "none" }, make("title", { text: `${says}: ${count} image${count === 1 ? "" : "s"}` })));
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
    svg.append(make("text", { x: 10, y: 12, text: `${most} images` }), make("text", { x: width - 10, y: height - 3, "text-anchor": "end", text: "response (four bins to each doubling)" }));
    return svg;
  }

  // ---- downloads ---------------------------------------------------------------------------------------------------
  async function download(event) {
    const button = event.target.closest("button[data-figure]");
    if (!button) return;
    const units = button.dataset.figure === "unit" ? [page.unit] : page.order.filter((unit) => !isDead(unit));
    button.disabled = true;
    try {
      const canvas = await figure(units);
      const stem = ($("h1").textContent + (units.length === 1 ? `-unit-${units[0]}` : "")).replace(/[^\w.@-]+/g, "_").slice(0, 80);
      save(button.dataset.format === "pdf" ? await pdf(canvas) : await blob(canvas, "image/png"), `${stem}.${button.dataset.format}`);
    } finally { button.disabled = false; }
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
    const found = units.flatMap((unit) => data.sides.filter((side) => !side.units[unit].dead).map((side) => ({ unit, side })));
    const pictureOf = async ({ unit, side }) => decoded(await load(side, unit));
    const n = names(data).length;
    const first = found.length ? await pictureOf(found[0]) : { width: 300, height: 100 }; // all of a layer are of one size
    const most = first.height;
    const scale = found.length === data.sides.length ? Math.max(1, Math.round(480 / most)) : Math.min(Math.max(1, Math.round(96 / most)), Math.sqrt(3e7 / (Math.max(1, found.length) * most * most * n)));
    const [w, h] = [first.width * scale, first.height * scale];
    const columns = Math.max(1, Math.min(found.length, Math.round(Math.sqrt((1.3 * found.length * (h + 28)) / (w + 12)))));
    const head = 54;
    const canvas = make("canvas", { width: Math.max(620, Math.ceil(columns * (w + 12) + 16)), height: Math.ceil(head + Math.ceil(found.length / columns) * (h + 28) + 12) });
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = Math.max(...data.tile) > 32;
    pen.fillStyle = "#1b1b1f";
    pen.font = "bold 17px sans-serif";
    pen.fillText(`${network.title}: ${$("h1").textContent}` + (units.length === 1 ? `, unit ${units[0]}` : ""), 12, 24);
    pen.font = "13px sans-serif";
    pen.fillText(`${[...data.rules, "image patches"].join(" | ")}: the ${data.k} strongest responses; middle grey = 0`, 12, 44);
    const put = ({ unit, side }, picture, i) => {
      const [x, y] = [12 + (i % columns) * (w + 12), head + Math.floor(i / columns) * (h + 28)];
      const part = picture.width / n;
      pen.fillText(data.sides.length > 1 ? `${unit}, ${side.title}` : String(unit), x, y + 13, w);
      for (let block = 0; block < n; block++) { // patches, which come first in the sprite, go to the right
        pen.drawImage(picture, part * ((block + 1) % n), 0, part, picture.height, x + (w / n) * block, y + 18, w / n - 2, h);
      }
    };
    for (let at = 0; at < found.length; at += 16) { // a few at a time, so that not all are held unpacked
      const some = found.slice(at, at + 16);
      (await Promise.all(some.map(pictureOf))).forEach((picture, i) => put(some[i], picture, at + i));
    }
    return canvas;
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
    const parts = ["%PDF-1.4\n"];
    const size = () => parts.reduce((sum, part) => sum + (part.size ?? part.length), 0);
    const starts = objects.map((object, i) => {
      const start = size();
      parts.push(`${i + 1} 0 obj\n`, ...object, "\nendobj\n");
      return start;
    });
    const table = size();
    parts.push(`xref\n0 ${objects.length + 1}\n0000000000 65535 f \n`, ...starts.map((start) => `${String(start).padStart(10, "0")} 00000 n \n`));
    parts.push(`trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${table}\n%%EOF\n`);
    return new Blob(parts, { type: "application/pdf" });
  }

  // ---- search ------------------------------------------------------------------------------------------------------
  function results(query) {
    const text = query.trim().toLowerCase();
    if (!text) return [];
    const found = [];
    const address = /^(?:(.*?)[\s:#]+)?(?:unit[\s-]*)?(\d+)$/.exec(text);
    const matching = new Set([...image].filter(([, words]) => words.some((word) => word && word.toLowerCase().includes(text))).map(([id]) => id));
    const many = [];
    for (const layer of network.layers.filter((one) => one.units)) {
      const name = layer.name.toLowerCase();
      if (name.includes(text)) found.push({ href: layer.page, name: layer.name, note: `layer, ${layer.units.length} units` });
      for (const [unit, label, exemplars] of layer.units) {
        const href = `${layer.page}#unit-${unit}`;
        if (address && Number(address[2]) === unit && name.includes(address[1] || "")) {
          found.push({ href, name: `${layer.name} unit ${unit}`, note: label || "" });
        } else if (matching.size) {
          const hits = exemplars.filter((id) => matching.has(id)).length;
          if (hits) many.push({ href, name: `${layer.name} unit ${unit}`, note: `${hits} of its ${exemplars.length} strongest`, hits });
        }
      }
    }
    return [...found, ...many.sort((a, b) => b.hits - a.hits)];
  }

  function search() {
    const list = results($("#query").value);
    const shown = list.slice(0, 100);
    $("#found").textContent = $("#query").value.trim() ? (list.length > 100 ? `the first 100 of ${list.length} results` : `${list.length} result${list.length === 1 ? "" : "s"}`) : "";
    $("#results").replaceChildren(...shown.map((one, i) => make("li", { role: "option", id: `result-${i}`, "aria-selected": String(i === 0) },
      make("a", { href: one.href, tabindex: "-1", text: one.name, click: () => $("#search").close() }, make("span", { text: one.note })))));
    choose(0);
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
      const at = [...$("#results").children].findIndex((option) => option.getAttribute("aria-selected") === "true");
      if (event.key === "Escape") $("#search").close(); // at once, where the field would first be emptied
      else if (event.key === "ArrowDown") choose(at + 1);
      else if (event.key === "ArrowUp") choose(at - 1);
      else if (event.key === "Enter" && event.target.id === "query") { const link = $("#results [aria-selected='true'] a"); if (link) link.click(); }
      else return;
      event.preventDefault();
    } else if (event.key === "/" && !typing) {
      event.preventDefault();
      startSearch();
    } else if (page) pageKeys(event, typing);
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
      const tiles = [...$("#tiles").children];
      const at = tiles.findIndex((item) => item.contains(document.activeElement));
      const inFirstRow = tiles.findIndex((item) => item.offsetTop !== tiles[0].offsetTop);
      const columns = inFirstRow < 0 ? tiles.length : inFirstRow;
      const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
      const next = at < 0 ? tiles[0] : tiles[at + by];
      if (next && (at >= 0 || event.key === "ArrowRight" || event.key === "ArrowLeft")) {
        event.preventDefault();
        $("a", next).focus();
      }
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
    network: (found) => {
      network = found;
      found.images.forEach(([id, ...words]) => image.set(id, words));
    },
  };
})();
