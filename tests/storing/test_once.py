"""Log lines about what fails again and again: said once, and again when it is news."""

from __future__ import annotations

import logging

import pytest

from channels_sqlite._storing.once import Once
from channels_sqlite.exceptions import DatabaseUnavailable

FULL = DatabaseUnavailable("The disk is full.")


def test_the_same_failure_is_said_once_for_each_topic(caplog: pytest.LogCaptureFixture) -> None:
    """Not once for all: a topic that is not tried again would silence the others for ever."""
    once = Once()
    for topic in ("Trimming", "Opening") * 50:
        once.failed(topic, FULL)
    assert caplog.messages == [
        f"{topic} failed: The disk is full. Trying again within a second."
        for topic in ("Trimming", "Opening")
    ]


def test_a_failure_after_a_success_is_news(caplog: pytest.LogCaptureFixture) -> None:
    once = Once()
    for _ in range(2):
        once.failed("Trimming", FULL)
        once.warn("Watching", "No file events.")
        for topic in ("Trimming", "Watching", "Opening"):
            once.well(topic)
    assert len(caplog.messages) == 4


def test_an_error_that_is_not_ours_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    once = Once()
    for _ in range(3):
        once.failed("Trimming", ZeroDivisionError("a bug"))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "Trimming failed" in record.getMessage()
    assert record.exc_info is not None
