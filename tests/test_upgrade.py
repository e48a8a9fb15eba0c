"""From channels-sqlite 0.1, as the index has it, to this version: in an environment of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import sysconfig
from contextlib import closing
from pathlib import Path

import pytest

from tests import projects
from tests.processes import ROOT

PATIENCE = 300  # seconds; only a hang takes that long
OLD = "channels-sqlite==0.1"

# The README of 0.1 has its users write this.
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


class User:
    """Somebody who has 0.1: an environment, and a project in a directory beside it."""

    def __init__(self, directory: Path) -> None:
        self.project = directory / "project"
        package = self.project / "mysite"
        self.database = package / "channels.sqlite3"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "settings.py").write_text(SETTINGS_OF_0_1)
        (self.project / "use.py").write_text(USE_OF_0_1)
        make = [sys.executable, "-m", "virtualenv", "--quiet", str(directory / "environment")]
        subprocess.run(make, check=True, timeout=PATIENCE)
        scripts = "Scripts" if sys.platform == "win32" else "bin"
        self._python = str(directory / "environment" / scripts / "python")
        # The requirements of both versions are there already; `nox -s package` begins with nothing.
        site = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        Path(self.python("-c", site)[0], "more.pth").write_text(sysconfig.get_paths()["purelib"])

    def run(self, *arguments: str, check: bool) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python in the project; no checkout is in its path."""
        ours = {"DJANGO_SETTINGS_MODULE", "PYTHONPATH", "PYTHONSAFEPATH"}
        others = {name: value for name, value in os.environ.items() if name not in ours}
        ran = subprocess.run(
            [self._python, *arguments],
            cwd=self.project,
            env={**others, "DJANGO_SETTINGS_MODULE": "mysite.settings"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert not (check and ran.returncode), f"{arguments}: {ran.stdout}{ran.stderr}"
        return ran

    def python(self, *arguments: str) -> list[str]:
        """The lines that it printed; it must succeed."""
        return self.run(*arguments, check=True).stdout.splitlines()

    def manage(self, *arguments: str) -> None:
        self.python("-m", "django", *arguments, "--pythonpath=.")

    def tables(self) -> set[str]:
        with closing(sqlite3.connect(self.database)) as database:
            rows = database.execute("select name from sqlite_master where type = 'table'")
            return {name for (name,) in rows}


@pytest.mark.timeout(3 * PATIENCE)
def test_an_upgrade_from_0_1_takes_pip_and_migrate(tmp_path: Path) -> None:
    """Afterwards `check` finds no error in 0.1's settings, and two processes talk."""
    user = User(tmp_path)
    patience = ["--quiet", "--no-compile", "--retries=1", "--timeout=20"]
    if user.run("-m", "pip", "install", *patience, OLD, check=False).returncode:
        pytest.skip("no package index to be reached")
    user.manage("migrate", "--verbosity=0", "--database=channels")
    assert "first" in user.python("use.py")
    old_tables = {"channels_sqlite_channelmessage", "channels_sqlite_channelgroup"}
    assert user.tables() >= old_tables

    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    wheel = str(next(tmp_path.glob("*.whl")))
    user.python("-m", "pip", "install", "--quiet", "--no-compile", "-U", wheel)
    user.manage("migrate", "--verbosity=0", "--database=channels")
    assert not user.tables() & old_tables
    user.manage("makemigrations", "--check", "--dry-run")
    user.manage("check", "--database=channels")
    assert "first" in user.python("use.py")
    user.python(str(ROOT / "tests" / "smoke.py"), "converse", str(user.project))
