// Figures to download: units drawn on a canvas, as PNG or as a PDF of one page.
"use strict";
featviz.download = (() => {
  const { $, make, load, decoded, caption, isSmall, isDead } = featviz;

  /** What a click on a button of `data-figure` does. */
  async function download(event) {
    const button = event.target.closest("button[data-figure]");
    if (!button) return;
    const units = button.dataset.figure === "unit" ? featviz.page.units : featviz.page.order.filter((unit) => !isDead(unit));
    const stem = $("h1").textContent + (button.dataset.figure === "unit" ? `-unit-${units.join("-")}` : "");
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

  /** Units as in the paper's figure 2, what the switch shows left of the patches, on a canvas. */
  async function figure(units) {
    const { data } = featviz.page;
    const living = (unit) => data.sides.filter((side) => !side.units[unit].dead);
    const shown = units.flatMap((unit) => living(unit).map((side) => ({ unit, side })));
    const pictureOf = async ({ unit, side }) => decoded(await load(side, unit));
    const blocks = featviz.panel.panelBlocks(data);
    const n = blocks.length;
    const first = shown.length ? await pictureOf(shown[0]) : { width: 300, height: 100 }; // all of a layer are of one size
    const scale = figureScale(shown.length, n, first.height);
    const [blockWide, h] = [(first.width / data.blocks.length) * scale, first.height * scale];
    const apart = Math.round(Math.max(6, 0.03 * h, 4 * scale)); // more than between tiles, so that it is seen where a block ends
    const w = n * (blockWide + apart) - apart;
    const columns = Math.max(1, Math.min(shown.length, Math.round(Math.sqrt((1.3 * shown.length * (h + 28)) / (w + 12)))));
    const rows = Math.ceil(shown.length / columns);
    const marks = marksOf(shown, blocks);
    const head = marks.length ? 74 : 54;
    const canvas = make("canvas", { width: Math.max(620, Math.ceil(columns * (w + 12) + 16)), height: Math.ceil(head + rows * (h + 28) + 12) });
    const pen = canvas.getContext("2d");
    writeHead(pen, units, blocks, marks);
    const put = ({ unit, side }, picture, i) => {
      const [x, y] = [12 + (i % columns) * (w + 12), head + Math.floor(i / columns) * (h + 28)];
      const blockWidth = picture.width / data.blocks.length;
      pen.fillText(data.sides.length > 1 ? `${featviz.ownNumber(side.units[unit])}, ${side.title}` : String(unit), x, y + 13, w);
      blocks.forEach((block, column) => pen.drawImage(picture, blockWidth * block, 0, blockWidth, picture.height, x + (blockWide + apart) * column, y + 18, blockWide, h));
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
    if (count === featviz.page.data.sides.length) return Math.max(1, Math.round(480 / height));
    const pixels = Math.max(1, count) * height * height * blocks;
    return Math.min(Math.max(1, Math.round(96 / height)), Math.sqrt(3e7 / pixels));
  }
  /** What a reader has to know of the pictures of a figure: which hardly depend on the unit or on the image. */
  function marksOf(shown, blocks) {
    const { data } = featviz.page;
    const rules = blocks.map((block) => data.blocks[block].rule);
    const marks = shown.flatMap(({ side }) => rules.filter((rule) => side.marks[rule]).map((rule) => {
      const whose = data.sides.length > 1 ? `${side.title}: ` : "";
      return `${whose}${rule} ${side.marks[rule]}`;
    }));
    return [...new Set(marks)];
  }
  function writeHead(pen, units, blocks, marks) {
    const { data } = featviz.page;
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
    pen.imageSmoothingEnabled = !isSmall(data);
    pen.fillStyle = "#1b1b1f";
    pen.font = "bold 17px sans-serif";
    pen.fillText(`${featviz.network.title}: ${$("h1").textContent}` + (units.length === 1 ? `, unit ${units[0]}` : ""), 12, 24);
    pen.font = "13px sans-serif";
    const captions = blocks.map((block) => caption(data, block));
    pen.fillText(`${captions.join(" | ")}: the ${data.k} strongest responses; middle grey = 0`, 12, 44, pen.canvas.width - 24);
    if (marks.length) pen.fillText(`≈ ${marks.join("; ")}`, 12, 64, pen.canvas.width - 24);
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

  return Object.assign(download, { save });
})();
