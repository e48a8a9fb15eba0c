"""Imports go one way, down; and the asynchronous half never loads the ORM."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "channels_sqlite"

# A row imports only from rows beneath it. `wakes` and `management` are packages.
PICTURE = """
    management
    apps  admin  doctor
    checks  layers
    db_routers  receiver  sender  tail
    settings  claims  inboxes  roll_call  trimmer  inspection  databases
    consumers  tasks  upkeep  database  codec
    store  buffers  waiters  connection  serializers  conf  wakes  models
    counters  messages  complaints  in_place  files
    exceptions  schema
"""
ROWS = [line.split() for line in PICTURE.strip().splitlines()]
HEIGHT = {unit: -row for row, units in enumerate(ROWS) for unit in units}

DJANGO_HALF = {"management", "apps", "admin", "checks", "models"}


def unit(path: Path) -> str:
    """The module or the subpackage of ours that the file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> dict[Path, ast.Module]:
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    return {path: ast.parse(path.read_text()) for path in paths if unit(path) != "migrations"}


def imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """The full names of all that a module imports, inside of functions as well."""
    package = ["channels_sqlite", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def ours(path: Path, tree: ast.Module) -> set[str]:
    """The units of ours that a module imports, other than its own."""
    names = [name.split(".") for name in imports(path, tree)]
    return {name[1] for name in names if name[0] == "channels_sqlite"} - {unit(path)}


@pytest.mark.parametrize(
    ("path", "tree"), [pytest.param(*each, id=unit(each[0])) for each in modules().items()]
)
def test_imports_go_down(path: Path, tree: ast.Module) -> None:
    not_beneath = {name for name in ours(path, tree) if HEIGHT[name] >= HEIGHT[unit(path)]}
    assert not_beneath == set()


def test_every_module_has_its_place_in_the_picture() -> None:
    assert {unit(path) for path in modules()} == set(HEIGHT)


def test_the_asynchronous_half_imports_nothing_of_the_other() -> None:
    for path, tree in modules().items():
        if unit(path) not in DJANGO_HALF:
            assert ours(path, tree) & DJANGO_HALF == set(), path


def test_a_layer_is_used_without_the_orm() -> None:
    """Importing it is quick, and possible before the apps are loaded."""
    code = (
        "import sys, channels_sqlite.layers, channels_sqlite.db_routers;"
        "print([name for name in sys.modules"
        " if name in ('django.db.models', 'channels_sqlite.models')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("units", "forbidden"),
    [
        ({"layers", "receiver", "wakes", "buffers", "waiters"}, {"sqlite3", "aiosqlite"}),
        ({"store", "upkeep", "buffers", "messages", "counters"}, {"asyncio", "aiosqlite"}),
        ({"wakes"}, {"sqlite3", "django", "channels"}),
    ],
    ids=["channel rules know no SQL", "what decides does not await", "wakes know a path"],
)
def test_seams(units: set[str], forbidden: set[str]) -> None:
    for path, tree in modules().items():
        if unit(path) in units:
            assert {name.split(".")[0] for name in imports(path, tree)} & forbidden == set(), path
