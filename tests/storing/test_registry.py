"""One database for each alias and its NAME, whatever number of layers use it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from channels_sqlite._storing.registry import database_for
from channels_sqlite.exceptions import InvalidOption
from tests.waiting import PATIENCE, threads

SETTINGS: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"timeout": 7}}


def test_there_is_one_for_each_name_also_for_threads_that_ask_at_once() -> None:
    begin = threading.Barrier(8)
    got = []

    def ask() -> None:
        begin.wait(PATIENCE)
        got.append(database_for("channels", "/nowhere/one", SETTINGS))

    with threads(*[ask] * 8):
        pass
    assert len(got) == 8
    assert len({*got}) == 1
    assert got[0].timeout == 7
    assert database_for("channels", "/nowhere/two", SETTINGS) is not got[0]
    patient = database_for("second", "/nowhere/one", {**SETTINGS, "OPTIONS": {"timeout": 9}})
    assert patient.timeout == 9  # another alias has its own options


def test_another_engine_and_memory_of_which_each_connection_sees_its_own_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"'channels'.*'django\.db\.backends\.postgresql'"):
        database_for("channels", "x", {"ENGINE": "django.db.backends.postgresql"})
    with pytest.raises(InvalidOption, match="Give it a file"):
        database_for("channels", ":memory:", SETTINGS)
