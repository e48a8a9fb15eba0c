"""From channels-sqlite 0.1, as the index has it, to this version: in an environment of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests import projects

ROOT = Path(__file__).parent.parent
PATIENCE = 300  # seconds; only a hang takes that long
OLD = "channels-sqlite==0.1"

# What the README of 0.1 has its users write.
SETTINGS_OF_0_1 = f'''\
{projects.SETTINGS}
DATABASES["channels"] |= {{
    "init_command": "PRAGMA journal_mode=WAL;",
    "transaction_mode": "IMMEDIATE",
}}
DATABASES["channels"]["OPTIONS"]["init_command"] = """
    PRAGMA journal_mode=WAL;
    PRAGMA synchronous=NORMAL;
    PRAGMA busy_timeout=20000;
    PRAGMA cache_size=-64000;
    PRAGMA temp_store=MEMORY;
    PRAGMA mmap_size=134217728;
"""
CHANNEL_LAYERS["default"]["CONFIG"] = {{
    "polling_interval": 0.05,
    "message_retention": 86400,
    "capacity": 100,
    "expiry": 30,
    "trim_batch_size": 100,
    "auto_trim": True,
}}
'''

# Sends and receives, and leaves a group with a member and a message that waits.
USE_OF_0_1 = """\
import asyncio

import django
from channels.layers import get_channel_layer

django.setup()


async def use():
    layer = get_channel_layer()
    await layer.group_add("group", "member")
    await layer.group_send("group", {"type": "first"})
    print((await asyncio.wait_for(layer.receive("member"), 60))["type"])
    await layer.send("member", {"type": "second"})


asyncio.run(use())
"""


OLD_TABLES = {"channels_sqlite_channelmessage", "channels_sqlite_channelgroup"}


class User:
    """Somebody who has 0.1: an environment, and a project in a directory beside it."""

    def __init__(self, directory: Path) -> None:
        self.environment = directory / "environment"
        self.project = directory / "project"
        package = self.project / "mysite"
        self.database = package / "channels.sqlite3"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "settings.py").write_text(SETTINGS_OF_0_1)
        (self.project / "use.py").write_text(USE_OF_0_1)
        make = [sys.executable, "-m", "virtualenv", "--quiet", str(self.environment)]
        subprocess.run(make, check=True, timeout=PATIENCE)

    def try_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python in the project; no checkout is in its path."""
        scripts = "Scripts" if sys.platform == "win32" else "bin"
        ours = {"DJANGO_SETTINGS_MODULE", "PYTHONPATH", "PYTHONSAFEPATH"}
        others = {name: value for name, value in os.environ.items() if name not in ours}
        return subprocess.run(
            [str(self.environment / scripts / "python"), *arguments],
            cwd=self.project,
            env={**others, "DJANGO_SETTINGS_MODULE": "mysite.settings"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def python(self, *arguments: str) -> list[str]:
        """Run it, and return the lines that it printed; it must succeed."""
        ran = self.try_python(*arguments)
        assert ran.returncode == 0, f"{arguments}: {ran.stdout}{ran.stderr}"
        return ran.stdout.splitlines()

    def manage(self, *arguments: str) -> None:
        self.python("-m", "django", *arguments, "--pythonpath=.")

    def migrate(self) -> None:
        self.manage("migrate", "--verbosity=0")
        self.manage("migrate", "--verbosity=0", "--database=channels")

    def tables(self) -> set[str]:
        with closing(sqlite3.connect(self.database)) as database:
            rows = database.execute("select name from sqlite_master where type = 'table'")
            return {name for (name,) in rows}


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user whose project runs on 0.1."""
    user = User(tmp_path)
    patience = ["--quiet", "--no-compile", "--retries=1", "--timeout=20"]
    if user.try_python("-m", "pip", "install", *patience, "channels", OLD).returncode:
        pytest.skip("no package index to be reached")
    user.migrate()
    assert "first" in user.python("use.py")
    return user


@pytest.fixture
def wheel(tmp_path: Path) -> str:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    return str(next(tmp_path.glob("*.whl")))


@pytest.mark.timeout(3 * PATIENCE)
def test_an_upgrade_from_0_1_takes_pip_and_migrate(user: User, wheel: str) -> None:
    """Afterwards `check` finds no error in 0.1's settings, and two processes talk."""
    assert user.tables() >= OLD_TABLES

    user.python("-m", "pip", "install", "--quiet", "--no-compile", "-U", wheel)
    user.migrate()
    assert not user.tables() & OLD_TABLES
    user.manage("makemigrations", "--check", "--dry-run")
    user.manage("check", "--database=channels")
    assert "first" in user.python("use.py")
    user.python(str(ROOT / "tests" / "smoke.py"), "converse", str(user.project))
