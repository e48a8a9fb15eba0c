"""The package's docstring is a map of it, and the imports keep to that."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stress

ROOT = Path(stress.__file__).parent
NAMES = 46  # columns of the map, before what it says of them


def order() -> list[str]:
    """The names on the map, from the roof down and from left to right."""
    assert stress.__doc__
    rows = [line for line in stress.__doc__.splitlines() if line.startswith("    ")]
    return [name.rstrip("/") for row in rows for name in row[:NAMES].split()]


def unit(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def imported(path: Path) -> Iterator[str]:
    """The units that a module needs at run time; what only its types need does not count."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        first, *rest = node.module.split(".")
        if first == "stress":
            yield from rest[:1] or (alias.name for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_what_stands_to_its_right_or_beneath(path: Path) -> None:
    places = order()
    wrong = {
        name
        for name in imported(path)
        if name != unit(path) and places.index(name) < places.index(unit(path))
    }
    assert wrong == set()


def test_every_module_is_on_the_map_once() -> None:
    assert sorted(order()) == sorted({unit(path) for path in modules()})
