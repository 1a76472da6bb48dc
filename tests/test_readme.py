"""What README and docs say: their Python runs as it stands, their links and messages are there."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import featviz
from featviz import load_model
from featviz.cli import commands
from featviz.cli.commands import COMMANDS
from featviz.data import SyntheticImages
from featviz.gallery._image_pages import LIMIT
from featviz.gallery._maps import SIDE
from featviz.images._sizes import WINDOW
from featviz.methods._random_affine import RandomAffine
from featviz.methods.maximize import CLASS_FOURIER
from featviz.names import PER_SHARD
from featviz.records._focus import ENERGY, LARGEST, SMALLEST
from featviz.records.image_sample import SAMPLE
from featviz.records.likeness import HIGH
from featviz.records.position_sample import MOST
from featviz.tiles import MASK_BLUR, MASK_PERCENTILE, MASK_POWER

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: \S.*-->\s*$")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md"]
CODE_FILE = re.compile(r"(?:benchmarks|featviz|scripts|tests)/[\w/]+\.py")
LINK = re.compile(r"\]\(([^)#\s]+)")
COMMANDS_PAGE = ROOT / "docs" / "commands.md"
ROW_OF_OPTIONS = re.compile(r"^\| (`--[^|]*) \| ([^|]*) \|", re.MULTILINE)
ANCHOR = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")


def snippets(page: Path) -> Iterator[str]:
    """The Python blocks of a page that are to run; each at the line where it stands in the page."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        above = text[: match.start()]
        if match[1] == "python" and not NOT_RUN.search(above):
            lines_above = above.count("\n") + 1
            yield "\n" * lines_above + match[2]


@pytest.fixture(autouse=True)
def _no_figures_left() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(snippets(page))], ids=lambda page: page.stem
)
def test_the_snippets_run(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One after the other, in one namespace and in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    if page.stem.startswith("captum"):
        pytest.importorskip("captum")
        # what captum itself warns of is not ours to mend
        warnings.filterwarnings("ignore", message="Setting .*backward hooks")
    namespace: dict[str, object] = {"__name__": page.stem}
    for code in snippets(page):
        exec(compile(code, str(page), "exec"), namespace)
    assert not plt.get_fignums(), "a snippet leaves a pyplot figure open"


def test_the_readmes_figures_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = next(snippets(README))
    exec(compile(first, "README.md", "exec"), {})
    assert (tmp_path / "conv3.png").stat().st_size > 10_000


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)
def test_files_that_are_named_are_there(page: Path) -> None:
    for name in CODE_FILE.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_readme_lists_every_script() -> None:
    listed = re.findall(r"^\| `(\w+\.py)` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    runnable = {
        path.name for path in (ROOT / "scripts").glob("*.py") if "__main__" in path.read_text()
    }
    assert set(listed) == runnable


def test_the_page_of_commands_has_every_option() -> None:
    """With the commands that have it, and no other."""
    listed: dict[str, set[str]] = {}
    for options, names in ROW_OF_OPTIONS.findall(COMMANDS_PAGE.read_text(encoding="utf-8")):
        having = {own for name in names.split(", ") for own in _in_group(name)}
        for option in re.findall(r"--[a-z-]+", options):
            assert option not in listed, f"{option} is listed twice"
            listed[option] = having
    assert listed == _options()


def _options() -> dict[str, set[str]]:
    """The commands that have an option, by the option."""
    by_option: dict[str, set[str]] = {}
    for name in COMMANDS:
        help_text = io.StringIO()
        with contextlib.redirect_stdout(help_text), pytest.raises(SystemExit):
            commands.run([name, "--help"])
        usage = help_text.getvalue().partition("\n\n")[0]
        for option in re.findall(r"--[a-z][a-z-]*", usage):
            by_option.setdefault(option, set()).add(name)
    return by_option


def _in_group(name: str) -> list[str]:
    """The commands that a word of the page stands for."""
    group = re.search(rf"\*{name}\*\s[^(]*\(([^)]*)\)", COMMANDS_PAGE.read_text(encoding="utf-8"))
    return re.findall(r"`(\w+)`", group[1]) if group else [name]


def test_the_page_of_commands_has_every_command() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", COMMANDS_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Those of a page's headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)
def test_links_to_headings_lead_to_headings(page: Path) -> None:
    for target, anchor in ANCHOR.findall(page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            other = page.parent / target if target else page
            assert anchor in anchors(other), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("index", [README, ROOT / "docs" / "index.md"], ids=["README", "index"])
def test_every_page_is_linked(index: Path) -> None:
    targets = LINK.findall(index.read_text(encoding="utf-8"))
    linked = {(index.parent / target).resolve() for target in targets}
    pages = set(PAGES) - {README, ROOT / "docs" / "index.md"}
    assert pages <= linked


def test_ci_runs_the_readmes_commands() -> None:
    """The test command is copied as it stands."""
    commands = re.findall(
        r"^    (python3 -m venv .*)$", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_command_of_ci_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# --- the notebook


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_notebooks_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for number, cell in enumerate(code_cells(), 1):
        lines = [line for line in cell["source"] if not line.startswith("%")]
        exec(compile("".join(lines), f"cell {number}", "exec"), namespace)


def test_the_notebook_was_executed_from_top_to_bottom() -> None:
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    assert NOTEBOOK.stat().st_size < 300_000


# --- reference


def documented() -> set[str]:
    """What the pages of the reference draw: objects, and modules with all that is public in them."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    return {
        name
        for page in pages
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize(
    "name",
    sorted(
        set(featviz.__all__) - {"dictionaries", "edits", "figures", "gallery", "parameterizations"}
    ),
)
def test_the_reference_has_every_public_name(name: str) -> None:
    module = getattr(featviz, name).__module__
    assert {module, f"{module}.{name}"} & documented(), (
        f"no page of docs/reference has {module}.{name}"
    )


# --- limitations


def messages() -> str:
    """Every string in the code of featviz; what is put into one is an ellipsis."""
    strings = []
    for path in Path(featviz.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                strings.append("".join(map(str, pieces)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(node.value)
    return "\n".join(strings)


def refusals() -> list[tuple[str, str]]:
    """The error and the message in each row of the tables of limitations."""
    text = (ROOT / "docs" / "limitations.md").read_text(encoding="utf-8")
    return re.findall(r"^\| .* \| `(\w+Error)` \| `(.+?)` \| .* \|$", text, re.MULTILINE)


def test_limitations_has_its_tables() -> None:
    assert len(refusals()) > 20


@pytest.mark.parametrize(("error", "message"), refusals())
def test_limitations_quotes_what_the_code_says(error: str, message: str) -> None:
    assert issubclass(getattr(featviz, error), featviz.FeatvizError)
    strings = messages()
    for fragment in filter(None, (piece.strip(" ;,") for piece in message.split("…"))):
        assert fragment in strings, f"no message says {fragment!r}"


# --- numbers

DEFAULT = RandomAffine()
NUMBERS = [
    ("README.md", f"{sum(own.numel() for own in load_model('zfmini').parameters()):,} parameters"),
    ("README.md", f"{SyntheticImages().n:,} synthetic images"),
    ("docs/reading.md", f"its {MASK_PERCENTILE * 100:.0f}th percentile) ** {MASK_POWER},"),
    ("docs/reading.md", f"a Gaussian of {MASK_BLUR * 224:.0f} pixels of a 224-pixel image"),
    ("docs/reading.md", f"that holds {ENERGY:.0%} of the energy"),
    ("docs/reading.md", f"more than {LARGEST} of it, and those with fields of up to {SMALLEST} pix"),
    ("docs/reading.md", f"the mean cosine is above {HIGH},"),
    ("docs/reading.md", f"no more than {MOST:,} in all images"),
    ("docs/reading.md", f"a seeded sample of {SAMPLE:,} images"),
    ("docs/reading.md", f"{SIDE} x {SIDE} at most"),
    ("docs/reading.md", f"Where more than {LIMIT} images are"),
    ("docs/scaling.md", f"({PER_SHARD:,} images each,"),
    ("docs/your-images.md", f"sorted by size within {WINDOW} batches"),
    ("docs/maximize.md", f"turned by up to {DEFAULT.turn:.0f} degrees, scaled by up to {DEFAULT.scale:.0%}"),
    ("docs/maximize.md", f"shifted by up to a {1 / DEFAULT.shift:.0f}th of its side"),
    ("docs/maximize.md", f"(decay {CLASS_FOURIER.decay}, rate {CLASS_FOURIER.rate})"),
]  # fmt: skip


@pytest.mark.parametrize(("page", "words"), NUMBERS)
def test_numbers_of_the_docs_are_those_of_the_code(page: str, words: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert words in text
