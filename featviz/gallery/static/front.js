// The front page: which layers it lists, and addresses of layers by name.
"use strict";
featviz.front = (() => {
  const { $, counted } = featviz;

  const FITS = {
    all: () => true,
    apart: (layer) => !$(".mark", layer),
    alike: (layer) => $(".mark", layer),
    dead: (layer) => Number(layer.dataset.dead) > 0,
  };
  function arrange() {
    const layers = [...document.querySelectorAll(".layers > li")];
    layers.forEach((layer) => { layer.hidden = !FITS[$("#which").value](layer); });
    $("#layer-count").textContent = counted(layers.filter((layer) => !layer.hidden).length, "layer");
  }
  function begin() {
    featviz.address.byName();
    window.addEventListener("hashchange", featviz.address.byName);
    if (!$("#which")) return; // the page on reading
    $("#which").addEventListener("input", arrange);
    arrange(); // a browser may have kept what was chosen
    $("#export-notes").hidden = !Object.keys(featviz.notes.all()).length;
    $("#export-notes").addEventListener("click", featviz.notes.save);
  }

  return begin;
})();
