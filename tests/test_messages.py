"""Messages: how long a row has to live, and in which order rows stand."""

from __future__ import annotations

import pytest

from tests.rows import row


def test_a_row_expires_when_its_time_is_over() -> None:
    sent = row(1, created_at=1000.0, expires_at=1060.0)
    assert sent.remaining(now=1000.0) == 60
    assert sent.remaining(now=1059.0) == 1
    assert sent.remaining(now=1060.0) == 0
    assert sent.remaining(now=2000.0) < 0


@pytest.mark.parametrize("now", [999.0, 0.0, -5000.0])
def test_a_clock_that_was_set_back_gives_no_row_more_than_it_ever_had(now: float) -> None:
    assert row(1, created_at=1000.0, expires_at=1060.0).remaining(now) == 60


def test_rows_sort_by_id_whatever_their_times() -> None:
    first = row(1, created_at=2000.0, expires_at=2060.0, inbox="z")
    second = row(2, created_at=1000.0, expires_at=1060.0, inbox="a")
    assert sorted([second, first]) == [first, second]
