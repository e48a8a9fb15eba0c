"""The README's settings make the layer work in a new project, and its words are the reference's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from tests.docs.blocks import DOCS, TUTORIAL, Block, blocks, lightened
from tests.docs.project import Project, needs_bash

README = "../README.md"
CHECK = """\
python manage.py migrate --verbosity=0
python manage.py migrate --verbosity=0 --database=channels
python manage.py check --database channels
python manage.py channels_sqlite stats
"""


@needs_bash
def test_the_settings_can_be_appended_to_those_of_a_new_project(tmp_path: Path) -> None:
    must_make_a_layer(readme("python"), tmp_path)


@needs_bash
def test_the_difference_to_channels_redis_is_all_that_has_to_change(tmp_path: Path) -> None:
    difference = readme("diff")
    lines = [line for line in difference.code.splitlines() if not line.startswith("-")]
    code = "\n".join(['INSTALLED_APPS += ["channels"]', *(line[1:] for line in lines)])
    must_make_a_layer(replace(difference, code=code), tmp_path)


@needs_bash
def test_it_leads_into_the_tutorial(tmp_path: Path) -> None:
    """With its own commands; the tutorial's first chapters are not needed."""
    words = (DOCS / README).read_text("utf-8")
    (start,) = re.findall(r"`(python manage.py startapp .+?)`", words)
    (line,) = re.findall(r"`(INSTALLED_APPS \+= .+?)`", words)
    anchor = re.findall(r"tutorial\.md#([a-z-]+)", words)
    chapter = blocks(TUTORIAL, after=f"## {anchor[0].replace('-', ' ').capitalize()}")
    options = {"class": "append", "caption": "config/settings.py"}
    settings = replace(readme("python"), options=options)
    (tmp_path / "reader").mkdir()
    with Project(tmp_path / "reader") as project:
        project.run(Block(README, 0, "sh", {}, "django-admin startproject config ."))
        project.run(lightened(settings))
        project.run(Block(README, 0, "sh", {}, start))
        project.run(replace(settings, code=line))
        for block in chapter:
            if block.kind == "file":
                project.run(block)
        project.run(Block(README, 0, "sh", {}, "python manage.py test"))
        assert "Ran 1 test" in project.said


def readme(language: str) -> Block:
    """The README's first block of the language that names apps."""
    found = (each for each in blocks(README) if "INSTALLED_APPS" in each.code)
    return next(each for each in found if each.language == language)


def must_make_a_layer(settings: Block, tmp_path: Path) -> None:
    (tmp_path / "reader").mkdir()
    with Project(tmp_path / "reader") as project:
        project.run(Block(README, 0, "sh", {}, "django-admin startproject config ."))
        options = {"class": "append", "caption": "config/settings.py"}
        project.run(lightened(replace(settings, options=options)))
        project.run(Block(README, 0, "sh", {}, CHECK))
        assert "no issues" in project.said
        assert "Messages  0 waiting" in project.said


def test_words_mean_the_same_in_the_reference() -> None:
    definitions = re.compile(r"^A \*normal channel\*(?:.+\n)+", re.MULTILINE)
    pages = (README, "reference/settings.md")
    [one], [other] = (definitions.findall((DOCS / page).read_text("utf-8")) for page in pages)
    assert one == other
