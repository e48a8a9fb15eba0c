"""The README's settings make the layer work in a new project, and its words are the reference's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from channels_sqlite._options.conf import Options
from tests.docs.blocks import DOCS, TUTORIAL, Block, blocks, lightened
from tests.docs.project import Project, needs_bash

README = "../README.md"
CHECK = """\
python manage.py migrate --verbosity=0
python manage.py migrate --verbosity=0 --database=channels
python manage.py check --database channels
"""


@needs_bash
def test_it_makes_a_layer_in_a_new_project_and_leads_into_the_tutorial(tmp_path: Path) -> None:
    """With its own commands; the tutorial's first chapters are not needed."""
    words = (DOCS / README).read_text("utf-8")
    (start,) = re.findall(r"`(python manage.py startapp .+?)`", words)
    (line,) = re.findall(r"`(INSTALLED_APPS \+= .+?)`", words)
    anchor = re.findall(r"tutorial\.md#([a-z-]+)", words)
    chapter = blocks(TUTORIAL, after=f"## {anchor[0].replace('-', ' ').capitalize()}")
    options = {"class": "append", "caption": "config/settings.py"}
    settings = replace(readme("python"), options=options)
    with Project(tmp_path / "reader") as project:
        project.run(Block(README, 0, "sh", {}, "django-admin startproject config ."))
        project.run(lightened(settings))
        project.run(Block(README, 0, "sh", {}, CHECK))
        assert "no issues" in project.said
        project.run(Block(README, 0, "sh", {}, start))
        project.run(replace(settings, code=line))
        for block in chapter:
            if block.kind == "file":
                project.run(block)
        project.run(Block(README, 0, "sh", {}, "python manage.py test"))
        assert "Ran 1 test" in project.said


def test_the_difference_to_channels_redis_is_all_that_has_to_change() -> None:
    """It leads to the settings above, and keeps the CONFIG."""
    lines = [line for line in readme("diff").code.splitlines() if not line.startswith("-")]
    changed = appended("\n".join(line[1:] for line in lines))
    settings = appended(readme("python").code)
    assert "channels_sqlite" in changed["INSTALLED_APPS"]
    for name in ("DATABASES", "DATABASE_ROUTERS"):
        assert changed[name] == settings[name]
    layer = changed["CHANNEL_LAYERS"]["default"]
    assert Options.from_config(layer.pop("CONFIG")).capacity == 1500
    assert layer == settings["CHANNEL_LAYERS"]["default"]


def appended(code: str) -> dict[str, Any]:
    """The settings of a project after the code."""
    settings = {"BASE_DIR": Path("project"), "DATABASES": {}, "INSTALLED_APPS": ["channels"]}
    exec(code, settings)
    return settings


def readme(language: str) -> Block:
    """The README's first block of the language that names apps."""
    found = (each for each in blocks(README) if "INSTALLED_APPS" in each.code)
    return next(each for each in found if each.language == language)


def test_words_mean_the_same_in_the_reference() -> None:
    definitions = re.compile(r"^A \*normal channel\*(?:.+\n)+", re.MULTILINE)
    pages = (README, "reference/settings.md")
    [one], [other] = (definitions.findall((DOCS / page).read_text("utf-8")) for page in pages)
    assert one == other
