// The keyboard.
"use strict";
featviz.keys = (() => {
  const { $ } = featviz;

  function pressed(event) {
    if (asksForPrint(event)) {
      event.preventDefault();
      $("#print").click();
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input:not([type='radio'], [type='checkbox']), select, textarea");
    if ($("#search").open) {
      featviz.search.keys(event);
    } else if (event.key === "/" && !typing) {
      event.preventDefault();
      featviz.search.start();
    } else if (event.key === "?" && !typing) {
      location.href = "reading.html#keys";
    } else if (featviz.page) pageKeys(event, typing);
    else if (event.key === "Escape" && !typing && $("#images")) location.href = "index.html";
    else featviz.imagePage.keys(event, typing);
  }
  /** Whether the browser's keys to print are pressed on a page that loads its pictures first: the browser would not wait for them. */
  function asksForPrint(event) {
    const keys = (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "p";
    return keys && $("#print") && !$("dialog[open]");
  }
  function pageKeys(event, typing) {
    const panel = $("#unit").open;
    const switching = event.target.matches("input[type='radio']"); // whose own keys the arrows are
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (panel && !typing && !switching && by) {
      event.preventDefault();
      if ($("#large").open) $("#large").step(by);
      else featviz.unit.step(by);
    } else if (event.key === "x" && !typing) {
      pick(event);
    } else if (panel && !typing && event.key === "m") {
      ($("#large[open] #large-map") || $("#unit .show-maps"))?.click();
    } else if (!panel && event.key === "Escape") {
      if (typing) leaveField(event);
      else location.href = "index.html#" + $("#main").dataset.page.replace(".html", "");
    } else if (!panel && !event.target.matches("input:not([type='checkbox']), select") && event.key.startsWith("Arrow")) {
      stepAmongTiles(event);
    }
  }
  /** Leave a field; what is typed to search goes, and what it let through is all again. */
  function leaveField(event) {
    const field = event.target;
    event.preventDefault(); // browsers differ in which of this they do
    if (field.type === "search" && field.value) {
      field.value = "";
      field.dispatchEvent(new Event("input"));
    }
    field.blur();
  }
  /** Pick the unit whose panel is open, or whose tile has the focus, or let go of it. */
  function pick(event) {
    const { units } = featviz.page;
    const unit = event.target.closest("#tiles li")?.dataset.unit ?? ($("#unit").open && units.length === 1 ? units[0] : null);
    if (unit !== null) featviz.list.toggle(Number(unit));
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

  return pressed;
})();
