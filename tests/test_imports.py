"""Imports go down, in the picture of the package's docstring; and the asynchronous half never loads
the ORM.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import channels_sqlite

PACKAGE = Path(channels_sqlite.__file__).parent


def picture() -> list[list[str]]:
    """The rows of the docstring's picture: in each the modules, `management` and `migrations` as
    one each.
    """
    assert channels_sqlite.__doc__ is not None
    drawn = [line for line in channels_sqlite.__doc__.splitlines() if line.startswith("    ")]
    rows = []
    for line in drawn:
        names = line.strip().partition("   ")[0].split()
        package = names.pop(0).rstrip(":") + "." if names[0].endswith(":") else ""
        rows.append([package + name for name in names])
    return rows


HEIGHT = {
    unit: (-row, column) for row, units in enumerate(picture()) for column, unit in enumerate(units)
}

DJANGO_HALF = {"management", "apps", "admin", "checks", "models", "migrations"}


def unit(parts: list[str]) -> str:
    """The name in the picture of a module, by the parts of its own name."""
    if len(parts) > 1 and parts[0].startswith("_"):
        return f"{parts[0]}.{parts[1]}"
    return parts[0]


def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Each module's tree, by its name inside the package."""
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    names = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths]
    return {
        name: (path, ast.parse(path.read_text())) for name, path in zip(names, paths, strict=True)
    }


MODULES = modules()


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


def ours(name: str) -> set[str]:
    """The units of ours that a module imports, other than its own."""
    path, tree = MODULES[name]
    names = [each.split(".")[1:] for each in imports(path, tree) if "channels_sqlite" in each]
    return {unit(each) for each in names if each} - {unit(name.split("."))}


def test_imports_go_down_or_to_the_left() -> None:
    wrong = [
        (name, each)
        for name in MODULES
        for each in ours(name)
        if HEIGHT[each] > HEIGHT[unit(name.split("."))]
    ]
    assert wrong == []


def test_every_module_has_its_place_in_the_picture() -> None:
    assert {unit(name.split(".")) for name in MODULES} == set(HEIGHT)


def test_the_asynchronous_half_imports_nothing_of_the_other() -> None:
    for name in MODULES:
        if unit(name.split(".")) not in DJANGO_HALF and not name.startswith("_tools"):
            assert ours(name) & DJANGO_HALF == set(), name


def test_a_layer_is_used_without_the_orm() -> None:
    """Importing it is quick, and possible before the apps are loaded."""
    code = (
        "import sys, channels_sqlite.layers, channels_sqlite.db_routers;"
        "print([name for name in sys.modules"
        " if name in ('django.db.models', 'channels_sqlite.models', 'aiosqlite')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert done.stdout == "[]\n"


def test_channel_rules_know_no_sql_queues_and_times_no_django_and_sql_does_not_await() -> None:
    for packages, forbidden in (
        (["layers", "_receiving.queues", "_receiving.receiver"], {"sqlite3", "aiosqlite"}),
        (["_receiving.queues", "_waking.listener"], {"django", "channels"}),
        (["_storing.sql", "_storing.upkeep", "_storing.messages"], {"asyncio", "aiosqlite"}),
    ):
        for name in packages:
            imported = {each.split(".")[0] for each in imports(*MODULES[name])}
            assert imported & forbidden == set(), name
