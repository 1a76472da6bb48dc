"""How soon a layer page of many units can be used, and how much memory it keeps, in a real browser.

    python benchmarks/gallery_page.py                  # 2,048 units; --units 4096 for more

Writes a gallery of one made-up layer with sprites of about 30 kB, as those of photographs are,
opens its page from disk in the system's Chromium, and prints how long it takes until every tile in
view is drawn, and until the page has sorted its units and drawn those that come first; then the
memory of the page's process and of its script (Linux): after opening, after scrolling through all
units, after what the browser would throw away when it needs room is thrown away, and after the
layer's figure is made.

Then how long a unit's panel takes from the click until it is open with pictures, and until these are
its sprite and not the small previews that the page itself holds: the median of 20 units whose sprites
are loaded and of 20 that are not. And how many tiles of 20 places of the page, jumped to one after
another, are empty 300 ms later, and how many still show their preview. ``--gallery PAGE`` measures this
on a layer's page of your own."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from galleries import made_up

DRAWN = """() => {
  const tiles = [...document.querySelectorAll("#tiles li")].slice(0, 60);
  const inView = tiles.filter((item) => item.getBoundingClientRect().top < innerHeight);
  const isSharp = (picture) => picture.style.backgroundImage && !picture.matches(".preview");
  const drawn = (item) => item.querySelector(".dead") || isSharp(item.querySelector(".picture"));
  return inView.length > 0 && inView.every(drawn);
}"""
SORTED = f"() => document.querySelector('#tiles li').dataset.unit !== '0' && ({DRAWN})()"
PANEL = """async (tile) => {
  const dialog = document.querySelector("#unit");
  const pictures = () => [...dialog.querySelectorAll(".blocks .picture")];
  const hasPictures = () => dialog.open && pictures().every((picture) => picture.src || picture.style.backgroundImage);
  const isSharp = () => hasPictures() && !dialog.querySelector(".blocks .preview");
  const start = performance.now();
  const until = async (holds) => {
    while (!holds()) await new Promise(requestAnimationFrame);
    return performance.now() - start;
  };
  tile.querySelector("a").click();
  const times = [await until(hasPictures), await until(isSharp)];
  dialog.close();
  await new Promise((done) => setTimeout(done, 700)); // the address is the page's again, and the tiles about the unit are drawn
  return times;
}"""
JUMPED = """async (share) => {
  scrollTo(0, share * (document.documentElement.scrollHeight - innerHeight));
  await new Promise((done) => setTimeout(done, 300));
  const inView = [...document.querySelectorAll("#tiles li")].filter((item) => {
    const box = item.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  });
  const drawn = (item) => item.querySelector(".dead") || item.querySelector(".picture").style.backgroundImage;
  const small = (item) => item.querySelector(".preview");
  return [inView.length, inView.filter((item) => !drawn(item)).length, inView.filter(small).length];
}"""
SCROLLED = """async () => {
  for (let y = 0; y < document.documentElement.scrollHeight; y += innerHeight) {
    scrollTo(0, y);
    await new Promise((done) => setTimeout(done, 60));
  }
}"""


def renderer(browser: Browser) -> dict[str, float]:
    """Megabytes of the largest page process among those of this browser: resident, and resident
    with what is shared divided up.
    """
    session = browser.new_browser_cdp_session()
    pids = [
        entry["id"]
        for entry in session.send("SystemInfo.getProcessInfo")["processInfo"]
        if entry["type"] == "renderer"
    ]
    processes = []
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
        processes.append({"resident": kib["Rss"] / 1024, "own share": kib["Pss"] / 1024})
    return max(processes, key=lambda process: process["own share"])


def heap(page: Page) -> float:
    """Megabytes of the script's heap."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    metrics: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    values = {metric["name"]: float(metric["value"]) for metric in metrics}
    return values["JSHeapUsedSize"] / 2**20


def tidy(page: Page) -> None:
    """Have the browser do what it does when memory is scarce."""
    session = page.context.new_cdp_session(page)
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
        page.wait_for_timeout(300)


def print_memory(browser: Browser, page: Page, when: str) -> None:
    memory = renderer(browser)
    sizes = memory["resident"], memory["own share"], heap(page)
    cells = " | ".join(f"{size:.0f}" for size in sizes)
    print(f"| {when} | {cells} |", flush=True)


def print_gallery(address: Path, units: int) -> None:
    sizes = [path.stat().st_size for path in (address.parent / "layers/000").glob("*.js")]
    sprite = sum(sizes) / len(sizes) / 1e3
    page = address.stat().st_size / 1e6
    print(f"{units} units, {sprite:.0f} kB a sprite, page of {page:.1f} MB\n")


def print_times(page: Page, address: Path) -> None:
    """Open the page and sort it."""
    start = time.perf_counter()
    page.goto(address.as_uri(), wait_until="commit")
    page.wait_for_function(DRAWN)
    drawn = time.perf_counter()
    page.select_option("#sort", "max")
    page.wait_for_function(SORTED)
    done = time.perf_counter()
    print(f"tiles in view drawn after {drawn - start:.2f} s, sorted {done - drawn:.2f} s later\n")


def print_memories(browser: Browser, page: Page) -> None:
    """Use the page and see what it holds."""
    print("| memory in MB | resident | own share | script's heap |\n| --- | --- | --- | --- |")
    print_memory(browser, page, "opened and sorted")
    page.evaluate(SCROLLED)
    print_memory(browser, page, "scrolled through all")
    tidy(page)
    print_memory(browser, page, "then tidied")
    start = time.perf_counter()
    with page.expect_download(timeout=300_000) as download:
        page.click("[data-figure=layer][data-format=png]")
    size = Path(download.value.path()).stat().st_size
    print_memory(browser, page, "figure of all units made")
    print(f"\nfigure of the layer: {size / 1e6:.1f} MB, {time.perf_counter() - start:.1f} s")


def print_use(page: Page, address: Path) -> None:
    """Open panels, and jump about."""
    page.goto(address.as_uri())
    page.wait_for_function(DRAWN)
    tiles = [
        tile for tile in page.query_selector_all("#tiles li") if not tile.query_selector(".dead")
    ]
    in_view = [tile for tile in tiles[:60] if tile.query_selector(".picture[style]")][:20]
    others = tiles[200 :: len(tiles) // 21][:20]  # far from each other
    for name, chosen in (("loaded", in_view), ("not loaded", others)):
        opened, sharp = zip(*(page.evaluate(PANEL, tile) for tile in chosen), strict=True)
        print(
            f"panel of a unit whose sprite is {name}: open with pictures after {median(opened):.0f} ms "
            f"(at most {max(opened):.0f}), sharp after {median(sharp):.0f} ms (at most {max(sharp):.0f})"
        )
    page.reload()
    page.wait_for_function(DRAWN)
    draws = random.Random(0)
    counts = [page.evaluate(JUMPED, draws.random()) for _ in range(20)]
    total, empty, small = (sum(column) for column in zip(*counts, strict=True))
    print(
        f"20 jumps: of {total} tiles in view {empty} are empty after 300 ms, {small} a small preview\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=int, default=2048)
    parser.add_argument("--gallery", type=Path, help="a page such as layer-003.html")
    args = parser.parse_args()
    units = args.units
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        address = args.gallery or made_up(Path(folder), units)
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto("about:blank")  # so that the browser's own start is not counted
        if args.gallery is None:
            print_gallery(address, units)
            print_times(page, address)
            print_memories(browser, page)
        print_use(page, address.resolve())
        browser.close()


if __name__ == "__main__":
    main()
