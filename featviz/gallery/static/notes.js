// A reader's notes on units: they stay in this browser, and are exported as JSON.
"use strict";
featviz.notes = (() => {
  const { $, make, remember, recall } = featviz;

  const store = () => "notes " + document.body.dataset.gallery;
  /** The notes on this gallery: layer -> unit -> text. */
  function all() {
    try {
      return JSON.parse(recall(store())) || {};
    } catch {
      return {};
    }
  }
  const layer = () => $("h1").textContent;
  const of = (unit) => all()[layer()]?.[unit] || "";
  function write(unit, text) {
    const notes = all();
    const own = { ...notes[layer()] };
    if (text.trim()) own[unit] = text;
    else delete own[unit];
    remember(store(), JSON.stringify({ ...notes, [layer()]: own }));
    mark(unit);
  }
  /** A tile whose unit has a note says so. */
  function mark(unit) {
    featviz.page.items[unit].classList.toggle("noted", of(unit) !== "");
  }
  /** The field of a unit's note, at the foot of its panel. */
  function field(unit) {
    const area = make("textarea", { id: "note", rows: "3", placeholder: "What does it do?", input: (event) => write(unit, event.target.value) });
    area.value = of(unit);
    return make("div", { class: "note" }, make("label", { for: "note" }, make("b", { text: "Your notes " }), make("span", { class: "quiet", text: "kept in this browser" })),
      area, make("button", { type: "button", text: "Export all notes", click: save }));
  }
  /** All notes as a file of a list: network, layer, unit, note. */
  function save() {
    const list = Object.entries(all()).flatMap(([name, own]) => Object.entries(own).map(([unit, note]) => (
      { network: featviz.network.title, layer: name, unit: Number(unit), note })));
    const content = new Blob([JSON.stringify(list, null, 1) + "\n"], { type: "application/json" });
    featviz.download.save(content, "notes.json");
  }

  return { of, mark, field, save, all };
})();
