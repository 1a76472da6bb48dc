// The units that a reader has picked: they are kept in the address, and shown side by side.
"use strict";
featviz.list = (() => {
  const { $, make, counted } = featviz;

  const has = (unit) => featviz.page.list.includes(unit);
  function toggle(unit) {
    const { page } = featviz;
    set(has(unit) ? page.list.filter((other) => other !== unit) : [...page.list, unit]);
    featviz.address.write();
    if (!$("#unit").open) arrangePicked();
  }
  /** Where the page shows what is picked alone, it shows what is picked now. */
  function arrangePicked() {
    if ($("#only").value === "picked") featviz.arrange();
  }
  /** The list is this; what shows it says so. */
  function set(units) {
    const { page } = featviz;
    page.list = units;
    page.items.forEach((item, unit) => { $(".pick input", item).checked = has(unit); });
    document.querySelectorAll("button[data-pick]").forEach((node) => node.setAttribute("aria-pressed", String(has(Number(node.dataset.pick)))));
    $("#list").hidden = !units.length;
    $("#list-count").textContent = `${counted(units.length, "unit")} picked: ${units.join(", ")}`;
  }
  /** The box in a tile that picks its unit. */
  function box(unit) {
    return make("label", { class: "pick" }, make("input", { type: "checkbox", "aria-label": `pick unit ${unit}`, change: () => toggle(unit) }));
  }
  /** The button in a panel that does. */
  function button(unit) {
    return make("button", { type: "button", "data-pick": unit, "aria-pressed": String(has(unit)), text: "Pick", title: "Picked units are shown side by side, and kept in the address", click: () => toggle(unit) });
  }
  async function copy(event) {
    const { target } = event;
    await navigator.clipboard.writeText(featviz.address.of(featviz.address.BESIDE)).then(
      () => { target.textContent = "Copied"; }, () => { target.textContent = "It is in the address bar"; });
    setTimeout(() => { target.textContent = "Copy address"; }, 2000);
  }
  function begin() {
    $("#beside").addEventListener("click", () => featviz.address.enter(featviz.address.BESIDE));
    $("#copy-list").addEventListener("click", copy);
    $("#clear-list").addEventListener("click", () => {
      set([]);
      featviz.address.write();
      featviz.arrange();
    });
  }

  return { has, toggle, set, arrangePicked, box, button, begin };
})();
