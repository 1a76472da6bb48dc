"""How the house stands: what it offers, and that imports go down only."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import featviz

HOME = Path(featviz.__file__).parent
FLOORS = [
    {"errors"},
    {"geometry", "seen"},
    {"units", "rules", "topk", "tiles", "cuts", "ends", "tracing", "models.local", "models.zfnet"},
    {"capture", "images"},
    {"fields", "models.load"},
    {"models"},
    {
        "records",
        "connections",
        "pull",
        "masking",
        "shortcut",
        "data.synthetic",
        "data.labelled",
        "data.train",
    },
    {"data"},
    {"project", "scan", "occlude", "sweep", "correspond", "maximize", "attribute", "checks"},
    {"figures.style", "figures.blocks"},
    {"evolve", "figures.exemplars", "figures.occlusion", "figures.curves"},
    {"figures.evolution", "figures.patches", "figures.filters", "figures.maps", "figures.tables"},
    {"figures.counts"},
    {"figures"},
    {"gallery.sprites", "gallery.numbers", "gallery.site"},
    {"gallery.making", "gallery.facing"},
    {"gallery"},
    {"cli.arguments"},
    {"cli.gallery", "cli.grid", "cli.table", "cli.training"},
    {"cli"},
    {"__main__"},
]  # what lies on one floor does not import each other
DRAWING = {"figures", "cli", "gallery"}
SPEAKING = {"cli", "__main__"}


def modules() -> dict[str, Path]:
    names = {
        path.relative_to(HOME).with_suffix("").as_posix().replace("/", "."): path
        for path in HOME.rglob("*.py")
    }
    return {
        name.removesuffix(".__init__"): path for name, path in names.items() if name != "__init__"
    }


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor(module: str) -> int | None:
    """Its floor, or its package's."""
    for name in (module, module.partition(".")[0]):
        for height, names in enumerate(FLOORS):
            if name in names:
                return height
    return None


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down_only(name: str) -> None:
    height = floor(name)
    assert height is not None, f"give {name} a floor"
    own = {
        other.removeprefix("featviz.")
        for other in imported(modules()[name])
        if other.startswith("featviz.")
    }
    for other in (own & modules().keys()) - {
        name,
        name.rpartition(".")[0],
    }:  # a package may name its own parts
        below = floor(other)
        package = name.partition(".")[0] == other.partition(".")[0]  # within gallery, say
        assert below is not None
        assert below < height or (package and name not in FLOORS[height]), f"{name} imports {other}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_only_figures_draw_and_only_the_command_line_speaks(name: str) -> None:
    top = name.partition(".")[0]
    outside = {module.partition(".")[0] for module in imported(modules()[name])}
    assert top in DRAWING or "matplotlib" not in outside
    calls = [
        node
        for node in ast.walk(ast.parse(modules()[name].read_text()))
        if isinstance(node, ast.Call)
    ]
    assert top in SPEAKING or not [
        c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"
    ]


def test_geometry_and_cuts_know_no_torch() -> None:
    for name in ("geometry", "cuts", "errors", "units"):
        assert not {
            module
            for module in imported(modules()[name])
            if module.partition(".")[0] in ("torch", "numpy")
        }


def test_all_is_there_sorted_and_documented() -> None:
    assert featviz.__all__ == sorted(featviz.__all__)
    assert len(set(featviz.__all__)) == len(featviz.__all__)
    for name in featviz.__all__:
        thing = getattr(featviz, name)
        assert thing.__doc__, name
        assert not thing.__doc__.startswith(f"{name}("), (
            f"{name} has the docstring that dataclass makes up"
        )


def test_init_has_no_logic() -> None:
    body = ast.parse((HOME / "__init__.py").read_text()).body
    assert all(isinstance(node, (ast.Expr, ast.ImportFrom, ast.Assign)) for node in body)


def test_what_is_called_is_typed() -> None:
    for name in featviz.__all__:
        thing = getattr(featviz, name)
        if inspect.isfunction(thing):
            signature = inspect.signature(thing)
            assert signature.return_annotation is not inspect.Signature.empty, name
            assert all(
                p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()
            ), name


def test_every_error_is_drawn_in_the_tree() -> None:
    from featviz import errors

    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, Exception)
    ]
    assert all(issubclass(one, errors.FeatvizError) for one in classes)
    assert all(one.__name__ in (errors.__doc__ or "") for one in classes)
