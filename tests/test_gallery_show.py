"""A gallery in a notebook's frame: its HTML, and in Chromium as Jupyter serves files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from galleries import tiny

from featviz import UsageError, gallery

SANDBOX = "sandbox allow-scripts"
"""With what Jupyter's server lets a page of a notebook's folder run."""


class Sources(HTMLParser):
    """The addresses of frames and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        for name in ("src", "href"):
            if name in own:
                self.addresses[tag] = own[name] or ""
        if tag == "iframe":
            self.height = own["height"]


class Served(SimpleHTTPRequestHandler):
    """Files as a notebook's server gives them."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", SANDBOX)
        super().end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, images, result = tiny()
    out = tmp_path_factory.mktemp("notebook") / 'a "gallery" #1?'
    return gallery.build(result, model, images, out, rules=["gradient"])


@pytest.fixture
def notebook(page: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebook's folder, which the gallery's is in."""
    monkeypatch.chdir(page.parents[1])
    return page.parents[1]


def test_the_frame_is_of_the_page_by_its_path_from_the_notebook(notebook: Path, page: Path) -> None:
    for given in (page, page.parent, page.parent.name):
        shown = gallery.show(given, height=500)
        sources = Sources(shown._repr_html_())
        assert sources.height == "500"
        assert set(sources.addresses) == {"iframe", "a"}
        for address in sources.addresses.values():
            assert (notebook / unquote(address)).samefile(page)
            assert not set("#?\"'<>") & set(address)
    assert repr(gallery.show(page.parent.name)) == "<Gallery in 'a \"gallery\" #1?'>"


def test_what_is_no_gallery_is_said(notebook: Path, tmp_path: Path) -> None:
    for nothing in (notebook, tmp_path / "gone", tmp_path / "index.html"):
        with pytest.raises(UsageError, match="no gallery in"):
            gallery.show(nothing)
    with pytest.raises(UsageError, match="height=0: give pixels above 0"):
        gallery.show(notebook, height=0)


@pytest.fixture
def server(notebook: Path) -> Iterator[str]:
    handler = partial(Served, directory=str(notebook))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as own:
        thread = threading.Thread(target=own.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{own.server_port}"
        own.shutdown()
        thread.join()


@pytest.mark.browser
def test_a_gallery_works_in_a_frame_as_notebooks_serve_it(
    server: str, notebook: Path, page: Path
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("needs a browser")
    (notebook / "notebook.html").write_text(gallery.show(page)._repr_html_())
    errors: list[str] = []
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        tab = chromium.new_page()
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(f"{server}/notebook.html")
        frame = tab.frame_locator("iframe")
        frame.locator("a[href='layer-001.html']").first.click()
        frame.locator("#tiles li").first.click()
        frame.locator("#unit[open]").wait_for()
        chromium.close()
    assert not errors
