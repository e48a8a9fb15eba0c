"""A process that runs tests leaves alone every file that its test runner has not made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from channels_sqlite._storing import private
from channels_sqlite._storing.files import is_in_memory
from tests.processes import ROOT, environment

ASK = """
import django
django.setup()
from django.test import utils
from channels_sqlite._storing.private import name_of
for running in (False, True, False):
    if running:
        utils.setup_test_environment()
    elif hasattr(utils._TestState, "saved_data"):
        utils.teardown_test_environment()
    print(name_of("channels", {path!r}))
"""


def test_the_file_of_the_settings_is_used_except_while_tests_run(database: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASK.format(path=str(database))],
        cwd=ROOT,
        env=environment(database),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    before, meanwhile, after = asked.stdout.split()
    assert before == after == str(database)
    assert private.is_private(meanwhile)


def test_a_database_that_the_test_runner_has_made_is_used(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(private._at_start, "channels", "channels.sqlite3")
    assert private.name_of("channels", str(database)) == str(database)
    assert private.name_of("unknown", "channels.sqlite3") == "channels.sqlite3"


def test_a_private_database_is_in_memory_and_belongs_to_one_alias_of_one_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = set()
    for alias in ("one", "two"):
        monkeypatch.setitem(private._at_start, alias, "channels.sqlite3")
        names.add(private.name_of(alias, "channels.sqlite3"))
    assert len(names) == 2
    for name in names:
        assert is_in_memory(name)
        assert private.is_private(name)
        assert str(os.getpid()) in name
