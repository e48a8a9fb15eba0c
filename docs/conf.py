"""Sphinx's settings. `python -m nox -s docs` builds the site, offline, with warnings as errors."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import Path

import django
from django.conf import settings
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

settings.configure(INSTALLED_APPS=["channels", "channels_sqlite"])
django.setup()

project = "channels-sqlite"
version = release = version_of(project)
copyright = "the contributors"  # noqa: A001 - Sphinx's word
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Docstrings have their code between single backquotes, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
# Names of others have no page here, and nothing is looked up on the network.
nitpick_ignore_regex = [("py:.*", r"(?!channels_sqlite\.).*")]

html_theme = "furo"
html_title = "channels-sqlite"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_theme_options = {"top_of_page_buttons": []}

REMOTE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\s(?:src|href)=["'](?:https?:)?//""")


def refuse_remote_assets(app: Sphinx, error: Exception | None) -> None:
    """A page must not need the network, nor tell others who reads it."""
    if error is None:
        for page in Path(app.outdir).rglob("*.html"):
            if found := REMOTE.search(page.read_text(encoding="utf-8")):
                raise ExtensionError(f"{page} loads what is not its own: {found[0]}")


def setup(app: Sphinx) -> None:
    app.connect("build-finished", refuse_remote_assets)
