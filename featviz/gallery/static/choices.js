// What a reader has chosen on a layer's page: from the address, or as it was on the last page.
"use strict";
(() => {
  const { $, remember, recall } = featviz;

  /** Where each is kept; the switches are in `page`, since the panel has them too. */
  const FIELDS = ["sort", "only", "class", "filter"];
  const standard = () => ({ show: $("#show input").value, rule: featviz.page.data.rules[0], sort: "unit", only: "", class: "", filter: "", reverse: "", list: "" });
  function current() {
    const { page } = featviz;
    const values = Object.fromEntries(FIELDS.map((name) => [name, $("#" + name)?.value || ""]));
    return { ...values, show: page.show, rule: page.rule, reverse: $("#reverse").checked ? "1" : "", list: page.list.join(",") };
  }
  /** What is chosen otherwise than a page has it at first, as the address names it. */
  featviz.choices = () => {
    const usual = standard();
    return Object.fromEntries(Object.entries(current()).filter(([name, value]) => value !== usual[name]));
  };
  /** Choose what an address names; what it does not is as it was, or as a page has it at first (`complete`). */
  featviz.setChoices = (chosen, complete) => {
    const { page } = featviz;
    const before = current();
    const wanted = { ...(complete ? standard() : before), ...chosen };
    for (const name of ["show", "rule"]) if (offered(name, wanted[name])) page[name] = wanted[name];
    for (const name of FIELDS) setField(name, wanted[name]);
    $("#reverse").checked = wanted.reverse === "1";
    featviz.list.set([...new Set(wanted.list.split(",").filter(Boolean).map(Number))].filter((unit) => unit in page.items));
    if (page.show !== before.show || page.rule !== before.rule || !page.blocks.length) featviz.refill();
    ["show", "rule"].forEach(featviz.check);
    const isFirst = $("#count").textContent === "";
    if (isFirst || JSON.stringify(current()) !== JSON.stringify(before)) featviz.arrange(); // which takes the focus from a tile
  };
  const offered = (name, value) => [...document.querySelectorAll(`#${name} input`)].some((input) => input.value === value);
  function setField(name, value) {
    const field = $("#" + name);
    if (!field) return;
    if (!field.options || [...field.options].some((option) => option.value === value)) field.value = value;
  }

  /** Every switch of this name, of the page and of the panel, stands where the page does. */
  featviz.check = (name) => {
    document.querySelectorAll(`#${name} input, #unit-${name} input`).forEach((input) => { input.checked = input.value === featviz.page[name]; });
  };
  /** What a change of a switch does: the tiles, and the panel where it is open, show something else. */
  featviz.choose = (name, value) => {
    const { page } = featviz;
    page[name] = value;
    remember(name, value);
    featviz.check(name);
    featviz.refill();
    if (name === "show" && $("#unit").open) featviz.panel.redraw($("#unit"), page.data);
    featviz.address.write();
  };
  /** Set the switches and the order as they were left on another page. */
  featviz.restore = () => {
    for (const name of ["show", "rule"]) if (offered(name, recall(name))) featviz.page[name] = recall(name);
    setField("sort", recall("sort") || "unit");
  };
})();
