"""The gallery in a real browser, opened from disk: what a person does there, by mouse and by
keyboard.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from galleries import HOSTILE, LABELS, LAYER, hostile_images, made_up, tiny
from laws import generator
from PIL import Image
from torch import nn

from featviz import Exemplars, Images, LayerScan, Preprocess, Scan, Unit, explain, gallery, scan
from featviz.gallery import _image_pages, _layer_files
from featviz.gallery.numbers import text

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install playwright"
)
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None, reason="needs a browser: chromium, chromium-browser or google-chrome"
    ),
]

RULES = ["deconvnet", "guided"]
PHONE = {"width": 390, "height": 844}
OPEN = "#unit[open]"
PICTURED = ".pictured li"
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@dataclass
class Tab:
    """A page of a gallery, and what happened in it that should not."""

    page: Any
    folder: Path
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def go(self, address: str) -> Any:
        """Open a page from disk; ``layer-000.html#unit-5`` is an address."""
        name, sign, anchor = address.partition("#")
        self.page.goto((self.folder / name).as_uri() + sign + anchor)
        return self.page

    def units(self) -> list[int]:
        """The tiles of a layer's page in their order."""
        numbers = "items => items.map((item) => Number(item.dataset.unit))"
        return list(self.page.eval_on_selector_all("#tiles li", numbers))

    def scripts(self) -> list[int]:
        """The units whose tiles were asked for."""
        matches = [re.search(r"/(\d+)\.js$", url) for url in self.requests]
        return [int(match[1]) for match in matches if match]

    def wait(self, condition: str) -> None:
        """Wait until an expression holds; what it looks at may not be there yet."""
        self.page.wait_for_function(
            f"() => {{ try {{ return {condition} }} catch {{ return false }} }}", timeout=20_000
        )

    def at(self, end: str) -> None:
        """Wait for an address that ends so, but for what is chosen on the page."""
        self.wait(f"location.href.replace(/[#&][a-z]+=.*/, '').endsWith({end!r})")

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until the screen shows something, frame by frame."""
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end, "it is not shown within 20 seconds"
            self.page.evaluate(FRAMES)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def result() -> Scan:
    return tiny()[2]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, images, scan = tiny()
    out = tmp_path_factory.mktemp("browser") / "a gallery #1?"
    gallery.build(scan, model, images, out, rules=RULES)
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
        tab.page.evaluate(FRAMES)  # what happened late is told by then
        tab.page.context.close()
        own = (tab.folder.resolve().as_uri() + "/", "data:", "blob:")
        assert [url for url in tab.requests if not url.startswith(own)] == []
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
    load_all = """async () => {
      const strips = [...document.querySelectorAll(".strip")];
      const load = async (strip) => {
        const picture = new Image();
        picture.src = getComputedStyle(strip.querySelector("a")).backgroundImage.slice(5, -2);
        await picture.decode();
        return picture.naturalWidth;
      };
      return Promise.all(strips.map(load));
    }"""
    assert all(width >= 72 for width in page.evaluate(load_all))


def test_the_switch_shows_other_pictures_and_is_remembered(tab: Tab) -> None:
    page = tab.go("layer-001.html")
    tab.wait(positions(".tile", "25%", "50%"))
    for switch, name, shown in (
        ("show", "patches", ["0%"]),
        ("show", "projection", ["50%"]),
        ("rule", "guided", ["100%"]),
        ("show", "masked", ["75%"]),
        ("show", "masked + projection", ["75%", "100%"]),
        ("show", "patches", ["0%"]),
    ):
        page.click(f"#{switch} >> text='{name}'")
        tab.wait(positions(".tile", *shown))
    for again in (page.reload, lambda: tab.go("layer-000.html")):
        again()
        assert page.evaluate("document.querySelector('#show input:checked').value") == "patch"
        assert page.evaluate("document.querySelector('#rule input:checked').value") == "guided"
        tab.wait(positions(".tile", "0%"))


def positions(element: str, *shown: str) -> str:
    """Whether the pictures of the first such element are these blocks of its sprite."""
    pictures = f"[...document.querySelector({element!r}).querySelectorAll('.picture')]"
    wanted = ",".join(f"{position} 0px" for position in shown)
    return f"{pictures}.map((picture) => picture.style.backgroundPosition).join() === {wanted!r}"


def test_the_panel_has_the_switch_of_the_page(tab: Tab) -> None:
    """By keyboard: its own arrows choose, and do not step to another unit; the focus stays."""
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector(OPEN)
    every = ["25%", "50%", "75%", "100%", "0%"]
    tab.wait(positions("#unit .blocks", *every))
    switch = page.get_by_role("dialog").get_by_role("group", name="Show")
    assert switch.get_by_role("radio").count() == 4
    assert switch.get_by_role("radio", name="masked + projection").is_checked()
    switch.get_by_role("radio", name="masked + projection").focus()
    page.keyboard.press("ArrowRight")
    tab.wait(positions("#unit .blocks", "25%", "75%", "0%"))
    assert switch.get_by_role("radio", name="masked", exact=True).is_checked()
    assert page.evaluate("document.activeElement.value") == "masked"
    assert page.inner_text("#unit-title") == "conv2 · unit 5"
    labels = "all => all.map((node) => node.getAttribute('aria-label'))"
    assert page.eval_on_selector_all("#unit .blocks [role=img]", labels) == [
        "patches masked by deconvnet of unit 5",
        "patches masked by guided of unit 5",
        "image patches of unit 5",
    ]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    tab.wait(positions("#unit .blocks", "0%"))
    page.focus("#unit-title")
    page.keyboard.press("ArrowRight")
    tab.wait("document.querySelector('#unit-title').textContent === 'conv2 · unit 6'")
    assert switch.get_by_role("radio", name="patches").is_checked()
    page.keyboard.press("Escape")
    tab.wait(positions(".tile", "0%"))
    assert page.evaluate("document.querySelector('#show input:checked').value") == "patch"


def test_tiles_show_their_own_block_of_the_sprite(tab: Tab, result: Scan) -> None:
    """The screen's pixels in the middle of the first tile are those of the strongest patch."""
    images = tiny()[1]
    top, statistics = result["conv1"].top, result["conv1"].statistics
    page = tab.go("layer-000.html")
    page.click("#show >> text=patches")
    unit = next(unit for unit in tab.units() if not statistics.dead[unit])
    y, x = top.positions[unit, 0].tolist()
    pixel = images[int(top.images[unit, 0])][:, y, x] * 255
    expected = np.array(pixel.round().int().tolist())
    picture = page.locator(f"#tiles li[data-unit='{unit}'] .picture")

    def is_shown() -> bool:
        with Image.open(BytesIO(picture.screenshot())) as screen:
            pixels = np.asarray(screen.convert("RGB")).astype(int)
        # the middle of the first of 2 x 2 tiles of 3 pixels, 1 between
        centre = round(1.5 / 7 * pixels.shape[0]), round(1.5 / 7 * pixels.shape[1])
        return bool(np.abs(pixels[centre] - expected).max() <= 2)

    tab.until(is_shown)


def test_sorted_in_every_way_dead_units_come_last(tab: Tab, result: Scan) -> None:
    page = tab.go("layer-001.html")
    top, statistics = result["conv2"].top, result["conv2"].statistics
    label_of = result.listing.labels.__getitem__
    labels = [list(map(label_of, images)) for images in top.images.tolist()]

    def contrast(unit: int) -> float:
        most, mean = (float(f"{own[unit]:.4g}") for own in (statistics.maximum, statistics.mean))
        return most / max(mean, 1e-12)

    keys: dict[str, Callable[[int], float]] = {
        "unit": lambda unit: unit,
        "max": lambda unit: -float(f"{statistics.maximum[unit]:.4g}"),
        "mean": lambda unit: -float(f"{statistics.mean[unit]:.4g}"),
        "contrast": lambda unit: -contrast(unit),
        "active": lambda unit: float(f"{statistics.fraction_active[unit]:.4g}"),
        "share": lambda unit: -max(map(labels[unit].count, labels[unit])),
    }
    options = page.eval_on_selector_all("#sort option", "all => all.map((item) => item.value)")
    assert options == list(keys)
    dead = statistics.dead.tolist()
    for value, key in keys.items():
        page.select_option("#sort", value)
        ordered = sorted((dead[unit], key(unit), unit) for unit in range(20))
        assert tab.units() == [unit for _, _, unit in ordered]
        assert tab.units()[-1] == 3
        page.check("#reverse")
        assert tab.units() == [*reversed([unit for _, _, unit in ordered[:-1]]), 3]
        page.uncheck("#reverse")
    assert page.inner_text("#count") == "20 units, 1 of them dead and shown last"
    assert "dead" in (page.get_attribute("li[data-unit='3'] a", "aria-label") or "")
    page.select_option("#sort", "max")
    order = tab.units()
    page.reload()
    assert page.input_value("#sort") == "max"
    assert tab.units() == order


def test_filtered_by_number_label_and_key(tab: Tab, result: Scan) -> None:
    page = tab.go("layer-001.html")
    images = result["conv2"].top.images.tolist()

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
        "#results a", "all => all.map((link) => link.firstChild.textContent)"
    )
    assert page.inner_text("#result-count").startswith(str(len(names)) if query else "")
    return list(names)


def test_search_goes_across_the_network(tab: Tab, result: Scan) -> None:
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
    holding = set()
    for name, layer_scan in result.items():
        for unit in layer_scan.statistics.living:
            if 2 in layer_scan.top.images[unit]:
                holding.add(f"{name} unit {unit}")
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
    assert page.inner_text("#results [aria-selected=true]").startswith(names[1])
    page.keyboard.press("Escape")
    assert not page.is_visible("#search")
    page.click("#show >> text=patches")  # which only this page has
    assert page.url.endswith("layer-000.html#show=patch")
    page.keyboard.press("/")
    assert page.is_visible("#search"), "also where the switch has the focus"
    page.keyboard.press("Escape")
    page.focus("#filter")
    page.keyboard.type("a/b")
    assert page.input_value("#filter") == "a/b"
    assert not page.is_visible("#search")


def test_a_link_to_a_unit_opens_its_panel(tab: Tab, result: Scan) -> None:
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector(OPEN)
    assert page.inner_text("#unit-title") == "conv2 · unit 5"
    assert page.title() == "conv2 unit 5"
    assert page.evaluate("document.activeElement.id") == "unit-title"
    assert page.locator("#unit figcaption").all_inner_texts() == [
        "patches masked by deconvnet",
        "deconvnet projections",
        "patches masked by guided",
        "guided projections",
        "image patches",
    ]
    assert page.locator("#unit .exemplars li").count() == 4
    pictures = "[...document.querySelectorAll('#unit .exemplars img')]"
    tab.wait(f"{pictures}.every((img) => img.complete && img.naturalWidth === 24)")
    page.evaluate("location.hash = '#unit-6'")
    tab.wait("document.querySelector('#unit-title').textContent === 'conv2 · unit 6'")
    tab.go("layer-001.html#unit-99")
    page.reload()
    assert not page.is_visible(OPEN)


def test_the_box_lies_where_the_field_is(tab: Tab, result: Scan) -> None:
    """Fields of conv2 are 8 pixels wide, 2 apart, and begin 3 before the edge."""
    positions = result["conv2"].top.positions[:, 0].tolist()
    away_from_edges = [
        unit
        for unit, position in enumerate(positions)
        if unit != 3 and min(position) >= 2 and max(position) <= 8
    ]
    unit = away_from_edges[0]
    y, x = positions[unit]
    page = tab.go(f"layer-001.html#unit-{unit}")
    page.wait_for_selector("#unit .box")
    rectangles = """(box) => [box, box.parentElement].map((node) => {
      const r = node.getBoundingClientRect();
      return [r.x, r.y, r.width, r.height];
    })"""
    tab.wait("document.querySelector('#unit .boxed img').naturalWidth")
    box, image = page.eval_on_selector("#unit .box", rectangles)
    scale = image[2] / 24, image[3] / 24  # of the screen's pixels to the image's
    drawn = [
        (box[0] - image[0]) / scale[0],
        (box[1] - image[1]) / scale[1],
        box[2] / scale[0],
        box[3] / scale[1],
    ]
    assert drawn == pytest.approx([2 * x - 3, 2 * y - 3, 8, 8], abs=0.3)


def test_boxes_and_maps_lie_in_images_of_their_own_size(
    opened: Callable[..., Tab], tmp_path: Path
) -> None:
    sizes = [(12, 30), (24, 18)]
    pictures = [torch.rand(3, *sizes[i % 2], generator=generator(i)) for i in range(6)]
    keys = [str(i) for i in range(6)]
    images = Images(keys, pictures.__getitem__, Preprocess()).at_own_sizes()
    model = tiny()[0]
    own = scan(model, images, ["conv2"], k=6)
    gallery.build(own, model, images, tmp_path, rules=RULES)
    tab = opened(tmp_path)
    page = tab.go("layer-000.html#unit-5")
    page.wait_for_selector("#unit .box")
    styles = page.eval_on_selector_all("#unit .box", "all => all.map((box) => box.style.cssText)")
    assert len(styles) == 6
    for rank, style in enumerate(styles):
        height, width = sizes[int(own["conv2"].top.images[5, rank]) % 2]
        y, x = own["conv2"].top.positions[5, rank].tolist()
        top, left = max(2 * y - 3, 0), max(2 * x - 3, 0)
        bottom, right = min(2 * y + 5, height), min(2 * x + 5, width)
        numbers = [float(number) for number in re.findall(r"([\d.]+)%", style)]
        expected = [top / height, left / width, (bottom - top) / height, (right - left) / width]
        assert numbers == pytest.approx([100 * share for share in expected], abs=0.01)
    maps = page.eval_on_selector_all("#unit .map", "all => all.map((map) => map.style.height)")
    assert [float(height.rstrip("%")) for height in maps] == pytest.approx([100] * 6)


def test_the_histogram_counts_every_image(tab: Tab, result: Scan) -> None:
    page = tab.go("layer-001.html#unit-5")
    titles = page.eval_on_selector_all(
        "#unit .histogram rect title", "all => all.map((title) => title.textContent)"
    )
    ranges = [title.partition(":")[0] for title in titles]
    counts = [int(re.search(r": (\d+) images?$", title)[1]) for title in titles]  # type: ignore[index]
    statistics = result["conv2"].statistics
    assert sum(counts) == 24
    assert max(counts) == int(statistics.histogram[5].max())
    edges = [numbers_in(text) for text in ranges if " to " in text]
    assert all(low < high for low, high in edges)
    assert all(left[1] == right[0] for left, right in pairwise(edges))
    assert edges[-1][0] <= float(statistics.maximum[5]) < edges[-1][1]


def numbers_in(text: str) -> tuple[float, ...]:
    """``1,234 to 5,678`` as numbers."""
    return tuple(float(number.replace(",", "")) for number in text.split(" to "))


def test_first_layer_units_show_their_weights(tab: Tab) -> None:
    page = tab.go("layer-000.html#unit-2")
    assert (
        page.eval_on_selector(
            "#unit .weights img", "async (img) => (await img.decode(), img.naturalWidth)"
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
        "the focus goes to the tile of the unit that was open last"
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


def test_hostile_names_are_shown_as_text(tab: Tab, result: Scan) -> None:
    """Nothing of them runs (the fixture sees to it that no dialog opened), and all that is
    shown is what they are.
    """
    for image, key in enumerate(result.listing.keys[: len(HOSTILE)]):
        number, unit, rank = showing(result, image)
        page = tab.go(f"layer-{number:03d}.html#unit-{unit}")
        page.wait_for_selector(OPEN)
        item = page.locator("#unit .exemplars li").nth(rank)
        assert item.locator(".key").text_content() == text(key)
        assert item.locator(".key").get_attribute("title") == text(key)
        assert item.locator("img").get_attribute("alt") == f"image {text(key)}"
        assert text(LABELS[image % 4]) in item.inner_text()
        assert page.locator("img[src=x], i, iframe").count() == 0


def showing(result: Scan, image: int) -> tuple[int, int, int]:
    """A layer's number, a unit and a rank at which it shows an image."""
    for number, layer_scan in enumerate(result.values()):
        for unit in layer_scan.statistics.living:
            images = layer_scan.top.images[unit].tolist()
            if image in images:
                return number, unit, images.index(image)
    raise AssertionError(f"no unit shows image {image}")


OVERFLOW = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.mark.parametrize(
    "address",
    [
        "index.html",
        "layer-001.html",
        "layer-002.html",
        "layer-001.html#unit-5",
        "layer-000.html#unit-1",
        "images.html",
        "image.html#image-2",
        "image.html#image-8",
    ],
)
def test_nothing_is_wider_than_a_phone(
    opened: Callable[..., Tab], small: Path, address: str
) -> None:
    tab = opened(small, viewport=PHONE, has_touch=True, is_mobile=True)
    page = tab.go(address)
    if "image-" in address:
        page.wait_for_selector(PICTURED)
    elif "#" in address:
        page.wait_for_selector(OPEN)
        within = page.eval_on_selector("#unit", "(panel) => [panel.scrollWidth, panel.clientWidth]")
        assert within[0] <= within[1]
        page.eval_on_selector("#unit", "(panel) => { panel.scrollTop = panel.scrollHeight; }")
        assert page.is_visible("#unit button:has-text('Close')")
        top = page.eval_on_selector("#unit .head", "(head) => head.getBoundingClientRect().top")
        assert top >= -1, "the buttons stay in view"
    wide, screen = page.evaluate(OVERFLOW)
    assert wide <= screen == 390
    page.keyboard.press("/")
    searched(page, "x" * 40)
    searched(page, "5")
    wide, screen = page.evaluate(OVERFLOW)
    assert wide <= screen == 390


CONTRASTS = r"""(selectors) => {
  const parsed = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const light = ([r, g, b]) => {
    const straight = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const linear = [r, g, b].map((value) => straight(value / 255));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (node) => {
    for (let up = node; up; up = up.parentElement) {
      const colour = parsed(getComputedStyle(up).backgroundColor);
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
        "#unit legend",
        "#unit .switch input:checked + span",
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
    "images.html": [
        "h1",
        ".lead",
        "#image-count",
        ".thumbnails b",
        ".thumbnails .key",
        ".to-images",
    ],
    "image.html#image-2": [
        "h1",
        "#image-key",
        ".quiet",
        "nav a",
        ".image h2 a",
        ".pictured b",
        ".pictured .name span",
    ],
    "image.html#image-999": [".notice"],
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
        if address == "image.html#image-2":
            page.wait_for_selector(PICTURED)
        ratios = page.evaluate(CONTRASTS, selectors)
        faint = {name: ratio for name, ratio in ratios.items() if ratio is None or ratio < 4.5}
        assert faint == {}, address
    page.keyboard.press("/")
    searched(page, "conv2 5")
    ratios = page.evaluate(
        CONTRASTS,
        [
            "#search label",
            "#query",
            "#query::placeholder",
            "#result-count",
            "#results a",
            "#results a span",
        ],
    )
    assert min(ratios.values()) >= 4.5, ratios
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


UNNAMED = """() => {
  const named = "a, button, input, select, img, svg, [role=img], ul.strip, ul.tiles, dialog, nav";
  const words = (node) => {
    const by = document.getElementById(node.getAttribute("aria-labelledby"));
    const label = node.labels && node.labels.length ? node.labels[0] : null;
    const own = node.matches("a, button") ? node : null;
    const texts = [by, label, own].map((source) => source?.textContent);
    return [node.getAttribute("aria-label"), node.getAttribute("alt"), ...texts];
  };
  return [...document.querySelectorAll(named)]
    .filter((node) => !node.matches("dialog:not([open])"))
    .filter((node) => !words(node).some((word) => word && word.trim()))
    .map((node) => node.outerHTML.slice(0, 200));
}"""


@pytest.mark.parametrize(
    "address",
    [
        "index.html",
        "layer-001.html",
        "layer-000.html#unit-1",
        "images.html",
        "image.html#image-2",
    ],
)
def test_everything_has_a_name_for_who_does_not_see_it(tab: Tab, address: str) -> None:
    page = tab.go(address)
    if "#" in address:
        page.wait_for_selector(PICTURED if "image-" in address else OPEN)
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.lang") == "en"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "the focus is visible"


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


ITEMS = "[...document.querySelectorAll('#tiles li')]"
SHARP = "(li.faces[0].style.backgroundImage && !li.querySelector('.preview'))"
# the page knows of each tile whether it is near the view, and has drawn those that are, from their sprites
NEAR_DRAWN = (
    f"{ITEMS}.every((li) => li.near !== undefined) && {ITEMS}.filter((li) => li.near)"
    f".every((li) => li.querySelector('.dead') || {SHARP})"
)


def test_only_tiles_near_the_view_are_loaded(opened: Callable[..., Tab], large: Path) -> None:
    tab = opened(large)
    page = tab.go("layer-000.html")
    tab.wait(NEAR_DRAWN)
    assert page.inner_text("#count") == "2,048 units, 32 of them dead and shown last"
    first = tab.scripts()
    assert 8 <= len(first) <= 200
    assert max(first) <= 250
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
    tab.wait(f"{ITEMS}.some((li) => li.dataset.unit > 900 && li.near)")
    tab.wait(NEAR_DRAWN)
    assert len(tab.scripts()) <= 2 * len(first) + 40
    drawn = f"{ITEMS}.filter((li) => {SHARP}).length"
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
    offsets = [int(digits) for digits in re.findall(rb"(\d{10}) 00000 n \n", data[table:])]
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


def test_views_in_a_downloaded_figure_are_further_apart_than_tiles(tab: Tab) -> None:
    page = tab.go("layer-001.html#unit-5")
    _, data = downloaded(page, "[data-figure=unit][data-format=png]")
    with Image.open(BytesIO(data)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    row = pixels[pixels.shape[0] // 2]
    paper = (row == 255).all(axis=1)
    edges = np.flatnonzero(np.diff(paper.astype(int)))
    widths = sorted(b - a for a, b in pairwise(edges) if paper[a + 1])
    apart = page.evaluate("featviz.panel.panelBlocks(featviz.page.data).length") - 1
    assert len(widths) > apart
    assert widths[-apart] >= 2 * widths[-apart - 1]


def test_two_galleries_face_each_other_in_tiles_and_in_the_panel(
    opened: Callable[..., Tab], small: Path, tmp_path: Path
) -> None:
    model, images, scan = tiny(seed=1)
    gallery.build(scan, model, images, tmp_path / "other", rules=RULES, title="the other")
    gallery.compare([small, tmp_path / "other"], tmp_path / "both")
    tab = opened(tmp_path / "both")
    page = tab.go("index.html")
    assert page.locator("[class=layer]").first.locator(".strip").count() == 2
    page.click("h2 a >> text=conv2")
    faces = "[...document.querySelectorAll('#tiles li:first-child .picture')]"
    tab.wait(f"{faces}.length === 4")
    tab.wait(f"{faces}.every((face) => face.style.backgroundImage)")
    both = page.evaluate(f"{faces}.map((face) => face.style.backgroundImage)")
    assert both[0] == both[1] != both[2] == both[3], "masked and projection of each"
    assert page.locator("li[data-unit='3'] .picture.dead").count() == 4
    page.click("li[data-unit='5'] a")
    page.wait_for_selector(OPEN)
    assert page.locator("#unit section > h3:first-child").all_inner_texts() == [
        f"tiny {LABELS[1]}",
        "the other",
    ]
    assert page.locator("#unit .exemplars").count() == 2
    assert page.locator("#unit .histogram").count() == 2
    tops = page.eval_on_selector_all(
        "#unit .blocks", "all => all.map((node) => Math.round(node.getBoundingClientRect().top))"
    )
    assert tops[0] == tops[1], "side by side"
    name, data = downloaded(page, "[data-figure=unit][data-format=png]")
    with Image.open(BytesIO(data)) as picture:
        assert (name, picture.format) == ("conv2-unit-5.png", "PNG")
    page.set_viewport_size(PHONE)
    wide, screen = page.evaluate(OVERFLOW)
    assert wide <= screen == 390


def test_matched_units_face_each_other_under_their_own_numbers(
    opened: Callable[..., Tab], small: Path, tmp_path: Path
) -> None:
    model, images, _ = tiny()
    with torch.no_grad():
        model.conv2.weight.copy_(model.conv2.weight.flip(0))  # type: ignore[operator, union-attr]
        model.conv2.bias.copy_(model.conv2.bias.flip(0))  # type: ignore[operator, union-attr]
    scan_of = scan(model, images, ["conv1", "conv2"], k=4, batch_size=8)
    gallery.build(scan_of, model, images, tmp_path / "other", rules=RULES, title="the other")
    gallery.compare([small, tmp_path / "other"], tmp_path / "both", match=True)
    tab = opened(tmp_path / "both")
    page = tab.go("index.html")
    strips = page.locator(".layer:nth-child(2) .strip")
    ours, theirs = (strips.nth(i).locator("a span").all_inner_texts() for i in (0, 1))
    assert [int(unit) for unit in theirs] == [19 - int(unit) for unit in ours]
    second = strips.nth(1).locator("a").first
    assert second.get_attribute("aria-label") == f"unit {theirs[0]}"
    assert (second.get_attribute("href") or "").endswith(f"#unit-{ours[0]}")
    page = tab.go("layer-001.html")
    assert "19 of its 20 units" in page.inner_text("main > .lead")
    faces = "[...document.querySelectorAll('li[data-unit=\"5\"] .picture')]"
    tab.wait(f"{faces}.length === 4 && {faces}.every((face) => face.style.backgroundImage)")
    assert page.inner_text("li[data-unit='5'] .name span") == "match 1.00"
    assert page.locator("li[data-unit='3'] .picture.dead").first.inner_text() == "dead"
    assert page.locator("li[data-unit='3'] .picture.dead").last.inner_text() == "no match"
    page.select_option("#sort", "match")
    assert tab.units()[-1] == 3
    page.click("li[data-unit='5'] a")
    page.wait_for_selector(f"{OPEN} .links")
    headings = page.locator("#unit section > h3:first-child").all_inner_texts()
    assert headings[1] == "the other · unit 14, correlation 1"
    sections = page.locator("#unit section")
    assert sections.first.locator(".links a").count() > 0
    assert sections.last.locator(".links a").count() == 0, "their numbers are of the other network"
    page.click("#unit section:last-child .boxed >> nth=0")
    assert page.inner_text("#large-title") == "unit 14, exemplar 1"
    page.keyboard.press("Escape")
    page.goto(page.url.split("#")[0] + "#unit-3")
    page.wait_for_selector(f"{OPEN} >> text=No unit of this network is left")
    page.set_viewport_size(PHONE)
    wide, screen = page.evaluate(OVERFLOW)
    assert wide <= screen == 390


def test_where_the_first_is_dead_a_tile_says_what_another_does(
    opened: Callable[..., Tab], small: Path, tmp_path: Path
) -> None:
    model, images, _ = tiny()
    with torch.no_grad():
        model.conv2.bias[3] = 0  # type: ignore[operator, union-attr]
    other = scan(model, images, ["conv2"], k=4, batch_size=8)
    gallery.build(other, model, images, tmp_path / "other", rules=RULES, title="the other")
    gallery.compare([small, tmp_path / "other"], tmp_path / "both")
    tab = opened(tmp_path / "both")
    page = tab.go("layer-000.html")
    unit = json.loads((tmp_path / "other/layers/000/units.json").read_text())[3]
    note = page.evaluate(
        f"((unit) => featviz.dominant(unit) || featviz.number(unit.max))({json.dumps(unit)})"
    )
    assert page.inner_text("li[data-unit='3'] .name span") == note
    words = page.get_attribute("li[data-unit='3'] a", "aria-label") or ""
    most = page.evaluate("featviz.number({})".format(unit["max"]))
    assert f"strongest response {most}" in words


def test_a_half_made_gallery_is_browsed(
    opened: Callable[..., Tab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, scan = tiny()
    project = _layer_files.project_exemplars

    def stopped(model: Any, images: Any, layer_scan: LayerScan, *args: Any, **options: Any) -> Any:
        if layer_scan.layer.name == "conv2":
            raise KeyboardInterrupt
        return project(model, images, layer_scan, *args, **options)

    monkeypatch.setattr(_layer_files, "project_exemplars", stopped)
    with pytest.raises(KeyboardInterrupt):
        gallery.build(scan, model, images, tmp_path)
    tab = opened(tmp_path)
    page = tab.go("index.html")
    assert "1 of 3 layers are made so far" in page.inner_text(".notice")
    assert page.locator("h2 a").count() == 1
    page.keyboard.press("/")
    assert searched(page, "conv") == ["conv1"]
    page.keyboard.press("Enter")
    tab.wait("document.querySelector('#tiles li .picture').style.backgroundImage")
    assert page.locator("nav option").count() == 1


def test_crops_that_did_not_do_are_named(
    opened: Callable[..., Tab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, scan = tiny(layers=["conv2"])
    project = _layer_files.project_exemplars

    def first_fails(*args: Any, **options: Any) -> Exemplars:
        exemplars = project(*args, **options)
        fallback = exemplars.fallback.clone()
        fallback[5, 0] = True
        return replace(exemplars, fallback=fallback, full_image=fallback)

    monkeypatch.setattr(_layer_files, "project_exemplars", first_fails)
    gallery.build(scan, model, images, tmp_path)
    page = opened(tmp_path).go("layer-000.html#unit-5")
    page.wait_for_selector(OPEN)
    assert "1 of 76 exemplars" in page.inner_text(".lead")
    items = page.locator("#unit .exemplars li").all_inner_texts()
    assert ["from the full image" in item for item in items] == [True, False, False, False]


def test_tiles_take_their_room_before_they_are_styled(
    opened: Callable[..., Tab], large: Path
) -> None:
    """A tile that is out of view is as large as one in it, and holds its pictures and its name."""
    page = opened(large).go("layer-000.html")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        sizes = page.evaluate(
            f"{ITEMS}.map((li) => `${{li.offsetWidth.toFixed()}} ${{li.offsetHeight}}`)"
        )
        assert len(set(sizes)) == 1
        bottoms = page.evaluate(
            f"{ITEMS}.slice(0, 8).map((li) => [li, li.firstChild].map((node) => node.getBoundingClientRect().bottom))"
        )
        for tile, content in bottoms:
            assert content == pytest.approx(tile, abs=1)


def test_a_tile_shows_its_preview_until_its_sprite_is_there(
    opened: Callable[..., Tab], large: Path, tmp_path: Path
) -> None:
    out = tmp_path / "late"
    shutil.copytree(large, out)
    for unit in range(1000, 2048):
        (out / f"layers/000/{unit}.js").unlink(missing_ok=True)
    tab = opened(out)
    page = tab.go("layer-000.html")
    item = "document.querySelector('li[data-unit=\"{}\"] .picture')"
    address = f"{item}.style.backgroundImage"
    tab.wait(f"{address.format(8)} && !{item.format(8)}.matches('.preview')")
    sprite = page.evaluate(address.format(8))
    page.evaluate(f"{item.format(1504)}.scrollIntoView()")
    tab.wait(address.format(1504))
    assert page.evaluate(f"{item.format(1504)}.matches('.preview')")
    preview = page.evaluate(address.format(1504))
    assert len(preview) < len(sprite) / 2
    tab.wait(f"{item.format(1504)}.textContent === 'missing'")
    assert page.evaluate(address.format(1504)) == preview, "it stays beside the word"
    tab.errors.clear()


def test_a_missing_tile_is_named_as_such(
    opened: Callable[..., Tab], small: Path, tmp_path: Path
) -> None:
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


# --- whether pictures tell units and images apart


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer whose units are all the same, so that the deconvnet draws one picture of them."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
    model[0].weight.data[:] = torch.rand(1, 3, 3, 3, generator=generator())
    images = [torch.rand(3, 16, 16, generator=generator(seed)) for seed in range(6)]
    out = tmp_path_factory.mktemp("alike")
    result = scan(model, images, ["0"], k=3)
    gallery.build(result, model, images, out, rules=["deconvnet", "lrp"])
    return out


def test_badges_follow_the_rule_and_open_by_the_keyboard(
    opened: Callable[..., Tab], alike: Path
) -> None:
    page = opened(alike).go("layer-000.html")
    shown = page.locator("main .trust:visible")
    for rule in ("lrp", "deconvnet"):
        page.click(f"#rule >> text='{rule}'")
        assert shown.count() == 1
        assert re.search(
            rf"These {rule} pictures .*\d\.\d\d", shown.locator("summary").inner_text()
        )
    assert not shown.locator("p").first.is_visible()
    shown.locator("summary").focus()
    page.keyboard.press("Enter")
    assert shown.locator("p").first.inner_text().startswith("Specificity: 1.00")


def test_a_panel_marks_every_rule_and_has_the_badge_of_the_chosen(
    opened: Callable[..., Tab], alike: Path
) -> None:
    page = opened(alike).go("layer-000.html#unit-1")
    page.wait_for_selector(OPEN)
    assert page.locator("#unit .trust").get_attribute("data-rule") == "deconvnet"
    caption = page.locator("#unit figcaption:has-text('patches masked by deconvnet')")
    assert "hardly tells units (1.00)" in caption.inner_text()


def test_the_front_page_marks_layers_whose_pictures_say_little(
    opened: Callable[..., Tab], alike: Path
) -> None:
    page = opened(alike).go("index.html")
    mark = page.locator(".layer .mark")
    assert "deconvnet hardly tells units (1.00)" in mark.inner_text()
    mark.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("main .trust:visible")


def test_a_comparison_marks_the_pictures_of_each_side(
    opened: Callable[..., Tab], alike: Path, tmp_path: Path
) -> None:
    shutil.copytree(alike, tmp_path / "again")
    gallery.compare([alike, tmp_path / "again"], tmp_path / "both")
    tab = opened(tmp_path / "both")
    page = tab.go("index.html")
    marks = page.locator(".layer .mark").all_inner_texts()
    assert len(marks) == 2
    assert all("deconvnet hardly tells units (1.00)" in mark for mark in marks)
    assert "again" in marks[1]
    for choice, layers in (("apart", 0), ("alike", 1)):
        page.select_option("#which", choice)
        assert page.locator(".layers > li:visible").count() == layers
    tab.go("layer-000.html")
    assert page.locator("main .trust:visible").count() == 2
    page.click("#rule >> text=lrp")
    assert "deconvnet" not in " ".join(page.locator("main .trust:visible").all_inner_texts())
    tab.go("layer-000.html#unit-1")
    page.wait_for_selector(OPEN)
    assert page.locator("#unit .trust").count() == 0, "they are beside the pictures"


# --- where a unit responds in its images


SHOWN_MAP = "(Number(getComputedStyle(document.querySelectorAll({!r})[{}]).opacity) === 1)"


def test_an_activation_map_is_shown_by_mouse_and_by_keyboard(tab: Tab) -> None:
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector(OPEN)
    page.hover("#unit .exemplars li:nth-child(2) .boxed")
    tab.wait(SHOWN_MAP.format("#unit .exemplars .map", 1))
    page.hover("#unit h2")
    tab.wait("!" + SHOWN_MAP.format("#unit .exemplars .map", 1))
    page.focus("#unit .show-maps")
    page.keyboard.press("Tab")  # a focus by keyboard
    tab.wait(SHOWN_MAP.format("#unit .exemplars .map", 0))
    page.keyboard.press("m")
    tab.wait(SHOWN_MAP.format("#unit .exemplars .map", 3))
    page.reload()
    tab.wait(SHOWN_MAP.format("#unit .exemplars .map", 3))
    page.keyboard.press("m")
    assert not page.is_checked("#unit .show-maps")


def test_a_map_is_clear_where_the_unit_responds_most(tab: Tab, result: Scan) -> None:
    page = tab.go("layer-001.html#unit-5")
    veil = """(canvas) => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
      .filter((_, i) => i % 4 === 3)"""
    canvas = page.locator("#unit .exemplars .map").nth(1)
    tab.until(lambda: max(canvas.evaluate(veil)) > 0)
    alphas = canvas.evaluate(veil)
    y, x = result["conv2"].top.positions[5, 1].tolist()
    assert len(alphas) == 12 * 12
    assert alphas[12 * y + x] == 0
    assert alphas.count(max(alphas)) > 1, "zero and below are dark alike"


@pytest.mark.parametrize("options", [{}, {"viewport": PHONE, "has_touch": True}])
def test_an_exemplar_opens_large_and_closes_alone(
    opened: Callable[..., Tab], small: Path, result: Scan, options: dict[str, Any]
) -> None:
    tab = opened(small, **options)
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector(OPEN)
    item = page.locator("#unit .exemplars .boxed").first
    if options:
        item.tap()
    else:
        item.focus()
        page.keyboard.press("Enter")
    page.wait_for_selector("#large[open]")
    words = page.inner_text("#large")
    image = int(result["conv2"].top.images[5, 0])
    for word in ("exemplar 1", "1 of 4", text(LABELS[image % 4]), "12 × 12 positions"):
        assert word in words
    tab.wait(SHOWN_MAP.format("#large .map", 0))
    page.keyboard.press("m")
    tab.wait("!" + SHOWN_MAP.format("#large .map", 0))
    page.keyboard.press("ArrowRight")
    tab.wait("document.querySelector('#large-title').textContent.endsWith('exemplar 2')")
    wide, screen = page.evaluate(OVERFLOW)
    assert wide <= screen
    page.keyboard.press("Escape")
    assert not page.is_visible("#large")
    assert page.is_visible(OPEN)
    assert page.inner_text("#unit-title") == "conv2 · unit 5"


def test_an_exemplar_that_is_large_goes_with_its_unit(tab: Tab) -> None:
    page = tab.go("layer-001.html")
    page.click("li[data-unit='5'] a")
    page.click("#unit .exemplars .boxed >> nth=1")
    page.wait_for_selector("#large[open]")
    page.keyboard.press("/")
    searched(page, "conv2 9")
    page.keyboard.press("Enter")
    tab.wait("document.querySelector('#unit-title').textContent === 'conv2 · unit 9'")
    assert not page.is_visible("#large")
    page.click("#unit .exemplars .boxed >> nth=1")
    page.wait_for_selector("#large[open]")
    page.go_back()
    tab.wait("document.querySelector('#unit-title').textContent === 'conv2 · unit 5'")
    assert not page.is_visible("#large")
    page.click("#unit .exemplars .boxed >> nth=1")
    page.wait_for_selector("#large[open]")
    page.go_back()
    tab.wait(f"!document.querySelector('{OPEN}')")
    assert not page.is_visible("#large")


def test_a_first_layer_shows_its_filter_once(tab: Tab) -> None:
    page = tab.go("layer-000.html")
    tab.wait("document.querySelectorAll('#tiles .picture')[1].style.backgroundSize === 'contain'")
    tab.go("layer-000.html#unit-2")
    page.wait_for_selector(OPEN)
    captions = page.locator("#unit figcaption").all_inner_texts()
    assert captions[0] == "its filter, the weights"
    assert not [caption for caption in captions if "projections" in caption]


# --- what is chosen: in the address, in a list, in notes


def test_everything_chosen_is_in_the_address_which_another_reader_opens(
    opened: Callable[..., Tab], small: Path
) -> None:
    tab = opened(small)
    page = tab.go("layer-001.html")
    page.click("#show >> text=patches")
    page.click("#rule >> text=guided")
    page.select_option("#sort", "mean")
    page.check("#reverse")
    page.select_option("#only", "living")
    page.fill("#filter", "png")
    tab.wait("location.hash.includes('filter=png')")
    order = tab.units()
    assert 0 < len(order) < 20
    page.click(f"li[data-unit='{order[0]}'] a")
    page.wait_for_selector(OPEN)
    other = opened(small)
    other.page.goto(page.url)
    other.page.wait_for_selector(OPEN)
    assert other.page.inner_text("#unit-title") == f"conv2 · unit {order[0]}"
    other.page.keyboard.press("Escape")
    assert other.units() == order
    assert other.page.evaluate("document.querySelector('#show input:checked').value") == "patch"
    assert other.page.evaluate("document.querySelector('#rule input:checked').value") == "guided"


def test_the_back_button_leads_through_what_was_open(tab: Tab) -> None:
    page = tab.go("index.html")
    page.click("h2 a >> text=conv2")
    page.select_option("#sort", "max")
    unit = tab.units()[1]
    page.click(f"li[data-unit='{unit}'] a")
    page.wait_for_selector(OPEN)
    page.keyboard.press("ArrowRight")
    page.go_back()
    tab.wait(f"!document.querySelector('{OPEN}')")
    assert page.input_value("#sort") == "max"
    page.go_forward()
    page.wait_for_selector(OPEN)
    page.keyboard.press("Escape")  # which goes back, too
    tab.at("layer-001.html")
    page.go_back()
    assert page.inner_text("h1") != "conv2", "not the same page twice"


def test_units_are_picked_shown_side_by_side_and_shared(
    opened: Callable[..., Tab], small: Path
) -> None:
    tab = opened(small)
    page = tab.go("layer-001.html")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    page.check("li[data-unit='5'] .pick input")
    tab.go("layer-001.html#unit-9&list=0,5")
    page.wait_for_selector(OPEN)
    page.click("#unit button:has-text('Pick')")
    assert page.get_attribute("#unit button[data-pick]", "aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.inner_text("#list-count") == "3 units picked: 0, 5, 9"
    page.select_option("#only", "picked")
    assert tab.units() == [0, 5, 9]
    page.click("#beside")
    page.wait_for_selector(OPEN)
    assert page.inner_text("#unit-title") == "conv2 · units 0, 5, 9"
    assert page.locator("#unit section .exemplars").count() == 3
    page.click("#unit-show >> text=projection >> nth=-1")
    other = opened(small)
    other.page.goto(page.url)
    other.page.wait_for_selector(OPEN)
    assert other.page.inner_text("#unit-title") == "conv2 · units 0, 5, 9"
    page.keyboard.press("Escape")
    page.click("#clear-list")
    assert not page.is_visible("#list")
    assert "list" not in page.url


def test_what_is_picked_and_chosen_in_a_panel_stays_when_it_closes(tab: Tab) -> None:
    page = tab.go("layer-001.html")
    page.click("li[data-unit='7'] a")
    page.wait_for_selector(OPEN)
    page.click("#unit button:has-text('Pick')")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    page.click("#unit-show >> text=patches")
    for leave in (lambda: page.keyboard.press("Escape"), page.go_back):
        leave()
        tab.wait(f"!document.querySelector('{OPEN}')")
        tab.wait("location.hash === '#show=patch&list=7%2C8'")
        assert page.inner_text("#list-count") == "2 units picked: 7, 8"
        assert page.evaluate("document.querySelector('#show input:checked').value") == "patch"
        page.click("li[data-unit='7'] a")
        page.wait_for_selector(OPEN)
    page.reload()
    page.wait_for_selector(OPEN)
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    tab.wait("location.hash === '#show=patch&list=8'")


def test_where_picked_units_alone_are_shown_others_go(tab: Tab) -> None:
    page = tab.go("layer-001.html#only=picked&list=4,5,6")
    page.click("li[data-unit='5'] .pick input")
    assert tab.units() == [4, 6]
    assert page.inner_text("#count") == "2 of 20 units"
    page.click("li[data-unit='4'] a")
    page.wait_for_selector(OPEN)
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    tab.at("#unit-6")
    page.keyboard.press("Escape")
    tab.wait("document.querySelector('#count').textContent === '1 of 20 units'")
    assert tab.units() == [6]


def test_escape_in_the_filter_shows_all_again(tab: Tab) -> None:
    page = tab.go("layer-001.html")
    page.click("#filter")
    page.keyboard.type("no such thing")
    tab.wait("location.hash.includes('filter=no')")
    page.keyboard.press("Escape")
    assert page.input_value("#filter") == ""
    assert len(tab.units()) == 20
    assert page.evaluate("document.activeElement.id") == ""
    tab.wait("location.hash === ''")


def test_notes_stay_in_the_browser_and_are_exported(tab: Tab) -> None:
    page = tab.go("layer-001.html#unit-5")
    page.fill("#note", "edges? / <b>x</b>")
    page.keyboard.press("Escape")
    page.select_option("#only", "noted")
    assert tab.units() == [5]
    page.reload()
    tab.go("layer-001.html#unit-5")
    page.wait_for_selector(OPEN)
    tab.wait("document.querySelector('#note').value === 'edges? / <b>x</b>'")
    tab.go("index.html")
    name, data = downloaded(page, "#export-notes")
    assert name == "notes.json"
    assert json.loads(data) == [
        {
            "network": f"tiny {LABELS[1]}",
            "layer": "conv2",
            "unit": 5,
            "note": "edges? / <b>x</b>",
        }
    ]


def test_units_are_filtered_by_class_and_kind(tab: Tab, result: Scan) -> None:
    page = tab.go("layer-001.html")
    values = page.eval_on_selector_all("#class option", "all => all.map((item) => item.value)")
    assert len(values) > 1
    page.select_option("#class", values[1])
    units = tab.units()
    labels = result.listing.labels
    for unit in units:
        images = result["conv2"].top.images[unit].tolist()
        assert sum(text(labels[image] or "") == values[1] for image in images) >= 2
    assert f"({len(units)} unit" in page.locator("#class option").nth(1).inner_text()
    page.select_option("#class", "")
    page.select_option("#only", "dead")
    assert tab.units() == [3]
    page.select_option("#only", "living")
    assert len(tab.units()) == 19
    tab.go("index.html")
    page.select_option("#which", "dead")
    assert page.locator(".layers > li:visible h2").all_inner_texts() == ["conv2"]
    assert page.inner_text("#layer-count") == "1 layer"


def test_search_names_a_class_as_the_page_does(tab: Tab) -> None:
    page = tab.go("layer-001.html")
    named = page.evaluate("featviz.page.data.sides[0].units.map(featviz.dominant)")
    assert "" in named[:3] + named[4:], "a living unit whose exemplars have no class in common"
    page.keyboard.press("/")
    for unit, label in enumerate(named):
        searched(page, f"conv2 {unit}")
        assert page.inner_text("#results a span >> nth=0") == label


def test_a_layer_is_reached_by_its_name(tab: Tab) -> None:
    page = tab.go("index.html#layer=conv2&unit=17")
    page.wait_for_selector(OPEN)
    assert page.inner_text("#unit-title") == "conv2 · unit 17"


def test_search_takes_units_by_their_number_and_shows_pictures(tab: Tab) -> None:
    page = tab.go("index.html")
    page.keyboard.press("/")
    assert searched(page, "unit 17") == ["conv2 unit 17"]
    tab.wait("document.querySelector('#results img').naturalWidth > 0")
    assert page.locator("#results a").first.locator("img").count() == 3
    assert page.locator("#results [role=option] a, #results [role=option] button").count() == 0
    key = "a name  with spaces.png"
    assert searched(page, "a-name_with spaces") == searched(page, key) != []


def test_how_to_read_the_pictures_is_a_page_of_the_gallery(tab: Tab) -> None:
    page = tab.go("layer-001.html")
    page.keyboard.press("?")
    tab.at("reading.html#keys")
    assert page.inner_text("h1") == "How to read the pictures"
    page.keyboard.press("/")
    assert searched(page, "unit 17") == ["conv2 unit 17"]
    page.go_back()
    page.click("a.help")
    tab.at("reading.html")


# --- print


def printed(page: Any) -> tuple[int, int]:
    """How many pages it takes on paper, and how many bytes of pictures are on them."""
    data = page.pdf(format="A4", prefer_css_page_size=True)
    pictures = re.findall(rb"/Subtype /Image.*?/Length (\d+)", data, re.DOTALL)
    return len(re.findall(rb"/Type /Page\b[^s]", data)), sum(map(int, pictures))


def test_a_unit_is_printed_on_one_page_with_its_pictures(
    opened: Callable[..., Tab], small: Path
) -> None:
    tab = opened(small, color_scheme="dark")
    page = tab.go("layer-001.html#unit-5")
    tab.wait("document.querySelector('#unit .picture').style.backgroundImage")
    tab.wait("[...document.querySelectorAll('#unit img')].every((img) => img.naturalWidth)")
    pages, pictures = printed(page)
    assert pages == 1
    assert pictures > 5_000
    page.emulate_media(media="print", color_scheme="dark")
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    assert not page.is_visible("#tiles")


def test_front_and_layer_pages_are_printed_with_their_pictures(tab: Tab) -> None:
    page = tab.go("index.html")
    assert printed(page)[1] > 5_000
    tab.go("layer-001.html")
    page.evaluate("void (print = () => { document.title = 'printed'; })")
    page.click("#print")
    tab.wait("document.title === 'printed'")
    drawn = "[...document.querySelectorAll('#tiles .picture:not(.dead)')].every((picture) => picture.style.backgroundImage)"
    assert page.evaluate(drawn)
    assert printed(page)[1] > 5_000


@pytest.mark.parametrize("asked", ["button", "Control+p", "Meta+p"])
def test_the_page_of_an_image_is_printed_with_all_patches(tab: Tab, asked: str) -> None:
    tab.page.set_viewport_size({"width": 1280, "height": 300})
    page = tab.go("image.html#image-2")
    page.wait_for_selector(PICTURED)
    page.evaluate("void (print = () => { document.title = 'printed'; })")
    patches = "[...document.querySelectorAll('.liked')]"
    assert not page.evaluate(f"{patches}.every((own) => own.style.backgroundImage)")
    if asked == "button":
        page.click("#print")
    else:
        page.keyboard.press(asked)
    tab.wait("document.title === 'printed'")
    assert page.evaluate(f"{patches}.every((own) => own.style.backgroundImage)")
    page.emulate_media(media="print")
    inside = "(own) => getComputedStyle(own).breakInside"
    assert page.eval_on_selector(PICTURED, inside) == "avoid"


def test_a_print_from_the_browser_s_menu_has_all_patches_of_an_image_s_page(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 1280, "height": 300})
    page = tab.go("image.html#image-2")
    page.wait_for_selector(PICTURED)
    tab.wait("[...document.querySelectorAll('.liked')].every((own) => own.style.backgroundImage)")


def test_the_keys_of_a_print_leave_an_open_panel_to_the_browser(tab: Tab) -> None:
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector("#unit[open]")
    page.evaluate("void (print = () => { document.title = 'printed'; })")
    page.evaluate(
        "addEventListener('keydown', (event) => { window.stopped = event.defaultPrevented; event.preventDefault(); })"
    )
    page.keyboard.press("Control+p")
    assert page.evaluate("window.stopped") is False
    assert page.title() != "printed"


# --- for who reads by ear or without a mouse


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE])
def test_axe_finds_nothing(
    opened: Callable[..., Tab], small: Path, scheme: str, viewport: dict[str, int]
) -> None:
    axe = pytest.importorskip("axe_core_python", reason="needs pip install axe-core-python")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text()
    tab = opened(small, color_scheme=scheme, viewport=viewport)
    for address in (
        "images.html",
        "image.html#image-999",
        "image.html#image-2",
        "index.html",
        "reading.html",
        "layer-001.html#list=5",
        "layer-001.html#unit-5",
        "layer-001.html#side-by-side&list=5,9",
        "layer-000.html#unit-1",
    ):
        page = tab.go(address)
        page.reload()
        if address == "image.html#image-2":
            page.wait_for_selector(PICTURED)
        assert violations(page, source) == [], address
        if "unit" in address:
            page.click("#unit .exemplars .boxed >> nth=0")
            page.wait_for_selector("#large[open]")
            assert violations(page, source) == [], "large"
            page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    searched(page, "unit 1")
    assert violations(page, source) == [], "search"


def violations(page: Any, source: str) -> list[str]:
    page.evaluate(source)
    results = page.evaluate("axe.run(document).then((result) => result.violations)")
    return [f"{own['id']}: {own['nodes'][0]['html'][:120]}" for own in results]


def test_units_that_are_not_shown_leave_no_hole(opened: Callable[..., Tab], tmp_path: Path) -> None:
    for seed in (0, 1):
        model, images, result = tiny(seed, layers=["conv2"])
        channels = [3, 7, 12, 19] if seed == 0 else [5, 7, 19]
        gallery.build(result, model, images, tmp_path / str(seed), rules=RULES, channels=channels)
    tab = opened(tmp_path / "0")
    page = tab.go("layer-000.html#unit-7")
    page.wait_for_selector(OPEN)
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#unit-title") == "conv2 · unit 12"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    page.wait_for_selector(OPEN, state="detached")
    assert tab.units() == [7, 12, 19, 3]  # the dead one last
    assert page.inner_text("#count").startswith("4 of 20 units")
    page.fill("#filter", "12")
    assert tab.units() == [12]
    assert page.inner_text("#count") == "1 of 20 units"
    page.keyboard.press("Escape")
    page.goto(page.url.split("#")[0] + "#unit-8")  # not shown
    assert page.locator(OPEN).count() == 0
    page.keyboard.press("/")
    assert searched(page, "conv2 12") == ["conv2 unit 12"]
    assert searched(page, "conv2 8") == []
    page.keyboard.press("Escape")
    page.fill("#filter", "12")
    with page.expect_download() as download:
        page.click("#controls button[data-format='png']")
    assert download.value.suggested_filename == "conv2.png"
    gallery.compare([tmp_path / "0", tmp_path / "1"], tmp_path / "both")
    both = opened(tmp_path / "both")
    page = both.go("layer-000.html#unit-19")
    page.wait_for_selector(OPEN)
    assert both.units() == [7, 19]
    assert page.locator(f"{OPEN} section").count() == 2


def test_a_unit_leads_to_those_that_it_is_made_of(
    opened: Callable[..., Tab], tmp_path: Path
) -> None:
    model, images, result = tiny(layers=["conv1", "conv2"])
    gallery.build(result, model, images, tmp_path / "all", rules=RULES)
    tab = opened(tmp_path / "all")
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector(f"{OPEN} .made-of .links")
    links = page.locator(f"{OPEN} .made-of .links a")
    unit = json.loads((tmp_path / "all" / "layers" / "001" / "units.json").read_text())[5]
    shown = [link for kind in ("excite", "inhibit", "feed") for link in unit["links"][kind]]
    assert links.count() == len(shown) > 0
    tab.wait(
        f"document.querySelector('{OPEN} .made-of .links .picture').style.backgroundImage !== ''"
    )
    name, number, share = shown[0]
    text = links.first.inner_text()
    assert f"{name} {number}" in " ".join(text.split())
    assert f"+{100 * share:.0f}%" in text
    links.first.click()
    tab.at(f"layer-000.html#unit-{number}")
    page.wait_for_selector(OPEN)
    gallery.build(result, model, images, tmp_path / "few", rules=RULES, channels=[5])
    tab = opened(tmp_path / "few")
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector(f"{OPEN} .made-of .links")
    followed = page.locator(f"{OPEN} .made-of .links a").count()
    assert followed == sum(link[1] == 5 for link in shown)
    assert page.locator(f"{OPEN} .made-of .links li").count() == len(shown)


def test_a_dead_unit_that_adds_to_another_has_no_picture(
    opened: Callable[..., Tab], tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.LeakyReLU(0.5), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        for convolution in (model[0], model[2]):
            convolution.weight.fill_(1.0)
            convolution.bias.zero_()
        model[0].bias[1] = -4.0
        model[2].bias[0] = 2.0
    images = hostile_images(8)
    result = scan(model, images, ["0", "2"], k=2)
    gallery.build(result, model, images, tmp_path, rules=["deconvnet"])
    assert result["0"].statistics.dead.tolist() == [False, True]
    tab = opened(tmp_path)
    page = tab.go("layer-001.html#unit-0")
    page.wait_for_selector(f"{OPEN} .alike .links")
    links = page.locator(f"{OPEN} .made-of .links a")
    assert [text.split()[1:] for text in links.all_inner_texts()] == [["0", "0"], ["0", "1"]]
    assert [links.nth(i).locator(".picture").count() for i in (0, 1)] == [1, 0]


def test_a_unit_leads_to_those_that_respond_to_the_same_images(
    opened: Callable[..., Tab], small: Path, result: Scan
) -> None:
    tab = opened(small)
    page = tab.go("layer-001.html#unit-5")
    heading = "Units that respond to the same images (correlation over 24 images)"
    page.wait_for_selector(f"{OPEN} h3 >> text={heading}")
    rows = page.locator(f"{OPEN} .alike .links")
    assert rows.locator("h4").all_inner_texts() == ["In this layer", "In other layers"]
    first = result.correlated(Unit("conv2", 5), 6)[0]
    link = rows.first.locator("a").first
    assert link.inner_text().split() == [
        f"{first.correlation:.2f}".replace("-", "−"),
        "conv2",
        str(first.unit.channel),
    ]
    tab.wait(f"document.querySelector('{OPEN} .alike .picture').style.backgroundImage !== ''")
    assert rows.first.locator("a").count() == 6
    others = rows.last.locator("a[href^='layer-000'] .picture")
    assert others.count() > 0
    for i in range(others.count()):  # tiles of 3 pixels, where this layer has 8
        assert others.nth(i).get_attribute("class") == "picture crisp"
        assert others.nth(i).evaluate("(own) => getComputedStyle(own).aspectRatio") == "7 / 7"
    link.click()
    tab.at(f"layer-001.html#unit-{first.unit.channel}")
    tab.wait(f"document.querySelector('#unit-title').textContent.endsWith(' {first.unit.channel}')")
    page.go_back()
    tab.wait("document.querySelector('#unit-title').textContent.endsWith(' 5')")


@pytest.mark.parametrize("dark", [False, True])
def test_a_unit_shows_its_images_from_the_weakest_to_the_strongest(
    opened: Callable[..., Tab], tmp_path: Path, dark: bool
) -> None:
    model, images, _ = tiny()
    result = scan(model, images, ["conv2"], k=4, batch_size=8, spectrum=True)
    gallery.build(result, model, images, tmp_path / "all", rules=["guided"], channels=[3, 5])
    tab = opened(tmp_path / "all", color_scheme="dark" if dark else "light")
    page = tab.go("layer-000.html#unit-5")
    page.wait_for_selector(f"{OPEN} .spectrum")
    columns = page.locator(f"{OPEN} .spectrum h4").all_inner_texts()
    assert columns == ["weakest", *(f"tenth {i}" for i in range(1, 11)), "strongest"]
    pictures = page.locator(f"{OPEN} .spectrum img")
    own = result["conv2"].maxima.group(5, 9)
    keys = [text(result.listing.keys[image]) for image in own]
    last = page.locator(f"{OPEN} .spectrum li:nth-child(11) img")
    assert last.count() == len(own)
    for i, key in enumerate(keys):
        assert key in (last.nth(i).get_attribute("alt") or "")
    page.eval_on_selector("#unit", "(panel) => { panel.scrollTop = panel.scrollHeight; }")
    tab.wait(
        f"[...document.querySelectorAll('{OPEN} .spectrum img')].every((each) => each.naturalWidth)"
    )
    assert pictures.count() > 20
    shown = page.locator(f"{OPEN} .classes .label").all_text_contents()
    assert page.locator(f"{OPEN} .classes .gap").count() == 0
    assert sorted(shown) == sorted(text(label) for label in LABELS)
    bars = f"[...document.querySelectorAll('{OPEN} .classes .extent span')].map((bar) => bar.offsetWidth)"
    widths = page.evaluate(bars)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 50
    selectors = [
        f"#unit {end}" for end in (".spectrum h4", ".spectrum figcaption", ".classes .value")
    ]
    assert min(page.evaluate(CONTRASTS, selectors).values()) >= 4.5
    page.set_viewport_size(PHONE)
    wide, screen = page.evaluate(OVERFLOW)
    assert wide <= screen == 390


# --- what the network makes of an image


def title_of(image: int) -> str:
    return text(LABELS[image % len(LABELS)])


def test_an_exemplar_leads_to_what_the_network_makes_of_its_image(tab: Tab, result: Scan) -> None:
    image = int(result["conv2"].top.images[5, 1])
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector(OPEN)
    page.locator("#unit .exemplars li").nth(1).locator(".key a").click()
    tab.at(f"image.html#image-{image}")
    page.wait_for_selector(PICTURED)
    assert page.inner_text("h1") == title_of(image)
    assert page.inner_text("#image-key") == text(hostile_images().keys[image])
    shown = page.locator("section", has_text="conv2").locator("li")
    own = explain(*tiny()[:2], result, image, n=6, rule="gradient")
    layer = next(layer for layer in own.layers if layer.layer.name == "conv2")
    for i, channel in enumerate(layer.channels):
        words = " ".join(shown.nth(i).inner_text().split())
        assert words.startswith(f"unit {channel} {100 * float(layer.shares[i]):.0f}%")
        images = result["conv2"].top.images[channel].tolist()
        rank = f"its no. {images.index(image) + 1}" if image in images else "its no."
        assert (rank in words) == (image in images)
    shown.first.scroll_into_view_if_needed()
    tab.wait("document.querySelector('.pictured .liked').style.backgroundImage !== ''")
    shown.first.locator("a").click()
    tab.at(f"layer-001.html#unit-{layer.channels[0]}")
    page.wait_for_selector(OPEN)
    page.click("#unit .exemplars .boxed >> nth=1")
    page.click("#large a")
    page.wait_for_selector(PICTURED)


def test_a_veil_is_clear_where_the_unit_responds_most(tab: Tab, result: Scan) -> None:
    own = explain(*tiny()[:2], result, 2, n=6, rule="gradient")
    page = tab.go("image.html#image-2")
    page.wait_for_selector(PICTURED)
    canvases = page.locator(".pictured .map")
    positions = [at for layer in own.layers for at in layer.positions.tolist()]
    assert canvases.count() == len(positions)
    sizes = [layer.layer.map_size for layer in own.layers for _ in layer.channels]
    alphas = """(canvas) => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
      .filter((_, i) => i % 4 === 3)"""
    for i, (y, x) in enumerate(positions):
        height, width = (min(side, 14) for side in sizes[i])
        veil = canvases.nth(i).evaluate(alphas)
        assert len(veil) == height * width
        clear = width * (y * height // sizes[i][0]) + x * width // sizes[i][1]
        assert veil[clear] == 0
        assert max(veil) > 90


def test_images_are_indexed_filtered_and_stepped_through_by_keyboard(tab: Tab) -> None:
    page = tab.go("index.html")
    page.click("a.to-images")
    tab.at("images.html")
    links = page.locator(".thumbnails li")
    every = links.count()
    assert page.inner_text("#image-count") == f"{every} images"
    page.fill("#filter-images", "plain/01")
    shown = page.locator(".thumbnails li:visible")
    assert 0 < shown.count() < every
    assert all("plain/01" in words for words in shown.all_inner_texts())
    assert page.inner_text("#image-count") == f"{shown.count()} of {every} images"
    first = shown.first.locator("a")
    address = first.get_attribute("href")
    first.focus()
    page.keyboard.press("Enter")
    tab.at(address)
    page.wait_for_selector(PICTURED)
    number = int(address.rpartition("-")[2])
    pages = json.loads((tab.folder / "gallery.json").read_text())["pages"]
    after = pages[pages.index(number) + 1]
    page.keyboard.press("ArrowRight")
    tab.at(f"image.html#image-{after}")
    tab.wait(f"document.querySelector('h1').textContent === {title_of(after)!r}")
    page.keyboard.press("ArrowLeft")
    tab.at(address)
    page.click("nav a[aria-label='Next image']")
    tab.at(f"image.html#image-{after}")
    page.keyboard.press("Escape")
    tab.at("images.html")
    page.keyboard.press("Escape")
    tab.at("index.html")


def test_the_first_and_the_last_image_lead_one_way_and_an_unknown_one_says_so(tab: Tab) -> None:
    pages = json.loads((tab.folder / "gallery.json").read_text())["pages"]
    page = tab.go(f"image.html#image-{pages[0]}")
    page.wait_for_selector(PICTURED)
    assert page.locator("nav a").all_inner_texts() == ["All images", "→"]
    page.keyboard.press("ArrowLeft")
    page.evaluate(f"location.hash = '#image-{pages[-1]}'")
    tab.wait(
        "document.querySelectorAll('nav a').length === 2 && document.querySelector('nav a').textContent === '←'"
    )
    page.evaluate("location.hash = '#image-999'")
    tab.wait("document.querySelector('h1').textContent === 'No such image'")
    assert "No image of this number" in page.inner_text("#image-notice")
    assert page.locator("#subject img, .pictured").count() == 0


def test_where_not_all_exemplars_have_a_page_the_others_are_no_links(
    opened: Callable[..., Tab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_image_pages, "LIMIT", 3)
    model, images, result = tiny()
    gallery.build(result, model, images, tmp_path / "few", rules=RULES)
    tab = opened(tmp_path / "few")
    page = tab.go("images.html")
    assert page.locator(".thumbnails li").count() == 3
    pages = json.loads((tmp_path / "few" / "gallery.json").read_text())["pages"]
    assert "these 3 are so of the most units" in page.inner_text("#of-images")
    page = tab.go("layer-001.html#unit-5")
    page.wait_for_selector(OPEN)
    own = result["conv2"].top.images[5].tolist()
    assert page.locator("#unit .key a").count() == len(set(own) & set(pages))


def test_of_many_classes_the_gap_is_marked(opened: Callable[..., Tab], tmp_path: Path) -> None:
    model, images, _ = tiny()
    images = images.labelled({key: f"class {i:02d}" for i, key in enumerate(images.keys)})
    own = scan(model, images, ["conv1"], k=1, spectrum=True)
    gallery.build(own, model, images, tmp_path, rules=["guided"], channels=[0])
    tab = opened(tmp_path)
    page = tab.go("layer-000.html#unit-0")
    page.wait_for_selector(f"{OPEN} .classes")
    rows = page.locator(f"{OPEN} .classes li")
    assert rows.count() == 11
    assert rows.nth(5).inner_text() == "… 14 more …"
    page = tab.go("images.html")
    assert page.inner_text("#image-count") == "1 image"
    assert "exemplars" not in page.inner_text("#of-images"), "the other images are no exemplars"


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE])
def test_an_image_is_larger_than_those_of_its_units(
    opened: Callable[..., Tab], small: Path, viewport: dict[str, int]
) -> None:
    tab = opened(small, viewport=viewport)
    page = tab.go("image.html#image-2")
    page.wait_for_selector(PICTURED)
    width = "(own) => own.getBoundingClientRect().width"
    assert page.eval_on_selector("#subject img", width) == 288
    assert page.eval_on_selector(".pictured img", width) < 200
    page.evaluate("featviz.image.get(2)[1] = 'a_name/that_goes_on'")
    tab.go("image.html#image-3")
    tab.go("image.html#image-2")
    tab.wait("document.querySelectorAll('h1 wbr').length === 4")


def test_numbers_are_written_as_they_are(tab: Tab) -> None:
    page = tab.go("index.html")
    for share, words in ((1, "100%"), (0.9982, "99%"), (0.5, "50%"), (0.004, "below 1%")):
        assert page.evaluate(f"featviz.percent({share})") == words
    assert page.evaluate("featviz.counted(1280, 'unit')") == "1,280 units"
    for value, words in ((-0.003, "0.00"), (-0.25, "−0.25"), (0.25, "0.25")):
        assert page.evaluate(f"featviz.signed({value}, 2)") == words


def test_a_panel_shows_the_image_that_drives_its_unit(
    opened: Callable[..., Tab], tmp_path: Path
) -> None:
    model, images, scan = tiny(layers=["conv2"])
    gallery.build(scan, model, images, tmp_path, maximize=2)
    tab = opened(tmp_path)
    page = tab.go("layer-000.html#unit-5")
    tab.wait("document.querySelector('#unit .maximized img').naturalWidth === 10")
    image = page.locator("#unit .maximized img")
    assert image.get_attribute("alt") == "image made to drive unit 5"
    assert "made to drive it: response" in page.inner_text("#unit .maximized figcaption")
    box = image.bounding_box()
    assert abs(box["width"] - box["height"]) < 1
    tab.go("layer-000.html#unit-3")
    tab.wait("document.querySelector('#unit .notice')")
    assert page.locator("#unit .maximized").count() == 0
