"""Counters: what was dropped is counted at once, and said of a burst, a minute, or a process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from channels_sqlite import counters
from channels_sqlite.counters import Counters, DropLog
from tests.conftest import SetTimes
from tests.processes import environment
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def short_times(set_times: SetTimes) -> None:
    """A burst is over at once, and another line may follow at once."""
    set_times(burst=0.05, warning=0.05)


@pytest.fixture
def drops() -> Iterator[DropLog]:
    drops = DropLog(Counters())
    yield drops
    for thread in threading.enumerate():  # one of them may be speaking just now
        if isinstance(thread, threading.Timer):
            thread.cancel()
            thread.join()
    drops._recent.clear()


GROUP = "group-of-this-test"

Said = Callable[[], list[str]]
"""The lines about GROUP: layers of other tests may speak of theirs meanwhile."""


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    return lambda: [line for line in caplog.messages if GROUP in line]


def drop(drops: DropLog, channel: str = "test-channel", times: int = 1) -> None:
    for _ in range(times):
        drops.dropped(channel, GROUP, 100, age=12.345)


def test_a_burst_is_one_line_that_names_those_that_missed_most(
    drops: DropLog, said: Said, set_times: SetTimes
) -> None:
    set_times(burst=1)
    for number, times in enumerate([3, 9, 1, 6]):
        drop(drops, f"specific.{number}!", times)
    drop(drops, "the-last-one")
    wait_until(said)
    assert drops.counters == Counters(dropped=20)
    assert said() == [
        f"20 message(s) dropped because there was no room, 9 to specific.1! of group {GROUP}, 6 to"
        f" specific.3! of group {GROUP}, 3 to specific.0! of group {GROUP}. Last: the-last-one,"
        " capacity 100; its oldest waiting message is 12.3 s old."
    ]


def test_a_name_that_a_row_of_others_has_is_one_short_line(drops: DropLog, said: Said) -> None:
    """It may be a blob, or forge a line of the log, and be as long as a row."""
    for group in (f"{GROUP}\nERROR forged \x1b[2J" + "x" * 10**6, f"{GROUP}\0".encode() * 10**5):
        drops.dropped("test-channel", group, 100, age=1.0)  # type: ignore[arg-type]
    wait_until(said)
    for line in said():
        assert line.isprintable()
        assert len(line) < 500


def test_the_next_line_speaks_for_all_since_the_last(
    drops: DropLog, said: Said, set_times: SetTimes
) -> None:
    set_times(burst=1)
    drop(drops, times=10)
    wait_until(lambda: len(said()) == 1)
    set_times(warning=3600)
    drop(drops, times=7)
    wait_until(lambda: len(said()) == 2)
    drop(drops, times=5)
    assert [int(line.split()[0]) for line in said()] == [10, 7]


def test_layers_do_not_share_their_silence_and_where_no_thread_can_start_it_is_said_at_once(
    drops: DropLog, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(drops)
    drop(DropLog(Counters()))
    wait_until(lambda: len(said()) == 2)
    refuse = Mock(side_effect=RuntimeError("can't start new thread"))
    monkeypatch.setattr(threading.Timer, "start", refuse)
    other = DropLog(Counters())
    drop(other, times=2)
    drop(drops)  # in its silence
    assert len(said()) == 3
    other.forget()


def test_a_handler_of_the_log_may_drop_messages_itself(
    drops: DropLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may send them to a channel layer."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if drops.counters.dropped < 3:
                drop(drops)

    handler = Handler()
    monkeypatch.setattr(counters.logger, "handlers", [handler])
    drop(drops)
    wait_until(lambda: drops.counters.dropped == 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_what_was_not_said_yet_is_said_when_the_process_ends_and_by_no_child(
    database: Path,
) -> None:
    script = (
        "import os\n"
        "from channels_sqlite.layers import SqliteChannelLayer\n"
        "layer = SqliteChannelLayer()\n"
        "for _ in range(2): layer._drops.dropped('mail', None, 100, 1.0)\n"
        "child = os.fork()\n"
        "if child: os.waitpid(child, 0)\n"
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    said = subprocess.run(command, capture_output=True, timeout=60, env=environment(database))
    assert said.stderr == b"2 message(s) dropped because there was no room, 2 to mail.\n"
