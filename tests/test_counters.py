"""Counters: what was dropped is counted at once, and said now and then."""

from __future__ import annotations

import time
from dataclasses import asdict

import pytest

from channels_sqlite import counters
from channels_sqlite.counters import Counters, DropLog


def test_counters_begin_at_nothing() -> None:
    assert asdict(Counters()) == {
        "sent": 0,
        "refused": 0,
        "received": 0,
        "expired": 0,
        "dropped": 0,
        "missed_wakes": 0,
    }


def test_every_drop_is_counted() -> None:
    log = DropLog(Counters())
    for _ in range(1000):
        log.dropped("test-channel", None, 100, age=1)
    assert log.counters.dropped == 1000


def test_the_first_drop_is_said_with_what_helps(caplog: pytest.LogCaptureFixture) -> None:
    DropLog(Counters()).dropped("specific.abc!", "test-group", 100, age=12.345)
    (said,) = caplog.messages
    for word in ("specific.abc!", "test-group", "100", "12.3 s"):
        assert word in said


def test_a_flood_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = DropLog(Counters())
    for number in range(1000):
        log.dropped(f"channel-{number}", None, 100, age=1)
    assert len(caplog.messages) == 1


def test_the_next_line_speaks_for_all_since_the_last(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "QUIET_FOR", 0.05)
    log = DropLog(Counters())
    for _ in range(10):
        log.dropped("test-channel", None, 100, age=1)
    time.sleep(0.06)
    log.dropped("test-channel", None, 100, age=1)
    totals = [int(message.split()[0]) for message in caplog.messages]
    assert sum(totals) == 11
    assert totals[0] == 1


def test_layers_do_not_share_their_silence(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        DropLog(Counters()).dropped("test-channel", None, 100, age=1)
    assert len(caplog.messages) == 2
