"""The README's settings make the layer work in a new project, and its words are the reference's."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, Block, blocks, lightened
from tests.docs.project import Project

README = "../README.md"
CHECK = """\
python manage.py migrate --verbosity=0
python manage.py migrate --verbosity=0 --database=channels
python manage.py check --database channels
python manage.py channels_sqlite stats
"""


# The blocks are of a POSIX shell, as the pages say; Windows has another one.
@pytest.mark.skipif(sys.platform == "win32", reason="no bash here")
def test_the_settings_can_be_appended_to_those_of_a_new_project(tmp_path: Path) -> None:
    settings = next(each for each in blocks(README) if "INSTALLED_APPS" in each.code)
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
