"""Complaints: what fails at every heartbeat is said once, and again when it is news."""

from __future__ import annotations

import logging

import pytest

from channels_sqlite.complaints import Complaints
from channels_sqlite.exceptions import DatabaseUnavailable

FULL = DatabaseUnavailable("The disk is full.")
LOCKED = DatabaseUnavailable("The database is locked.")


def test_the_same_cause_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    for _ in range(100):
        complaints.say("Trimming", FULL)
    assert caplog.messages == ["The disk is full. Trying again at the next heartbeat."]


def test_another_cause_is_said(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    for error in (FULL, LOCKED, LOCKED, FULL):
        complaints.say("Trimming", error)
    assert len(caplog.messages) == 3


def test_what_went_well_in_between_is_said_again(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    for _ in range(2):
        complaints.say("Trimming", FULL)
        complaints.withdraw("Trimming")
    complaints.withdraw("Opening")
    assert len(caplog.messages) == 2


def test_things_are_kept_apart(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    for what in ("Trimming", "Opening", "Trimming", "Opening"):
        complaints.say(what, FULL)
    assert len(caplog.messages) == 2


def test_what_is_no_error_of_ours_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    for _ in range(3):
        complaints.say("Trimming", ZeroDivisionError("a bug of ours"))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "Trimming failed" in record.getMessage()
    assert record.exc_info is not None
