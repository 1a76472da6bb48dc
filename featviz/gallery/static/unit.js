// What opens above the page of a layer: a unit's panel, or those of the listed units side by side.
"use strict";
featviz.unit = (() => {
  const { $, make, isDead } = featviz;

  /** Open what an address names: a unit by its number, the list, or nothing. */
  function show(view) {
    const { page } = featviz;
    $("#large").close(); // an exemplar of what was open
    if (view === "") $("#unit").close();
    else open(view === featviz.address.BESIDE ? page.list : [view]);
  }
  function open(units) {
    const { page } = featviz;
    const { data } = page;
    const layer = $("h1").textContent;
    const title = units.length > 1 ? `units ${units.join(", ")}` : `unit ${units[0]}`;
    page.units = units;
    page.title = page.title || document.title;
    document.title = `${layer} ${title}`;
    const dialog = $("#unit");
    const sections = units.flatMap((unit) => data.sides.map((side, i) => make("section", { "data-unit": unit, "data-side": i },
      units.length > 1 ? make("h3", { class: "unit" }, make("a", { href: `#unit-${unit}`, text: `unit ${unit}` })) : "",
      ...featviz.panel(data, side, side.units[unit]))));
    dialog.replaceChildren(...[
      make("div", { class: "head" }, make("h2", { id: "unit-title", tabindex: "-1", text: `${layer} · ${title}` }), ...buttons(units)),
      units.every(isDead) ? null : panelSwitch(),
      make("div", { class: sections.length > 1 ? "facing" : "" }, ...sections),
      units.length === 1 ? featviz.notes.field(units[0]) : null,
    ].filter(Boolean));
    featviz.check("show");
    dialog.onclick = featviz.download;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    $("#unit-title").focus({ preventScroll: true });
  }
  function buttons(units) {
    const steps = [stepButton("←", "Previous unit", -1), stepButton("→", "Next unit", 1), featviz.list.button(units[0])];
    return [
      ...(units.length === 1 ? steps : []),
      make("button", { type: "button", text: "PNG", "data-figure": "unit", "data-format": "png", "aria-label": "Download as PNG" }),
      make("button", { type: "button", text: "PDF", "data-figure": "unit", "data-format": "pdf", "aria-label": "Download as PDF" }),
      make("button", { type: "button", text: "Print", click: () => print() }),
      make("button", { type: "button", text: "Close", click: () => $("#unit").close() }),
    ];
  }
  /** The page's switch between views again, in the panel. */
  function panelSwitch() {
    const labels = [...document.querySelectorAll("#show label")].map((label) => make("label", {},
      make("input", { type: "radio", name: "unit-show", value: $("input", label).value }), make("span", { text: label.textContent })));
    const options = make("div", { class: "switch", id: "unit-show", change: (event) => featviz.choose("show", event.target.value) }, ...labels);
    return make("div", { class: "controls" }, make("fieldset", {}, make("legend", { text: "Show" }), options));
  }
  function next(by) {
    const { page } = featviz;
    return page.units.length === 1 ? page.order[page.order.indexOf(page.units[0]) + by] : undefined;
  }
  function stepButton(text, label, by) {
    return make("button", { type: "button", text, "aria-label": label, disabled: next(by) === undefined ? "" : null, click: () => step(by) });
  }
  function step(by) {
    const unit = next(by);
    if (unit === undefined) return;
    featviz.address.write(unit); // at once: following the address would come after the next key
    open([unit]);
  }
  /** What closing does: the address is that of the page again, and the focus where it came from. */
  function closed() {
    const { page } = featviz;
    featviz.address.leave();
    document.title = page.title || document.title;
    featviz.list.arrangePicked();
    const item = page.items[page.units[0]];
    if (item && item.isConnected) $("a", item).focus();
  }

  return { show, step, closed };
})();
