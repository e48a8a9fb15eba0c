"""Upkeep: what nobody needs any more goes, in batches, and nothing else."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial

import pytest

from channels_sqlite._storing import sql, upkeep
from channels_sqlite._storing.schema import EPOCH, MEMBERSHIP, MESSAGE, SEQUENCE
from tests.rows import outgoing, select
from tests.storing.tables import claim, epoch, group_send, join, leave, send, sequence, waiting

NOW = time.time()
CLIENT, LIVING = "abcdefgh-_12", "living-45678"


def local(client: str, suffix: str = "x") -> str:
    return f"specific.{client}!{suffix}"


def inbox(client: str) -> str:
    return f"specific.{client}!"


def members(connection: sqlite3.Connection) -> list[str]:
    return [str(each) for each in select(connection, f"channel from {MEMBERSHIP} order by 1")]


# Messages


def test_delivered_messages_go_when_their_retention_is_over(connection: sqlite3.Connection) -> None:
    """And not before, though they expire."""
    send(connection, *(outgoing(number, expires_at=NOW + 1) for number in range(4)))
    for upto, delivered_at in enumerate((NOW - 20, NOW - 10, NOW - 5), 1):
        sql.acknowledge(connection, "test-channel", 0, upto, delivered_at, keep=True)
    assert upkeep.trim_delivered(connection, 100, NOW - 10) == 2
    assert upkeep.trim_expired(connection, 100, NOW + 100) == 1
    assert select(connection, f"body from {MESSAGE}") == [b"2"]


def test_expired_messages_go(connection: sqlite3.Connection) -> None:
    send(connection, outgoing(1, expires_at=NOW), outgoing(2, expires_at=NOW + 10))
    assert upkeep.trim_expired(connection, 100, NOW) == 1
    assert waiting(connection) == [2]


# Memberships


def test_lapsed_memberships_go_except_those_of_readers_that_live(
    connection: sqlite3.Connection,
) -> None:
    join(connection, "normal", local(CLIENT), local(LIVING), expires_in=-1)
    join(connection, local(CLIENT, "stays"))
    assert upkeep.trim_memberships(connection, 100, time.time(), [LIVING]) == 2
    assert members(connection) == sorted([local(CLIENT, "stays"), local(LIVING)])


def test_memberships_that_have_ended_go_when_their_reader_is_past_them(
    connection: sqlite3.Connection,
) -> None:
    join(connection, local(CLIENT), local(LIVING))
    group_send(connection, 1)
    leave(connection, local(CLIENT))
    send(connection, outgoing(2, local(CLIENT)))
    assert upkeep.trim_left(connection, 100) == 0
    sql.acknowledge(connection, inbox(CLIENT), 0, 2, NOW, keep=True)
    assert upkeep.trim_left(connection, 100) == 1
    assert members(connection) == [local(LIVING)]


# Sequences


def test_sequences_of_inboxes_in_which_nothing_waits_go(connection: sqlite3.Connection) -> None:
    send(connection, outgoing(1), outgoing(2, "stays"))
    claim(connection, 1)
    before = epoch(connection)
    assert upkeep.trim_sequences(connection, 100) == 1
    assert select(connection, f"inbox from {SEQUENCE} order by 1") == [EPOCH, "stays"]
    assert epoch(connection) == before
    send(connection, outgoing(3))
    assert sequence(connection) == 3


# Batches


@pytest.mark.parametrize(
    "trim",
    [
        partial(upkeep.trim_delivered, before=NOW + 10_000),
        partial(upkeep.trim_expired, now=NOW),
        partial(upkeep.trim_memberships, now=NOW, living=[LIVING]),
        upkeep.trim_left,
        upkeep.trim_sequences,
        partial(upkeep.forget_messages, inbox=inbox(CLIENT)),
        partial(upkeep.forget_memberships, inboxes=[inbox(CLIENT)]),
    ],
    ids=lambda each: getattr(each, "func", each).__name__,
)
def test_a_batch_deletes_no_more_than_its_limit_and_says_how_many(
    connection: sqlite3.Connection, trim: Callable[..., int]
) -> None:
    some, left = range(25), [f"specific.has-left-567!{each}" for each in range(25)]
    send(connection, *(outgoing(each, f"{each}", expires_at=NOW - 9) for each in some))
    send(connection, *(outgoing(each) for each in some))
    claim(connection, 25)
    connection.executemany(
        f"insert into {SEQUENCE} values (?, 1)", [(f"?{each}",) for each in some]
    )
    join(connection, *left)
    group_send(connection, 1)
    leave(connection, *left)
    sql.acknowledge(connection, "specific.has-left-567!", 0, sql.newest(connection), 0, keep=False)
    send(connection, *(outgoing(each, local(CLIENT, f"{each}")) for each in some))
    join(connection, *(local(CLIENT, f"{each}") for each in some), expires_in=-1000)
    deleted = [trim(connection, limit=10) for _ in range(6)]
    assert deleted[:2] == [10, 10]
    assert 5 <= deleted[2] <= 10
    assert deleted[-1] == 0


# Readers that are gone


def test_only_what_is_kept_for_a_reader_that_is_gone_is_forgotten(
    connection: sqlite3.Connection,
) -> None:
    """Its inboxes are found by its client part, whatever the prefix, in either table."""
    others = ["normal", f"specific.{CLIENT}", local(LIVING), "short!x"]
    for channel in [*others, local(CLIENT), f"other.prefix.{CLIENT}!x"]:
        send(connection, outgoing(1, channel))
    join(connection, *others, local(CLIENT), f"members-only.{CLIENT}!x")
    gone = upkeep.inboxes_of(connection, [CLIENT, "nobody-45678"])
    prefixes = ("members-only", "other.prefix", "specific")
    assert sorted(gone) == [f"{prefix}.{CLIENT}!" for prefix in prefixes]
    upkeep.forget(connection, [CLIENT])
    assert members(connection) == sorted(others)
    assert sorted(select(connection, f"channel from {MESSAGE}")) == sorted(others)
