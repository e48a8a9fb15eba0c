"""The SQL of groups: joining, leaving, and the messages of the time in between."""

from __future__ import annotations

import sqlite3
import time

import pytest

from channels_sqlite._storing import sql
from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE
from tests.rows import outgoing, select, to_group
from tests.storing.tables import (
    INBOX,
    LOCAL,
    OTHER,
    arrivals,
    group_send,
    join,
    leave,
    send,
    sequence,
)

ALIKE = pytest.mark.parametrize("capacity", [None, 100], ids=["capacities-differ", "all-alike"])


def members(connection: sqlite3.Connection, group: str = "test-group") -> list[str]:
    found = sql.group_channels(connection, group, time.time())
    assert len(found) == sql.group_count(connection, group, time.time())
    return found


def kept(connection: sqlite3.Connection) -> int:
    (count,) = select(connection, f"count(*) from {MEMBERSHIP}")
    return int(count)


# Sending


@ALIKE
def test_a_group_message_is_one_row_for_each_inbox_with_members(
    connection: sqlite3.Connection, capacity: int | None
) -> None:
    join(connection, *(f"{INBOX}{member}" for member in range(100)), "normal", "specific.gone!x")
    join(connection, "elsewhere", group="another-group")
    leave(connection, "specific.gone!x")
    inboxes = ["normal", INBOX]
    assert group_send(connection, 7, capacity) == (inboxes, [])
    stored = select(connection, f'inbox, channel, "group", body from {MESSAGE} order by inbox')
    assert stored == [(inbox, None, "test-group", b"7") for inbox in inboxes]
    assert all(sequence(connection, inbox) for inbox in inboxes)


@ALIKE
def test_a_group_without_members_gets_nothing(
    connection: sqlite3.Connection, capacity: int | None
) -> None:
    join(connection, "elsewhere", group="another-group")
    assert not sql.has_members(connection, "test-group")
    assert sql.has_members(connection, "another-group")
    assert group_send(connection, 1, capacity) == ([], [])


def test_full_inboxes_miss_a_group_message_and_are_named_with_their_oldest(
    connection: sqlite3.Connection,
) -> None:
    join(connection, "small", "large")
    capacity_of, now = {"small": 1, "large": 2}.__getitem__, time.time()
    results = []
    for age in (7, 3, 0):
        message = to_group(age, created_at=now - age)
        written, full = sql.group_send(connection, message, None, capacity_of)
        results.append((sorted(written), full))
    assert results == [
        (["large", "small"], {}),
        (["large"], {"small": now - 7}),
        ([], {"large": now - 7, "small": now - 7}),
    ]
    assert group_send(connection, 8, capacity=2) == (["small"], ["large"])


@ALIKE
def test_only_normal_channels_lapse_by_the_wall_clock(
    connection: sqlite3.Connection, capacity: int | None
) -> None:
    """The reader of a process-local one ends its memberships by a clock that nobody sets."""
    join(connection, LOCAL, "normal", expires_in=-1)
    assert group_send(connection, 1, capacity) == ([INBOX], [])
    assert members(connection) == [LOCAL]


# Arriving


def test_a_member_gets_what_was_sent_between_its_joining_and_its_leaving(
    connection: sqlite3.Connection,
) -> None:
    """However often: each stay in the group is a row of its own."""
    join(connection, OTHER)
    join(connection, OTHER, group="another-group")
    for number in range(1, 7):
        (join if number % 2 else leave)(connection, LOCAL)
        group_send(connection, number)
    assert arrivals(connection) == [
        (number, [LOCAL, OTHER] if number % 2 else [OTHER]) for number in range(1, 7)
    ]
    stays = f"joined_after, left_after from {MEMBERSHIP} where channel = ? order by id"
    assert select(connection, stays, LOCAL) == [(0, 1), (2, 3), (4, 5)]


def test_a_membership_counts_that_had_not_lapsed_when_the_message_was_made(
    connection: sqlite3.Connection,
) -> None:
    join(connection, LOCAL, expires_in=-10)
    join(connection, OTHER, expires_in=-1)
    group_send(connection, 1, created_at=time.time() - 5)
    assert arrivals(connection) == [(1, [OTHER])]


# Joining


def test_joining_again_is_staying_for_longer(connection: sqlite3.Connection) -> None:
    for expires_in in (5, 50):
        join(connection, "normal", expires_in=expires_in)
        send(connection, outgoing(1))
    (stay,) = select(connection, f"joined_after, expires_at - ? from {MEMBERSHIP}", time.time())
    assert stay[0] == 0
    assert 40 < stay[1] <= 50


def test_joining_after_the_membership_has_lapsed_is_joining(connection: sqlite3.Connection) -> None:
    for expires_in in (-1, 50):
        join(connection, "normal", expires_in=expires_in)
        send(connection, outgoing(1))
    assert select(connection, f"joined_after from {MEMBERSHIP}") == [1]


# Leaving


def test_leaving_ends_one_membership_only(connection: sqlite3.Connection) -> None:
    for group in ("test-group", "another-group"):
        join(connection, LOCAL, OTHER, "normal", group=group)
    for _ in range(2):
        leave(connection, LOCAL, "stranger")
    assert members(connection) == ["normal", OTHER]
    assert members(connection, "another-group") == ["normal", LOCAL, OTHER]


def test_a_membership_is_kept_after_its_end_only_while_its_reader_has_something_to_read(
    connection: sqlite3.Connection,
) -> None:
    join(connection, LOCAL, "normal")
    leave(connection, LOCAL, "normal")
    assert kept(connection) == 0
    join(connection, LOCAL, "normal")
    group_send(connection, 1)
    leave(connection, LOCAL, "normal")
    assert members(connection) == []
    assert select(connection, f"channel, left_after from {MEMBERSHIP}") == [
        (LOCAL, sql.newest(connection))
    ]
    assert group_send(connection, 2) == ([], [])
    assert arrivals(connection) == [(1, [LOCAL])]


def test_a_reader_ends_its_own_lapsed_memberships(connection: sqlite3.Connection) -> None:
    join(connection, LOCAL, "specific.def!x", expires_in=-1)
    join(connection, OTHER)
    sql.end_memberships(connection, [INBOX], time.time())
    assert members(connection) == [OTHER, "specific.def!x"]


def test_a_reader_moves_its_own_memberships_with_the_clock(connection: sqlite3.Connection) -> None:
    join(connection, LOCAL, OTHER, "specific.def!x", expires_in=0)
    now = time.time()
    sql.move_memberships(connection, [INBOX], 1000)
    later = f"channel from {MEMBERSHIP} where expires_at > ? order by channel"
    assert select(connection, later, now + 500) == [LOCAL, OTHER]
