"""The SQL: what each function promises, on a real file."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from channels_sqlite._storing import groups, sql, upkeep
from channels_sqlite._storing.files import Files
from channels_sqlite._storing.handle import Handle, text
from channels_sqlite._storing.schema import EVERYTHING, MEMBERSHIP, MESSAGE, SEQUENCE
from channels_sqlite.exceptions import DatabaseUnavailable
from tests.rows import outgoing, select, to_group
from tests.storing.conftest import Connect
from tests.storing.tables import (
    INBOX,
    LOCAL,
    acknowledge,
    arrivals,
    claim,
    epoch,
    group_send,
    join,
    leave,
    numbers,
    send,
    waiting,
)

NOW = time.time()
CLIENT, LIVING = "abcdefgh-_12", "living-45678"

KEEP = pytest.mark.parametrize("keep", [True, False], ids=["retention", "no-retention"])


def local(client: str, suffix: object = "x") -> str:
    return f"specific.{client}!{suffix}"


def channels(connection: sqlite3.Connection, table: str) -> list[str]:
    return select(connection, f"channel from {table} order by 1")


@pytest.mark.parametrize("history", range(10))
def test_any_history_of_batches_is_accepted_as_by_a_plain_counter(
    connection: sqlite3.Connection, history: int
) -> None:
    """Each message is measured by the room that the earlier ones of its batch leave."""
    chance = random.Random(history)
    count = {"a": 0, "b": 0, "c": 0}
    for _ in range(30):
        batch = [
            outgoing(0, chance.choice("abc"), capacity=chance.choice([5, 8]))
            for _ in range(chance.randint(1, 10))
        ]
        expected = []
        for message in batch:
            expected.append(count[message.channel] < message.capacity)
            count[message.channel] += expected[-1]
        assert send(connection, *batch) == expected
        taken = chance.choice("abc")
        rows = sql.claim(connection, taken, chance.randint(1, 3), time.time(), keep=True)
        count[taken] -= len(rows)


def test_a_membership_that_is_renewed_after_the_look_stays(connection: sqlite3.Connection) -> None:
    join(connection, local(CLIENT, "a"), local(CLIENT, "b"), expires_in=-10)
    assert groups.has_lapsed(connection, CLIENT, time.time())
    join(connection, local(CLIENT, "a"))  # by another process
    groups.end_lapsed(connection, CLIENT, time.time())
    assert not groups.has_lapsed(connection, CLIENT, time.time())
    assert channels(connection, MEMBERSHIP) == [local(CLIENT, "a")]


@pytest.mark.parametrize("batch", [[1, 3], [1, 2, 3]], ids=["room-for-all", "one-by-one"])
def test_a_failing_batch_writes_nothing(connection: sqlite3.Connection, batch: list[int]) -> None:
    connection.execute(
        f"create trigger breaks before insert on {MESSAGE} when new.body = x'33'"
        " begin select raise(abort, 'the third'); end"
    )
    messages = [outgoing(each, str(each), capacity=int(each != 2)) for each in batch]
    with pytest.raises(DatabaseUnavailable, match="the third"):
        Handle(connection, Files("")).run(lambda each: send(each, *messages))
    assert select(connection, f"count(*) from {MESSAGE}") == [0]
    assert not connection.in_transaction


def test_sequences_are_those_of_inboxes_that_got_a_message(connection: sqlite3.Connection) -> None:
    known = {f"inbox-{number}": number for number in range(2 * sql.NAMES_AT_ONCE + 1)}
    connection.executemany(f"insert into {SEQUENCE} values (?, ?)", known.items())
    assert sql.sequences(connection, [*known, "never"]) == known


@KEEP
def test_messages_that_are_given_back_stand_where_they_stood(
    connection: sqlite3.Connection, connect: Connect, keep: bool
) -> None:
    send(connection, outgoing(1), outgoing(2), outgoing(3))
    rows = claim(connection, 2, keep=keep)
    send(connection, outgoing(4))
    other = connect()
    other.execute("begin immediate")
    with pytest.raises(sqlite3.OperationalError):
        sql.give_back(connection, rows, epoch(connection))
    other.execute("rollback")
    sql.give_back(connection, rows, epoch(connection))
    assert claim(connection, 1, keep=keep) == rows[:1]
    assert numbers(claim(connection, 5, keep=keep)) == [2, 3, 4]


@KEEP
def test_nothing_of_another_epoch_is_given_back(connection: sqlite3.Connection, keep: bool) -> None:
    send(connection, outgoing(1))
    before, rows = epoch(connection), claim(connection, 1, keep=keep)
    sql.flush(connection)
    for known in (before, 0):
        sql.give_back(connection, rows, known)
        assert waiting(connection) == []


def test_another_message_of_the_same_id_is_not_revived(connection: sqlite3.Connection) -> None:
    """An older copy of the file was restored, and has the same epoch."""
    send(connection, outgoing(1))
    rows = claim(connection, 1)
    connection.execute(f"delete from {MESSAGE}")
    connection.execute("update sqlite_sequence set seq = 0")
    send(connection, outgoing(2))
    claim(connection, 1)
    sql.give_back(connection, rows, epoch(connection))
    assert waiting(connection) == []


@pytest.mark.parametrize(
    "inbox", [f"'{INBOX}' || char(0)", f"""'{INBOX}"'""", "cast(x'76ff76' as text)", "x'78'", "7"]
)
def test_inboxes_that_others_name_stay_theirs(connection: sqlite3.Connection, inbox: str) -> None:
    connection.text_factory = text  # as the layer reads what is not UTF-8
    join(connection, LOCAL)
    connection.execute(
        f'insert into {MEMBERSHIP} ("group", inbox, channel, expires_at, joined_after)'
        f" values ('test-group', {inbox}, 'x', 1e12, 0)"
    )
    group_send(connection, 7)
    assert arrivals(connection) == [(7, [LOCAL])]
    others = f"count(*) from {MESSAGE} where inbox not in ('{INBOX}', {inbox})"
    assert select(connection, others) == [0]


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_a_group_reaches_all_inboxes_in_each_encoding_of_a_file(encoding: str) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"pragma encoding = '{encoding}'")
        for statement in EVERYTHING.values():
            connection.execute(statement)
        names = [f"\u0663-{number}" for number in range(5)]
        join(connection, LOCAL, f"{LOCAL}\n", *names)
        assert group_send(connection, 7) == (sorted([INBOX, *names]), [])
        assert arrivals(connection) == [(7, [LOCAL, f"{LOCAL}\n"])]


def test_a_readers_membership_counts_until_its_reader_ends_it(
    connection: sqlite3.Connection,
) -> None:
    """The clock was set forward, and the reader does not know it yet."""
    join(connection, "test-channel", LOCAL, expires_in=-10)
    assert group_send(connection, 1) == ([INBOX], [])
    assert groups.count(connection, "test-group", time.time()) == 1
    join(connection, LOCAL)  # it stays a member
    assert arrivals(connection) == [(1, [LOCAL])]


def test_full_inboxes_miss_a_group_message_and_are_named_with_their_oldest(
    connection: sqlite3.Connection,
) -> None:
    join(connection, "small", "large")
    capacity_of, now = {"small": 1, "large": 2}.__getitem__, time.time()
    results = []
    for age in (7, 3, 0):
        message = to_group(age, created_at=now - age)
        written, full = groups.send(connection, message, capacity_of)
        results.append((sorted(written), full))
    assert results == [
        (["large", "small"], {}),
        (["large"], {"small": now - 7}),
        ([], {"large": now - 7, "small": now - 7}),
    ]
    assert group_send(connection, 8, capacity=2) == (["small"], ["large"])


def test_a_membership_is_kept_after_its_end_only_while_its_reader_has_something_to_read(
    connection: sqlite3.Connection,
) -> None:
    join(connection, LOCAL, "normal")
    leave(connection, LOCAL, "normal")
    assert select(connection, f"count(*) from {MEMBERSHIP}") == [0]
    join(connection, LOCAL, "normal")
    group_send(connection, 1)
    leave(connection, LOCAL, "normal")
    assert select(connection, f"channel, left_after from {MEMBERSHIP}") == [
        (LOCAL, sql.newest(connection))
    ]
    assert group_send(connection, 2) == ([], [])
    assert arrivals(connection) == [(1, [LOCAL])]


@pytest.mark.parametrize(
    "trim",
    [
        partial(upkeep.trim_delivered, before=NOW + 10_000),
        partial(upkeep.trim_expired, now=NOW, living=[], read=False),
        partial(upkeep.trim_memberships, now=NOW, living=[LIVING]),
        upkeep.trim_left,
        upkeep.trim_sequences,
        partial(upkeep.forget_messages, inboxes=[local(CLIENT, "")]),
        partial(upkeep.forget_memberships, inboxes=[local(CLIENT, "")]),
    ],
    ids=lambda each: getattr(each, "func", each).__name__,
)
def test_a_batch_deletes_no_more_than_its_limit_and_says_how_many(
    connection: sqlite3.Connection, trim: Callable[..., int]
) -> None:
    some, left = range(25), [local("has-left-567", each) for each in range(25)]
    send(connection, *(outgoing(each, f"{each}", expires_at=NOW - 9) for each in some))
    send(connection, *(outgoing(each) for each in some))
    claim(connection, 25)
    connection.executemany(
        f"insert into {SEQUENCE} values (?, 1)", [(f"?{each}",) for each in some]
    )
    join(connection, *left)
    group_send(connection, 1)
    leave(connection, *left)
    acknowledge(connection, local("has-left-567", ""), sql.newest(connection), keep=False)
    send(connection, *(outgoing(each, local(CLIENT, each)) for each in some))
    join(connection, *(local(CLIENT, each) for each in some), expires_in=-1000)
    deleted = [trim(connection, limit=10) for _ in range(6)]
    assert deleted[:2] == [10, 10]
    assert 5 <= deleted[2] <= 10
    assert deleted[-1] == 0


def test_only_what_is_kept_for_dead_readers_is_forgotten(connection: sqlite3.Connection) -> None:
    """Its inboxes are found by its client part, whatever the prefix, in either table."""
    others = ["normal", f"specific.{CLIENT}", local(LIVING), "short!x"]
    for channel in [*others, local(CLIENT), f"other.prefix.{CLIENT}!x"]:
        send(connection, outgoing(1, channel))
    join(connection, *others, local(CLIENT), f"members-only.{CLIENT}!x")
    gone = upkeep.inboxes_of(connection, [CLIENT, "nobody-45678"])
    prefixes = ("members-only", "other.prefix", "specific")
    assert sorted(gone) == [f"{prefix}.{CLIENT}!" for prefix in prefixes]
    upkeep.forget(connection, [CLIENT])
    assert channels(connection, MEMBERSHIP) == channels(connection, MESSAGE) == sorted(others)


def test_no_parameter_has_a_number() -> None:
    """Python 3.12.0 to 3.12.3 warns of those: https://github.com/python/cpython/issues/117995."""
    package = Path(sql.__file__).parents[1]
    numbered = [each for each in package.rglob("*.py") if re.search(r"\?\d", each.read_text())]
    assert numbered == []
