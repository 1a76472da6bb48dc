// The address of what is shown: the unit, or the list side by side, then what is chosen otherwise than a page has it at first:
// layer-003.html#unit-5&rule=lrp&sort=max
"use strict";
featviz.address = (() => {
  const CHOICES = ["show", "rule", "sort", "reverse", "only", "class", "filter", "list"];
  const BESIDE = "side-by-side";

  /** What the address asks for: a unit, whether the list is open, and the choices that it names. */
  function parsed() {
    const [first, ...rest] = location.hash.slice(1).split("&");
    const chosen = {};
    for (const text of [first, ...rest]) {
      const at = text.indexOf("=");
      if (CHOICES.includes(text.slice(0, at))) chosen[text.slice(0, at)] = plain(text.slice(at + 1));
    }
    const unit = /^unit-(\d+)$/.exec(first);
    return { unit: unit ? Number(unit[1]) : null, beside: first === BESIDE, chosen };
  }
  function plain(text) {
    try {
      return decodeURIComponent(text);
    } catch { // a lone percent sign
      return text;
    }
  }
  /** The address of a unit, of the list (`beside`), or of the page of the layer, as everything is chosen now. */
  function of(view) {
    const first = typeof view === "number" ? `unit-${view}` : view;
    const choices = featviz.choices();
    const named = CHOICES.filter((name) => choices[name]).map((name) => `${name}=${encodeURIComponent(choices[name])}`);
    const text = [first, ...named].filter(Boolean).join("&");
    return location.href.split("#")[0] + (text ? "#" + text : "");
  }
  const here = () => {
    const { unit, beside } = parsed();
    return unit ?? (beside ? BESIDE : "");
  };

  /** Show what the address asks for as the page opens. What it does not name is as it was, unless this page wrote the address. */
  function begin() {
    const { chosen } = parsed();
    featviz.setChoices(chosen, history.state?.written || Object.keys(chosen).length);
    show();
  }
  /** Show what another address of this page asks for. One that the page wrote is older than what is chosen now, which stays. */
  function follow() {
    const { chosen } = parsed();
    if (!history.state?.written) featviz.setChoices(chosen, Object.keys(chosen).length);
    show();
  }
  /** Show the unit or the list that the address names, or the page alone. */
  function show() {
    const { unit, beside } = parsed();
    const view = unit in featviz.page.items ? unit : beside && featviz.page.list.length ? BESIDE : "";
    write(view);
    featviz.unit.show(view);
  }
  /** Write the address of what is shown anew, as one that can be gone back to no more than before. */
  function write(view = here()) {
    history.replaceState({ ...history.state, written: true }, "", of(view));
  }
  let waiting = 0;
  /** The same a moment later, since a browser does not let every key be written. */
  function writeSoon() {
    clearTimeout(waiting);
    waiting = setTimeout(write, 250);
  }
  /** Open a unit or the list, so that the back button returns to the page. */
  function enter(view) {
    history.pushState({ written: true, entered: true }, "", of(view));
    featviz.unit.show(view);
  }
  /** Return to the page from what is open; by the history, where it was entered from there. */
  function leave() {
    if (here() === "") return;
    if (history.state?.entered) history.back();
    else write("");
  }
  /** The front page leads on to a layer by its name: index.html#layer=conv3&unit=17. */
  function byName() {
    const asked = new Map(location.hash.slice(1).split("&").map((text) => text.split("=").map(plain)));
    const layer = featviz.network.layers.find((each) => each.units && each.name === asked.get("layer"));
    if (layer) location.replace(layer.page + (asked.has("unit") ? `#unit-${Number(asked.get("unit"))}` : ""));
  }

  return { BESIDE, of, begin, follow, write, writeSoon, enter, leave, byName };
})();
