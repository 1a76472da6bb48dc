"""The gallery in a real browser, opened from disk: what a person does there, by mouse and by
keyboard.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import HOSTILE, LABELS, LAYER, made_up, tiny
from PIL import Image

from featviz import Scan, gallery
from featviz.gallery.numbers import text

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install playwright"
)
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs a browser: chromium, chromium-browser or google-chrome"
)

RULES = ["deconvnet", "guided"]
PHONE = {"width": 390, "height": 844}
OPEN = "#unit[open]"


@dataclass
class Tab:
    """A page of a gallery, and what happened in it that should not."""

    page: Any
    folder: Path
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def go(self, address: str) -> Any:
        """Open a page from disk; ``layer-000.html#unit-5`` is an address."""
        name, _, place = address.partition("#")
        self.page.goto((self.folder / name).as_uri() + (f"#{place}" if place else ""))
        return self.page

    def units(self) -> list[int]:
        """The tiles of a layer's page in their order."""
        return [
            int(unit)
            for unit in self.page.eval_on_selector_all(
                "#tiles li", "items => items.map((i) => i.dataset.unit)"
            )
        ]

    def scripts(self) -> list[int]:
        """The units whose tiles were asked for."""
        return [int(match[1]) for url in self.requests if (match := re.search(r"/(\d+)\.js$", url))]

    def wait(self, condition: str) -> None:
        """Wait until an expression holds; what it looks at may not be there yet."""
        self.page.wait_for_function(
            f"() => {{ try {{ return {condition} }} catch {{ return false }} }}", timeout=20_000
        )

    def at(self, place: str) -> None:
        """Wait for an address that ends so."""
        self.wait(f"location.href.endsWith({place!r})")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def found() -> Scan:
    return tiny()[2]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, images, scan = tiny()
    out = tmp_path_factory.mktemp("browser") / "a gallery #1?"
    gallery.build(scan, model, images, out, rule=RULES, progress=False)
    return out


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of 2,048 units; its tiles are small, to be made soon."""
    out = tmp_path_factory.mktemp("large")
    made_up(out, 2048, side=40, kinds=2)
    return out


def failed(tab: Tab, request: Any) -> None:
    """A request that came to nothing, but for those that a person cut short by going elsewhere."""
    if request.failure != "net::ERR_ABORTED":
        tab.errors.append(f"failed: {request.url[:200]}")


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Tab]]:
    """Opens galleries, each in a browser that remembers nothing; in the end, none of them may have
    erred or looked elsewhere.
    """
    tabs: list[Tab] = []

    def start(folder: Path, **options: Any) -> Tab:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        tab = Tab(context.new_page(), folder)
        context.on("request", lambda request: tab.requests.append(request.url))
        context.on("requestfailed", lambda request: failed(tab, request))
        context.on("console", lambda message: tab.errors.append(f"{message.type}: {message.text}"))
        context.on("weberror", lambda error: tab.errors.append(str(error.error)))
        context.on(
            "dialog",
            lambda dialog: (tab.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()),
        )
        tabs.append(tab)
        return tab

    yield start
    for tab in tabs:
        tab.page.wait_for_timeout(50)
        tab.page.context.close()
        inside = (tab.folder.resolve().as_uri() + "/", "data:", "blob:")
        assert [url for url in tab.requests if not url.startswith(inside)] == []
        assert tab.errors == []


@pytest.fixture
def tab(opened: Callable[..., Tab], small: Path) -> Tab:
    return opened(small)


def test_the_front_page_lists_layers_and_leads_to_units(tab: Tab) -> None:
    page = tab.go("index.html")
    assert page.locator(".layer h2").all_inner_texts() == ["conv1", "conv2", LAYER]
    assert page.locator("[class=layer]").nth(1).locator(".strip a").count() == 10
    strip = page.locator(".strip a").first
    assert strip.evaluate("(a) => a.getBoundingClientRect().width") > 40
    unit = strip.inner_text()
    strip.click()
    page.wait_for_selector(OPEN)
    assert page.inner_text("#unit-title") == f"conv1 · unit {unit}"
    page.click("#unit button:has-text('Close')")
    page.click("a.home")
    page.click(f"h2 a >> text={LAYER}")
    assert page.inner_text("h1") == LAYER
    assert page.title().startswith(LAYER)


def test_the_pictures_of_strips_are_there(tab: Tab) -> None:
    page = tab.go("index.html")
    loaded = """async () => Promise.all([...document.querySelectorAll(".strip")].map((strip) => new Promise((resolve) => {
      const picture = new Image();
      picture.onload = () => resolve(picture.naturalWidth);
      picture.onerror = () => resolve(0);
      picture.src = getComputedStyle(strip.querySelector("a")).backgroundImage.slice(5, -2);
    })))"""
    assert all(width >= 72 for width in page.evaluate(loaded))


def test_the_switch_shows_other_pictures_and_is_remembered(tab: Tab) -> None:
    page = tab.go("layer-001.html")
    shown = "document.querySelector('.tile .picture').style.backgroundPosition"
    tab.wait(f"{shown} !== ''")
    for name, position in (
        ("patches", "0% 0px"),
        ("guided", "100% 0px"),
        ("deconvnet", "50% 0px"),
        ("patches", "0% 0px"),
    ):
        page.click(f"#show >> text={name}")
        tab.wait(f"{shown} === {position!r}")
    for again in (page.reload, lambda: tab.go("layer-000.html")):
        again()
        assert page.evaluate("document.querySelector('#show input:checked').value") == "patches"
        tab.wait(f"{shown} === '0% 0px'")


def test_tiles_show_their_own_part_of_the_sprite(tab: Tab, found: Scan) -> None:
    """The screen's pixels in the middle of the first tile are those of the strongest patch."""
    images = tiny()[1]
    page = tab.go("layer-000.html")
    page.click("#show >> text=patches")
    page.wait_for_timeout(200)
    unit = next(u for u in tab.units() if not found.statistics["conv1"].dead[u])
    with Image.open(
        BytesIO(page.locator(f"#tiles li[data-unit='{unit}'] .picture").screenshot())
    ) as picture:
        seen = np.asarray(picture.convert("RGB")).astype(int)
    y, x = found.top["conv1"].positions[unit, 0].tolist()
    expected = (
        (images[int(found.top["conv1"].images[unit, 0])][:, y, x] * 255).round().int().tolist()
    )
    centre = (
        round(1.5 / 7 * seen.shape[0]),
        round(1.5 / 7 * seen.shape[1]),
    )  # of the first of 2 x 2 tiles of 3 pixels, 1 between
    assert np.abs(seen[centre] - np.array(expected)).max() <= 2


def test_sorted_in_every_way_dead_units_come_last(tab: Tab, found: Scan) -> None:
    page = tab.go("layer-001.html")
    top, statistics = found.top["conv2"], found.statistics["conv2"]
    labels = [[found.labels[i] for i in row] for row in top.images.tolist()]
    keys: dict[str, Callable[[int], float]] = {
        "unit": lambda unit: unit,
        "max": lambda unit: -float(f"{statistics.maximum[unit]:.4g}"),
        "active": lambda unit: float(f"{statistics.fraction_active[unit]:.4g}"),
        "share": lambda unit: -max(map(labels[unit].count, labels[unit])),
    }
    assert page.eval_on_selector_all("#sort option", "all => all.map((one) => one.value)") == list(
        keys
    )
    dead = statistics.dead.tolist()
    for value, key in keys.items():
        page.select_option("#sort", value)
        assert tab.units() == sorted(
            range(20), key=lambda unit, key=key: (dead[unit], key(unit), unit)
        )  # type: ignore[misc]
        assert tab.units()[-1] == 3
    assert page.inner_text("#count") == "20 units, 1 of them dead and shown last"
    assert "dead" in (page.get_attribute("li[data-unit='3'] a", "aria-label") or "")
    page.select_option("#sort", "max")
    order = tab.units()
    page.reload()
    assert page.input_value("#sort") == "max"
    assert tab.units() == order


def test_filtered_by_number_label_and_key(tab: Tab, found: Scan) -> None:
    page = tab.go("layer-001.html")
    images = found.top["conv2"].images.tolist()

    def with_image(fits: Callable[[int], bool]) -> list[int]:
        return [unit for unit in range(20) if unit != 3 and any(map(fits, images[unit]))]

    page.fill("#filter", "7")
    assert tab.units() == [7]
    page.fill("#filter", "<I>dog")
    assert tab.units() == with_image(lambda image: image % 4 == 1)
    page.fill("#filter", "日本語")
    assert tab.units() == with_image(lambda image: image == 5)
    page.fill("#filter", HOSTILE[0])
    assert tab.units() == with_image(lambda image: image == 0)
    page.fill("#filter", "no such thing")
    assert tab.units() == []
    assert page.inner_text("#count") == "0 of 20 units: nothing matches the filter"
    page.fill("#filter", "")
    assert len(tab.units()) == 20


def searched(page: Any, query: str) -> list[str]:
    """The names of the results of a search that is open."""
    page.fill("#query", query)
    names = page.eval_on_selector_all(
        "#results a", "all => all.map((one) => one.firstChild.textContent)"
    )
    assert page.inner_text("#found").startswith(str(len(names)) if query else "")
    return list(names)


def test_search_goes_across_the_network(tab: Tab, found: Scan) -> None:
    page = tab.go("index.html")
    page.keyboard.press("/")
    page.wait_for_selector("#search[open]")
    assert page.evaluate("document.activeElement.id") == "query"
    assert page.input_value("#query") == "", "the key that opens it is not typed"
    assert searched(page, "conv2 17")[0] == "conv2 unit 17"
    assert searched(page, "conv2 unit 17")[0] == "conv2 unit 17"
    assert searched(page, "2")[:3] == ["conv1 unit 2", "conv2", "conv2 unit 2"]
    assert searched(page, "CONV")[:2] == ["conv1", "conv2"]
    assert LAYER in searched(page, "onerror")
    assert searched(page, "no such thing") == []
    page.keyboard.press("Enter")
    assert searched(page, "") == []
    holding = {
        f"{layer} unit {unit}"
        for layer, top in found.top.items()
        for unit, images in enumerate(top.images.tolist())
        if 2 in images and not found.statistics[layer].dead[unit]
    }
    assert holding
    assert set(searched(page, HOSTILE[2])) == holding
    assert set(searched(page, text(LABELS[3])))
    assert searched(page, "conv2 17")
    page.keyboard.press("Enter")
    page.wait_for_selector(OPEN)
    assert page.inner_text("#unit-title") == "conv2 · unit 17"
    page.keyboard.press("/")
    searched(page, "conv2 5")
    page.keyboard.press("Enter")
    tab.at("layer-001.html#unit-5")
    tab.wait("document.querySelector('#unit-title').textContent === 'conv2 · unit 5'")
    assert not page.is_visible("#search")


def test_results_are_chosen_by_arrows_and_escape_leaves(tab: Tab) -> None:
    page = tab.go("layer-000.html")
    page.keyboard.press("/")
    names = searched(page, "5")
    assert len(names) > 2
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.get_attribute("#query", "aria-activedescendant") == "result-1"
    assert page.inner_text("#results [aria-selected=true] a").startswith(names[1])
    page.keyboard.press("Escape")
    assert not page.is_visible("#search")
    page.wait_for_timeout(50)
    assert page.url.endswith("layer-000.html")
    page.click("#show >> text=patches")
    page.keyboard.press("/")
    assert page.is_visible("#search"), "also where the switch has the focus"
    page.keyboard.press("Escape")
    page.focus("#filter")
    page.keyboard.type("a/b")
    assert page.input_value("#filter") == "a/b"
    assert not page.is_visible("#search")


def test_a_link_to_a_unit_opens_its_panel(tab: Tab, found: Scan) -> None:
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector(OPEN)
    assert page.inner_text("#unit-title") == "conv2 · unit 5"
    assert page.title() == "conv2 unit 5"
    assert page.evaluate("document.activeElement.id") == "unit-title"
    assert page.locator("#unit figcaption").all_inner_texts() == [
        "deconvnet projections",
        "guided projections",
        "image patches",
    ]
    assert page.locator("#unit .exemplars li").count() == 4
    pictures = "[...document.querySelectorAll('#unit .exemplars img')]"
    tab.wait(f"{pictures}.every((one) => one.complete && one.naturalWidth === 24)")
    page.evaluate("location.hash = '#unit-6'")
    tab.wait("document.querySelector('#unit-title').textContent === 'conv2 · unit 6'")
    tab.go("layer-001.html#unit-99")
    page.reload()
    assert not page.is_visible(OPEN)


def test_the_box_lies_where_the_field_is(tab: Tab, found: Scan) -> None:
    """Fields of conv2 are 8 pixels wide, 2 apart, and begin 3 before the edge."""
    places = found.top["conv2"].positions[:, 0].tolist()
    unit, (y, x) = next(
        (unit, at) for unit, at in enumerate(places) if unit != 3 and min(at) >= 2 and max(at) <= 8
    )
    page = tab.go(f"layer-001.html#unit-{unit}")
    page.wait_for_selector("#unit .box")
    corners = "(b) => [b, b.parentElement].map((one) => { const r = one.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })"
    tab.wait("document.querySelector('#unit .whole img').naturalWidth")
    (left, top, wide, high), (x0, y0, across, down) = page.eval_on_selector("#unit .box", corners)
    seen = [(left - x0) / across * 24, (top - y0) / down * 24, wide / across * 24, high / down * 24]
    assert seen == pytest.approx([2 * x - 3, 2 * y - 3, 8, 8], abs=0.3)


def test_the_histogram_counts_every_image(tab: Tab, found: Scan) -> None:
    page = tab.go("layer-001.html#unit-5")
    says = page.eval_on_selector_all(
        "#unit .histogram rect title", "all => all.map((one) => one.textContent)"
    )
    counts = [int(re.fullmatch(r".*: (\d+) images?", one)[1]) for one in says]  # type: ignore[index]
    assert sum(counts) == 24
    assert max(counts) == int(found.statistics["conv2"].histogram[5].max())
    above = [one for one in says if " to " in one]
    edges = [
        tuple(float(number.replace(",", "")) for number in one.partition(":")[0].split(" to "))
        for one in above
    ]
    assert all(low < high for low, high in edges)
    assert all(one[1] == other[0] for one, other in pairwise(edges))
    assert edges[-1][0] <= float(found.statistics["conv2"].maximum[5]) < edges[-1][1]


def test_first_layer_units_show_their_weights(tab: Tab) -> None:
    page = tab.go("layer-000.html#unit-2")
    assert (
        page.eval_on_selector(
            "#unit .weights img", "async (one) => (await one.decode(), one.naturalWidth)"
        )
        == 3
    )
    assert page.get_attribute("#unit .weights img", "alt") == "weights of unit 2"
    tab.go("layer-001.html#unit-2")
    page.wait_for_selector(OPEN)
    assert page.locator("#unit .weights").count() == 0


def test_a_dead_unit_says_so(tab: Tab) -> None:
    page = tab.go("layer-001.html#unit-3")
    page.wait_for_selector(OPEN)
    assert "no image activates it" in page.inner_text("#unit")
    assert page.locator("#unit figure, #unit img, #unit svg").count() == 0


def test_arrows_lead_from_unit_to_unit_in_the_order_of_the_page(tab: Tab) -> None:
    page = tab.go("layer-001.html")
    page.select_option("#sort", "max")
    order = tab.units()
    page.click(f"li[data-unit='{order[0]}'] a")
    page.wait_for_selector(OPEN)
    assert page.is_disabled("[aria-label='Previous unit']")
    for unit in order[1:4]:
        page.keyboard.press("ArrowRight")
        tab.at(f"#unit-{unit}")
        tab.wait(f"document.querySelector('#unit-title').textContent.endsWith('unit {unit}')")
    page.keyboard.press("ArrowLeft")
    tab.at(f"#unit-{order[2]}")
    page.click("[aria-label='Next unit']")
    tab.at(f"#unit-{order[3]}")
    page.keyboard.press("Escape")
    tab.at("layer-001.html")
    assert not page.is_visible(OPEN)
    focused = "document.activeElement.closest('li').dataset.unit"
    assert page.evaluate(focused) == str(order[3]), (
        "the focus goes to the tile of the unit last seen"
    )
    page.keyboard.press("Escape")
    tab.at("index.html#layer-001")
    page.go_back()
    assert page.inner_text("h1") == "conv2"


def test_arrows_lead_among_tiles(tab: Tab) -> None:
    page = tab.go("layer-001.html")
    focused = "document.activeElement.closest('li').dataset.unit"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "1"
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('#tiles')).gridTemplateColumns.split(' ').length"
    )
    assert int(page.evaluate(focused)) == tab.units()[1 + columns]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "0"
    page.keyboard.press("Enter")
    page.wait_for_selector(OPEN)
    tab.at("#unit-0")
    page.go_back()
    tab.wait(f"!document.querySelector('{OPEN}')")


def test_hostile_names_are_shown_as_text(tab: Tab, found: Scan) -> None:
    """Nothing of them runs (the fixture sees to it that no dialog opened), and all that is said is
    what they are.
    """
    for image, key in enumerate(found.keys[:14]):
        layer, unit = next(
            (layer, unit)
            for layer, top in found.top.items()
            for unit, images in enumerate(top.images.tolist())
            if image in images and not found.statistics[layer].dead[unit]
        )
        page = tab.go(f"layer-{list(found.top).index(layer):03d}.html#unit-{unit}")
        page.wait_for_selector(OPEN)
        rank = found.top[layer].images[unit].tolist().index(image)
        item = page.locator("#unit .exemplars li").nth(rank)
        assert item.locator(".key").text_content() == text(key)
        assert item.locator(".key").get_attribute("title") == text(key)
        assert item.locator("img").get_attribute("alt") == f"image {text(key)}"
        assert text(LABELS[image % 4]) in item.inner_text()
        assert page.locator("img[src=x], i, iframe").count() == 0


OVERFLOW = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.mark.parametrize(
    "address",
    [
        "index.html",
        "layer-001.html",
        "layer-002.html",
        "layer-001.html#unit-5",
        "layer-000.html#unit-1",
    ],
)
def test_nothing_is_wider_than_a_phone(
    opened: Callable[..., Tab], small: Path, address: str
) -> None:
    tab = opened(small, viewport=PHONE, has_touch=True, is_mobile=True)
    page = tab.go(address)
    if "#" in address:
        page.wait_for_selector(OPEN)
        within = page.eval_on_selector("#unit", "(one) => [one.scrollWidth, one.clientWidth]")
        assert within[0] <= within[1]
        page.eval_on_selector("#unit", "(one) => { one.scrollTop = one.scrollHeight; }")
        assert page.is_visible("#unit button:has-text('Close')")
        top = page.eval_on_selector("#unit header", "(one) => one.getBoundingClientRect().top")
        assert top >= -1, "the buttons stay in view"
    wide, screen = page.evaluate(OVERFLOW)
    assert wide <= screen == 390
    page.keyboard.press("/")
    searched(page, "x" * 40)
    searched(page, "5")
    wide, screen = page.evaluate(OVERFLOW)
    assert wide <= screen == 390


CONTRASTS = r"""(selectors) => {
  const parsed = (colour) => { const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const colour = parsed(getComputedStyle(one).backgroundColor);
      if (colour[3] === 1) return colour;
      if (colour[3] > 0) throw new Error("half transparent");
    }
    return [255, 255, 255, 1];
  };
  return Object.fromEntries(selectors.map((selector) => {
    const [plain, pseudo] = selector.split("::");
    const node = document.querySelector(plain);
    if (!node) return [selector, null];
    const style = getComputedStyle(node, pseudo ? "::" + pseudo : null);
    const ink = parsed(node instanceof SVGElement ? style.fill : style.color);
    const [most, least] = [light(ink), light(behind(node))].sort((a, b) => b - a);
    return [selector, ink[3] * (most + 0.05) / (least + 0.05)];
  }));
}"""
TEXTS = {
    "index.html": [
        "h1",
        ".lead",
        ".layer h2 a",
        "dt",
        "dd",
        ".strip span",
        "a.home",
        "#open-search",
        "kbd",
        ".about code",
    ],
    "layer-001.html": [
        "h1",
        ".lead",
        "legend",
        "#show input:checked + span",
        "#show input:not(:checked) + span",
        "#sort",
        "#filter",
        "#filter::placeholder",
        "[data-figure]",
        "#count",
        ".tile .name b",
        ".tile .name span",
        ".picture.dead",
        ".keys",
        "nav a",
        "nav select",
    ],
    "layer-001.html#unit-5": [
        "#unit h2",
        "#unit h3",
        "#unit button",
        "#unit button[disabled]",
        "#unit dt",
        "#unit dd",
        "#unit figcaption",
        "#unit .score",
        "#unit .key",
        "#unit .histogram text",
    ],
    "layer-001.html#unit-3": [".notice"],
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_light_and_dark(
    opened: Callable[..., Tab], small: Path, scheme: str
) -> None:
    """Contrast AA: 4.5 to 1."""
    tab = opened(small, color_scheme=scheme)
    for address, selectors in TEXTS.items():
        page = tab.go(address)
        page.reload()
        if "unit-5" in address:
            page.keyboard.press("ArrowRight")  # unit 0 has no previous one
            page.evaluate("location.hash = '#unit-0'")
            page.wait_for_selector("#unit button[disabled]")
        found = page.evaluate(CONTRASTS, selectors)
        assert {
            selector: ratio for selector, ratio in found.items() if ratio is None or ratio < 4.5
        } == {}, address
    page.keyboard.press("/")
    searched(page, "conv2 5")
    found = page.evaluate(
        CONTRASTS,
        [
            "#search label",
            "#query",
            "#query::placeholder",
            "#found",
            "#results a",
            "#results a span",
        ],
    )
    assert min(found.values()) >= 4.5, found
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


UNNAMED = """() => [...document.querySelectorAll("a, button, input, select, img, svg, [role=img], ul.strip, ul.tiles, dialog, nav")]
  .filter((one) => !one.matches("dialog:not([open])"))
  .filter((one) => {
    const by = one.getAttribute("aria-labelledby");
    const label = one.labels && one.labels.length ? one.labels[0].textContent : "";
    const words = [one.getAttribute("aria-label"), one.getAttribute("alt"), label, by && document.getElementById(by)?.textContent,
      one.matches("a, button") ? one.textContent : ""];
    return !words.some((word) => word && word.trim());
  }).map((one) => one.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize("address", ["index.html", "layer-001.html", "layer-000.html#unit-1"])
def test_everything_has_a_name_for_who_does_not_see_it(tab: Tab, address: str) -> None:
    page = tab.go(address)
    if "#" in address:
        page.wait_for_selector(OPEN)
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.lang") == "en"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "the focus is seen"


def test_everything_is_reached_by_the_tab_key(tab: Tab) -> None:
    page = tab.go("layer-002.html")
    reached = []
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(document.activeElement.id || document.activeElement.className || document.activeElement.name)"
            )
        )
    for name in ("skip", "home", "open-search", "show", "sort", "filter", "tile"):
        assert name in reached, name


def test_only_tiles_near_the_view_are_loaded(opened: Callable[..., Tab], large: Path) -> None:
    tab = opened(large)
    page = tab.go("layer-000.html")
    tab.wait("document.querySelector('#tiles li .picture').style.backgroundImage")
    page.wait_for_timeout(300)
    assert page.inner_text("#count") == "2048 units, 32 of them dead and shown last"
    first = tab.scripts()
    assert 8 <= len(first) <= 200
    assert max(first) <= 250
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
    tab.wait(
        "[...document.querySelectorAll('#tiles li')].some((li) => li.dataset.unit > 900 && li.faces[0].style.backgroundImage)"
    )
    page.wait_for_timeout(300)
    assert len(tab.scripts()) <= 2 * len(first) + 40
    drawn = "[...document.querySelectorAll('#tiles li')].filter((li) => li.faces[0].style.backgroundImage).length"
    assert page.evaluate(drawn) <= 200, "what has left the view is let go"
    page.evaluate("scrollTo(0, 0)")
    tab.wait("document.querySelector('#tiles li .picture').style.backgroundImage")
    assert len(tab.scripts()) == len(set(tab.scripts())), (
        "what was there a moment ago is not loaded again"
    )


def test_a_page_of_2048_units_sorts_filters_and_opens(
    opened: Callable[..., Tab], large: Path
) -> None:
    tab = opened(large)
    page = tab.go("layer-000.html")
    assert tab.units()[-32:] == list(range(63, 2048, 64))
    page.select_option("#sort", "max")
    assert tab.units()[0] != 0
    assert tab.units()[-32:] == list(range(63, 2048, 64))
    page.fill("#filter", "class 7/")
    assert 0 < len(tab.units()) < 2048
    page.fill("#filter", "2000")
    assert tab.units() == [2000]
    tab.wait("document.querySelector('#tiles li .picture').style.backgroundImage")
    page.fill("#filter", "")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert searched(page, "layer4 1234")[0] == "layer4 unit 1234"
    page.keyboard.press("Enter")
    page.wait_for_selector(OPEN)
    tab.wait("document.querySelector('#unit .picture').style.backgroundImage")
    order = tab.units()
    for unit in order[order.index(1234) + 1 :][:3]:
        page.keyboard.press("ArrowRight")
        tab.wait(f"document.querySelector('#unit-title').textContent === 'layer4 · unit {unit}'")


def downloaded(page: Any, selector: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.click(selector)
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


@pytest.mark.parametrize(
    ("address", "figure", "stem"),
    [
        ("layer-001.html#unit-5", "unit", "conv2-unit-5"),
        ("layer-001.html", "layer", "conv2"),
        ("layer-002.html", "layer", "_img_src_x_onerror_alert_5_"),
    ],
)
def test_figures_are_downloaded_as_png_and_pdf(
    tab: Tab, address: str, figure: str, stem: str
) -> None:
    page = tab.go(address)
    name, data = downloaded(page, f"[data-figure={figure}][data-format=png]")
    assert name == f"{stem}.png"
    with Image.open(BytesIO(data)) as picture:
        assert picture.format == "PNG"
        size = picture.size
        assert min(size) > 100
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 100, "there are pictures on it"
    name, data = downloaded(page, f"[data-figure={figure}][data-format=pdf]")
    assert name == f"{stem}.pdf"
    assert data.startswith(b"%PDF-1.")
    assert data.endswith(b"%%EOF\n")
    table = int(re.search(rb"startxref\n(\d+)\n", data)[1])  # type: ignore[index]
    assert data[table:].startswith(b"xref\n0 6\n0000000000 65535 f \n")
    offsets = [int(one) for one in re.findall(rb"(\d{10}) 00000 n \n", data[table:])]
    assert len(offsets) == 5
    for number, offset in enumerate(offsets, 1):
        assert data[offset:].startswith(f"{number} 0 obj\n".encode())
    picture = re.search(
        rb"/Width (\d+) /Height (\d+) .*?/Length (\d+) >>\nstream\n", data, re.DOTALL
    )
    assert picture is not None
    with Image.open(BytesIO(data[picture.end() : picture.end() + int(picture[3])])) as image:
        image.load()
        assert image.size == size == (int(picture[1]), int(picture[2]))
    assert data[picture.end() + int(picture[3]) :].startswith(b"\nendstream\nendobj\n")


def test_two_galleries_face_each_other_in_tiles_and_in_the_panel(
    opened: Callable[..., Tab], small: Path, tmp_path: Path
) -> None:
    model, images, scan = tiny(seed=1)
    gallery.build(
        scan, model, images, tmp_path / "other", rule=RULES, title="the other", progress=False
    )
    gallery.compare(small, tmp_path / "other", tmp_path / "both")
    tab = opened(tmp_path / "both")
    page = tab.go("index.html")
    assert page.locator("[class=layer]").first.locator(".strip").count() == 2
    page.click("h2 a >> text=conv2")
    tab.wait("document.querySelectorAll('#tiles li:first-child .picture').length === 2")
    tab.wait(
        "[...document.querySelectorAll('#tiles li:first-child .picture')].every((one) => one.style.backgroundImage)"
    )
    both = page.eval_on_selector_all(
        "#tiles li:first-child .picture", "all => all.map((one) => one.style.backgroundImage)"
    )
    assert both[0] != both[1]
    assert page.locator("li[data-unit='3'] .picture.dead").count() == 2
    page.click("li[data-unit='5'] a")
    page.wait_for_selector(OPEN)
    assert page.locator("#unit section > h3:first-child").all_inner_texts() == [
        f"tiny {LABELS[1]}",
        "the other",
    ]
    assert page.locator("#unit .exemplars").count() == 2
    assert page.locator("#unit .histogram").count() == 2
    tops = page.eval_on_selector_all(
        "#unit .blocks", "all => all.map((one) => Math.round(one.getBoundingClientRect().top))"
    )
    assert tops[0] == tops[1], "side by side"
    name, data = downloaded(page, "[data-figure=unit][data-format=png]")
    with Image.open(BytesIO(data)) as picture:
        assert (name, picture.format) == ("conv2-unit-5.png", "PNG")
    page.set_viewport_size(PHONE)
    wide, screen = page.evaluate(OVERFLOW)
    assert wide <= screen == 390


def test_a_half_made_gallery_is_browsed(
    opened: Callable[..., Tab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featviz.gallery import making

    model, images, scan = tiny()
    project = making.project_exemplars

    def stopped(*args: Any, **options: Any) -> Any:
        if args[3] == "conv2":
            raise KeyboardInterrupt
        return project(*args, **options)

    monkeypatch.setattr(making, "project_exemplars", stopped)
    with pytest.raises(KeyboardInterrupt):
        gallery.build(scan, model, images, tmp_path, progress=False)
    tab = opened(tmp_path)
    page = tab.go("index.html")
    assert "1 of 3 layers are made so far" in page.inner_text(".notice")
    assert page.locator("h2 a").count() == 1
    page.keyboard.press("/")
    assert searched(page, "conv") == ["conv1"]
    page.keyboard.press("Enter")
    tab.wait("document.querySelector('#tiles li .picture').style.backgroundImage")
    assert page.locator("nav option").count() == 1


def test_a_missing_tile_is_said(opened: Callable[..., Tab], small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "out")
    (tmp_path / "out/layers/001/0.js").unlink()
    tab = opened(tmp_path / "out")
    page = tab.go("layer-001.html")
    page.wait_for_selector("li[data-unit='0'] .picture >> text=missing")
    page.click("li[data-unit='0'] a")
    page.wait_for_selector("#unit .picture >> text=missing")
    assert len(tab.errors) >= 2
    assert all("ERR_FILE_NOT_FOUND" in error or error.endswith("/0.js") for error in tab.errors)
    tab.errors.clear()
