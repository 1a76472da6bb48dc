"""How the house stands: its floors, its words, and what it offers."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import featviz
from featviz.cli.commands import COMMANDS

HOME = Path(featviz.__file__).parent
ROOT = HOME.parent
FLOORS = (
    {"errors", "names", "_lazy"},
    {"geometry", "pooling"},
    {"bars", "units", "files", "forward", "inplace", "precision", "threads"},
    {"attached", "patterns", "images", "rules", "tiles", "models.local", "models.zeiler_fergus"},
    {"edits", "parameterizations"},
    {"hooks"},
    {"fields"},
    {"records"},
    {"views"},
    {"models"},
    {"data"},
    {"methods"},
    {"measures", "dictionaries"},
    {"checks", "exports"},
    {"figures"},
    {"gallery"},
    {"cli"},
    {"__main__"},
)
"""From the ground up. A folder is a floor; what lies on one floor does not import each other."""
NO_TORCH = ("errors", "names", "geometry", "units", "patterns", "files", "fields.crop")
DRAWING = {"figures", "cli"}
SPEAKING = {"cli", "__main__"}
BASES = {"methods.fill", "methods.transforms"}
"""What several methods stand on."""
COMPOSED = {
    "methods._maximize_layer": {"methods.maximize"},
    "methods.evolve": {"methods.scan", "methods.project_exemplars", "methods.responses"},
    "methods.explain": {"methods.project"},
}
"""Methods that are made of others."""
PACKAGES = (
    "featviz",
    "featviz.dictionaries",
    "featviz.figures",
    "featviz.gallery",
    "featviz.data",
    "featviz.measures",
    "featviz.models",
)
RECORDS = {
    "Ablation", "Checks", "Connections", "Correspondence", "Evolution", "Exemplars", "LayerScan",
    "Listing", "Maximized", "OcclusionMaps", "Responses", "Scan", "Statistics", "SweepResult", "TopK", "Track",
}  # fmt: skip
LOST = {
    "cuts", "ends", "found", "info", "infos", "inside", "masking", "mine", "one",
    "places", "pull", "said", "seen", "shortcut", "telling", "whole",
}  # fmt: skip
"""Words that docs/design.md replaces by the field's own. ("Parts" of an object are the paper's.)"""


def modules() -> dict[str, Path]:
    """Every module by its name below featviz; a package is its ``__init__``."""
    named = {}
    for path in HOME.rglob("*.py"):
        name = path.relative_to(HOME).with_suffix("").as_posix().replace("/", ".")
        named[name.removesuffix(".__init__")] = path
    del named["__init__"]
    return named


MODULES = modules()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it, and every name from a module."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            names |= {node.module or ""}
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(name: str) -> set[str]:
    """The modules of featviz that one of them imports."""
    own = {other.removeprefix("featviz.") for other in imported(MODULES[name])}
    # "from featviz.cli import gallery" names the package on the way to its module
    return (own & MODULES.keys()) - {name, name.rpartition(".")[0]}


def floor(module: str) -> int:
    """Its own floor, or its folder's."""
    for name in (module, module.partition(".")[0]):
        for height, names in enumerate(FLOORS):
            if name in names:
                return height
    raise AssertionError(f"give {module} a floor")


def folder(module: str) -> str:
    return module.partition(".")[0]


# --- floors


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_only(name: str) -> None:
    for other in own_imports(name):
        below = floor(other) < floor(name)
        assert below or folder(other) == folder(name), f"{name} imports {other}"


def test_no_imports_go_round() -> None:
    graph = {name: own_imports(name) for name in MODULES}
    assert list(TopologicalSorter(graph).static_order())


def test_the_readme_lists_every_folder_above_what_it_imports() -> None:
    """Modules that lie on a floor by themselves stand for themselves."""
    table = (ROOT / "README.md").read_text().partition("| modules | content |")[2]
    rows = re.findall(r"^\| (`.*?) \|", table.partition("\n\n")[0], re.MULTILINE)
    lines = {}
    for line, row in enumerate(rows):
        named = [word.strip("/").replace("/", ".") for word in re.findall(r"`(\S+)`", row)]
        lines |= dict.fromkeys(named, line)
    for name in MODULES.keys() - {"_lazy", "__main__"}:
        own = lines.get(name, lines.get(folder(name)))
        assert own is not None, f"the README's table has no {folder(name)}"
        for other in own_imports(name) - {"_lazy"}:
            assert lines.get(other, lines.get(folder(other))) <= own, f"{name} imports {other}"


@pytest.mark.parametrize("name", ["images", "hooks", "fields", "records", "methods", "cli"])
def test_the_design_names_every_module(name: str) -> None:
    """Of the folders whose modules are not all of one kind; commands are listed by their help."""
    design = (ROOT / "docs" / "design.md").read_text()
    named = design.partition("## Modules")[2].partition("## Public interface")[0]
    own = {module.removeprefix(f"{name}.") for module in MODULES if module.startswith(f"{name}.")}
    if name == "cli":
        own = {module for module in own if not module.startswith("options")} - COMMANDS.keys()
    assert own <= set(re.findall(r"\w+", named))


@pytest.mark.parametrize("name", sorted(n for n in MODULES if n.startswith("methods.")))
def test_methods_do_not_import_each_other(name: str) -> None:
    for other in own_imports(name):
        engine = other.startswith("methods._")
        allowed = engine or other in BASES | COMPOSED.get(name, set())
        assert allowed or folder(other) != "methods", f"{name} imports {other}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_figures_draw_and_only_the_command_line_speaks(name: str) -> None:
    outside = {folder(module) for module in imported(MODULES[name])}
    assert folder(name) in DRAWING or "matplotlib" not in outside
    loaded = {node.id for node in nodes(MODULES[name]) if isinstance(node, ast.Name)}
    assert folder(name) in SPEAKING or "print" not in loaded


@pytest.mark.parametrize("name", NO_TORCH)
def test_arithmetic_and_names_know_no_torch(name: str) -> None:
    assert not {folder(module) for module in imported(MODULES[name])} & {"torch", "numpy"}


@pytest.mark.parametrize("name", ["methods", "fields", "records", "checks", "exports"])
def test_some_folders_offer_nothing_themselves(name: str) -> None:
    (docstring,) = ast.parse(MODULES[name].read_text()).body
    assert isinstance(docstring, ast.Expr)


def test_the_top_has_no_logic() -> None:
    body = ast.parse((HOME / "__init__.py").read_text()).body
    (lazy,) = [node for node in body if isinstance(node, ast.If)]
    body.remove(lazy)
    named = (ast.Expr, ast.ImportFrom, ast.Assign)
    assert all(isinstance(node, named) for node in (*body, *lazy.body, *lazy.orelse))


def test_names_of_the_top_are_those_that_type_checkers_know() -> None:
    (lazy,) = [
        n for n in ast.parse((HOME / "__init__.py").read_text()).body if isinstance(n, ast.If)
    ]
    typed = set()
    for node in lazy.body:
        assert isinstance(node, ast.ImportFrom)
        home = (node.module or "").removeprefix("featviz").removeprefix(".")
        typed |= {(home, alias.name) for alias in node.names if home}
    (assignment,) = lazy.orelse
    assert isinstance(assignment, ast.Assign)
    assert isinstance(assignment.value, ast.Call)
    homes = ast.literal_eval(assignment.value.args[1])
    assert typed == {(home, name) for home, names in homes.items() for name in names}


def test_torch_is_imported_when_it_is_needed() -> None:
    code = "import sys, featviz.cli; assert 'torch' not in sys.modules; featviz.scan; import torch"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'scann'"):
        featviz.scann  # noqa: B018


# --- words


def given_names(path: Path) -> Iterator[str]:
    """Every name that a file gives: to variables, arguments, attributes, functions, classes."""
    yield path.stem
    for node in nodes(path):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield node.asname or ""
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def words(name: str) -> set[str]:
    """``FieldRefuted`` and ``field_refuted`` are both of two words."""
    return set(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_"))


SOURCES = [*HOME.rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]


@pytest.mark.parametrize("name", sorted(path.relative_to(ROOT).as_posix() for path in SOURCES))
def test_no_name_uses_a_word_that_is_lost(name: str) -> None:
    wrong = {given for given in given_names(ROOT / name) if words(given) & LOST}
    assert not wrong


def docstrings(tree: ast.AST) -> set[int]:
    """The nodes of strings that stand alone as statements."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


LIBRARY = [name for name in MODULES if folder(name) not in SPEAKING]


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_no_message_names_a_flag(name: str) -> None:
    """They name arguments; the commands add their flags."""
    tree = ast.parse(MODULES[name].read_text())
    prose = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            assert not re.search(r"(^|[\s'\"(])--[a-z]", node.value), node.value


# --- what it offers


def constants_classes_functions(name: str) -> tuple[bool, bool, str]:
    return not name.isupper(), name[0].islower(), name


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_there_and_shadows_no_module(package: str) -> None:
    """A verb called as its module hides it: ``featviz.scan`` would be one or the other, depending
    on what was imported first."""
    module = importlib.import_module(package)
    assert module.__all__ == sorted(set(module.__all__), key=constants_classes_functions)
    for name in module.__all__:
        if not isinstance(getattr(module, name), ModuleType):
            assert importlib.util.find_spec(f"{package}.{name}") is None, name


def public() -> list[str]:
    return [name for name in featviz.__all__ if not isinstance(getattr(featviz, name), ModuleType)]


@pytest.mark.parametrize("name", public())
def test_all_is_documented(name: str) -> None:
    text = getattr(featviz, name).__doc__ or ""
    assert text
    assert not text.startswith(f"{name}("), "the docstring that dataclass makes up"


def shown_by_example() -> Iterator[str]:
    """All that is offered but the errors."""
    for name in public():
        thing = getattr(featviz, name)
        if not (inspect.isclass(thing) and issubclass(thing, Exception)):
            yield name


@pytest.mark.parametrize("name", sorted(shown_by_example()))
def test_all_has_an_example(name: str) -> None:
    """The example runs as a doctest."""
    text = inspect.getdoc(getattr(featviz, name)) or ""
    assert ">>> " in text


def signatures() -> Iterator[tuple[str, inspect.Signature]]:
    """Of every function and of every method of a class that is offered."""
    for name in public():
        thing = getattr(featviz, name)
        if inspect.isfunction(thing):
            yield name, inspect.signature(thing)
            continue
        for attribute, value in vars(thing).items():
            own = getattr(value, "__func__", value)  # of a class method
            if not inspect.isfunction(own):
                continue
            if Path(own.__code__.co_filename).is_relative_to(HOME):  # not made by dataclass
                yield f"{name}.{attribute}", inspect.signature(own)


def test_what_is_called_is_typed() -> None:
    for name, signature in signatures():
        assert signature.return_annotation is not inspect.Signature.empty, name
        for argument in signature.parameters.values():
            bound = argument.name in ("self", "cls")
            assert bound or argument.annotation is not inspect.Parameter.empty, name


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_records_are_frozen_compare_by_identity_and_show_on_a_line(name: str) -> None:
    record = getattr(featviz, name)
    parameters = record.__dataclass_params__
    assert parameters.frozen
    assert not parameters.eq, "two tensors have no one truth value"
    assert not parameters.repr, "give it a line of its own"
    assert dataclasses.is_dataclass(record)
    assert "__repr__" in vars(record)
