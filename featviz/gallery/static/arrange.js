// Which units a page shows, and in which order.
"use strict";
featviz.arrange = (() => {
  const { $, make, grouped, counted, dominant, image, isDead } = featviz;

  /** What the filter looks in: a unit's number, and the names and labels of its images. */
  function words(unit) {
    const lines = [`unit ${unit}`];
    for (const side of featviz.page.data.sides) {
      for (const exemplar of side.units[unit].exemplars) lines.push(...(image.get(exemplar.image) || []));
    }
    return lines.filter(Boolean).join("\n").toLowerCase();
  }
  function matches(unit, wanted) {
    if (!wanted) return true;
    const address = /^(?:unit[\s-]*)?(\d+)$/.exec(wanted);
    return address ? Number(address[1]) === unit : featviz.holds(words(unit), wanted);
  }
  const ONLY = {
    "": () => true,
    living: (unit) => !isDead(unit),
    dead: isDead,
    picked: (unit) => featviz.list.has(unit),
    noted: (unit) => featviz.notes.of(unit) !== "",
    silent: (unit) => featviz.page.data.sides.some((side) => Object.keys(side.units[unit].silent || {}).length),
  };
  const ORDERS = {
    unit: (numbers) => numbers.unit,
    max: (numbers) => -numbers.max,
    mean: (numbers) => -numbers.mean,
    contrast: (numbers) => -numbers.max / Math.max(numbers.mean, 1e-12),
    active: (numbers) => numbers.active,
    share: (numbers) => -numbers.share,
    match: (numbers) => -Math.max(...featviz.page.data.sides.map((side) => side.units[numbers.unit].match ?? -2)),
  };

  /** Show the units that the filters let through, in the order that is asked for. */
  function arrange() {
    const { page } = featviz;
    const wanted = $("#filter").value.trim().toLowerCase();
    const label = $("#class")?.value || "";
    const first = page.data.sides[0].units;
    const order = ORDERS[$("#sort").value];
    const sign = $("#reverse").checked ? -1 : 1;
    const before = (a, b) => isDead(a) - isDead(b) || sign * (order(first[a]) - order(first[b]) || a - b);
    const fits = (unit) => ONLY[$("#only").value](unit) && (!label || dominant(first[unit]) === label) && matches(unit, wanted);
    page.order = page.items.map((_, unit) => unit).filter(fits).sort(before);
    $("#tiles").replaceChildren(...page.order.map((unit) => page.items[unit]));
    $("#count").textContent = count(page.order, page.data.channels ?? page.items.length);
  }
  function count(order, all) {
    if (!order.length) return `0 of ${counted(all, "unit")}: nothing matches the filter`;
    const dead = order.filter(isDead).length;
    const shown = order.length === all ? counted(all, "unit") : `${grouped(order.length)} of ${counted(all, "unit")}`;
    return dead ? `${shown}, ${grouped(dead)} of them dead and shown last` : shown;
  }

  /** The classes that dominate units of this layer, each with how many. */
  function offerClasses() {
    if (!$("#class")) return;
    const counts = new Map();
    for (const label of featviz.page.data.sides[0].units.map(dominant).filter(Boolean)) counts.set(label, (counts.get(label) || 0) + 1);
    const sorted = [...counts].sort(([a], [b]) => a.localeCompare(b));
    $("#class").append(...sorted.map(([label, n]) => make("option", { value: label, text: `${label} (${counted(n, "unit")})` })));
  }

  return Object.assign(arrange, { offerClasses });
})();
