"""A project of a user in a directory of its own, whose `manage.py` a test runs as people do."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.processes import PATIENCE, ROOT

SETTINGS = """\
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = "tests"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "channels", "channels_sqlite"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"},
    "channels": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "channels.sqlite3",
        "OPTIONS": {"timeout": 20},
    },
}
DATABASE_ROUTERS = ["channels_sqlite.db_routers.ChannelsRouter"]
CHANNEL_LAYERS = {"default": {"BACKEND": "channels_sqlite.layers.SqliteChannelLayer"}}
"""


class Project:
    """The project in `directory`; `settings` are lines that change the README's settings."""

    def __init__(self, directory: Path, settings: str = "") -> None:
        self.directory = directory
        self.database = directory / "channels.sqlite3"
        self.configure(settings)

    def configure(self, settings: str) -> None:
        """Begin with the README's settings, and change them by these lines."""
        (self.directory / "settings.py").write_text(f"{SETTINGS}\n{settings}")

    def write(self, name: str, text: str) -> None:
        """A file of the project, with the packages that it is in."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for package in path.relative_to(self.directory).parents[:-1]:
            (self.directory / package / "__init__.py").touch()
        path.write_text(text)

    def manage(
        self, *arguments: str, prefix: Sequence[str] = (), succeeds: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """The words of `manage.py`; by itself it must end well, unless told that it fails."""
        environment: dict[str, Any] = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONPATH": f"{self.directory}:{ROOT}",
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            [*prefix, sys.executable, "-W", "error", "-m", "django", *arguments],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
        return done

    def select(self, what: str, database: str = "channels") -> list[Any]:
        """The rows of `select {what}` in a database of the project."""
        with closing(sqlite3.connect(self.directory / f"{database}.sqlite3")) as connection:
            return connection.execute(f"select {what}").fetchall()
