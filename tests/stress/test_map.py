"""The package's docstring is a map of it, and the imports keep to that."""

from __future__ import annotations

import re
from pathlib import Path

import stress

ROOT = Path(stress.__file__).parent
NAMES = 46  # columns of the map, before what it says of them
ROWS = [line[:NAMES] for line in str(stress.__doc__).splitlines() if line.startswith("    ")]
ORDER = [name.rstrip("/") for row in ROWS for name in row.split()]
"""The names on the map, from the roof down and from left to right."""
MODULES = {path: path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
# Imports that a module needs at run time; one that only its types need is indented.
IMPORTS = re.compile(r"^from stress(?:\.(\w+)\S* import .*| import (.+))$", re.MULTILINE)


def test_a_module_imports_what_stands_to_its_right_or_beneath() -> None:
    wrong = [
        (unit, name)
        for path, unit in MODULES.items()
        for module, names in IMPORTS.findall(path.read_text())
        for name in ([module] if module else names.split(", "))
        if ORDER.index(name) < ORDER.index(unit)
    ]
    assert wrong == []


def test_every_module_is_on_the_map_once() -> None:
    assert sorted(ORDER) == sorted({*MODULES.values()} - {"__init__"})
