"""The SQL of messages: what each function promises, on a real file."""

from __future__ import annotations

import random
import sqlite3
import time

import pytest

from channels_sqlite._storing import sql
from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE, SEQUENCE
from tests.rows import outgoing, row, select
from tests.storing.conftest import Connect
from tests.storing.tables import (
    INBOX,
    LOCAL,
    arrivals,
    claim,
    epoch,
    join,
    numbers,
    send,
    sequence,
    waiting,
)

KEEP = pytest.mark.parametrize("keep", [True, False], ids=["retention", "no-retention"])


# Sending


def test_a_message_is_one_row_and_raises_its_sequence(connection: sqlite3.Connection) -> None:
    now = time.time()
    assert sql.send(connection, [outgoing(1, LOCAL, expires_at=now + 5)], now) == [True]
    columns = f'inbox, channel, "group", body, created_at, expires_at, delivered_at from {MESSAGE}'
    assert select(connection, columns) == [(INBOX, LOCAL, None, b"1", now, now + 5, None)]
    assert sequence(connection, INBOX) == 1


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


def test_delivered_and_expired_messages_take_no_room(connection: sqlite3.Connection) -> None:
    assert send(connection, outgoing(1, capacity=1)) == [True]
    claim(connection, 1)
    assert send(connection, outgoing(2, capacity=1, expires_at=time.time() - 1)) == [True]
    assert send(connection, outgoing(3, capacity=1), outgoing(4, capacity=1)) == [True, False]


@pytest.mark.parametrize("batch", [[1, 3], [1, 2, 3]], ids=["room-for-all", "one-by-one"])
def test_a_batch_that_fails_halfway_writes_nothing(
    connection: sqlite3.Connection, batch: list[int]
) -> None:
    connection.execute(
        f"create trigger breaks before insert on {MESSAGE} when new.body = x'33'"
        " begin select raise(abort, 'the third'); end"
    )
    with pytest.raises(sqlite3.IntegrityError, match="the third"):
        send(connection, *(outgoing(each, str(each), capacity=int(each != 2)) for each in batch))
    assert select(connection, f"count(*) from {MESSAGE}") == [0]
    assert not connection.in_transaction


# Looking


def test_sequences_are_those_of_inboxes_that_got_a_message(connection: sqlite3.Connection) -> None:
    known = {f"inbox-{number}": number for number in range(2 * sql.NAMES_AT_ONCE + 1)}
    connection.executemany(f"insert into {SEQUENCE} values (?, ?)", known.items())
    assert sql.sequences(connection, [*known, "never"]) == known


def test_arrivals_are_the_oldest_after_the_cursor_with_the_epoch(
    connection: sqlite3.Connection,
) -> None:
    now = time.time()
    for number in range(1, 6):
        sql.send(connection, [outgoing(number, LOCAL, expires_at=now + 5)], now)
    send(connection, outgoing(9, "specific.other!x"))
    assert arrivals(connection, cursor=2) == [(3, [LOCAL]), (4, [LOCAL]), (5, [LOCAL])]
    ((arrived, its_epoch, _),) = sql.arrivals(connection, INBOX, 2, 1)
    assert arrived == row(3, LOCAL, inbox=INBOX, created_at=now, expires_at=now + 5)
    assert its_epoch == epoch(connection)


def test_a_message_waits_until_it_is_claimed_or_expires(connection: sqlite3.Connection) -> None:
    now = time.time()
    assert sql.has_waiting(connection, "test-channel", now) == (None, False)
    send(connection, outgoing(1, expires_at=now + 5))
    assert sql.has_waiting(connection, "test-channel", now) == (epoch(connection), True)
    assert not sql.has_waiting(connection, "another-channel", now)[1]
    assert not sql.has_waiting(connection, "test-channel", now + 5)[1]
    claim(connection, 1)
    assert not sql.has_waiting(connection, "test-channel", now)[1]


# Taking


@KEEP
def test_an_acknowledgement_takes_what_was_read_since_the_last_one(
    connection: sqlite3.Connection, keep: bool
) -> None:
    send(connection, *(outgoing(number) for number in range(5)), outgoing(9, "another-channel"))
    now = time.time()
    sql.acknowledge(connection, "test-channel", 1, 3, now, keep=keep)
    assert waiting(connection) == [0, 3, 4]
    assert waiting(connection, "another-channel") == [9]
    sql.acknowledge(connection, "test-channel", 1, 3, now + 1, keep=keep)
    kept = select(connection, f"id from {MESSAGE} where delivered_at = ?", now)
    assert kept == ([2, 3] if keep else [])


@KEEP
def test_claims_are_the_oldest_that_have_not_expired(
    connection: sqlite3.Connection, keep: bool
) -> None:
    """Once each, whichever connection claims, and whatever order RETURNING has."""
    now = time.time()
    sql.send(connection, [outgoing(0, expires_at=now), outgoing(1, expires_at=now + 50)], now)
    send(connection, *(outgoing(number) for number in range(2, 100)))
    first, *rest = claim(connection, 40, keep=keep)
    assert first == row(2, body=b"1", created_at=now, expires_at=now + 50, channel="test-channel")
    assert numbers(rest) == [*range(2, 41)]
    assert numbers(claim(connection, 100, keep=keep)) == [*range(41, 100)]
    assert claim(connection, 100, keep=keep) == []
    (delivered,) = select(connection, f"count(*) from {MESSAGE} where delivered_at > 0")
    assert delivered == (99 if keep else 0)


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
def test_a_sequence_rises_with_every_message_that_is_sent_or_given_back(
    connection: sqlite3.Connection, keep: bool
) -> None:
    """Otherwise others would not look."""
    seen = [0]
    for number in range(5):
        send(connection, outgoing(number))
        seen.append(sequence(connection))
        sql.give_back(connection, claim(connection, 1, keep=keep), epoch(connection))
        seen.append(sequence(connection))
    assert seen == sorted(set(seen))


@KEEP
def test_messages_of_another_epoch_are_not_given_back(
    connection: sqlite3.Connection, keep: bool
) -> None:
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


def test_an_id_is_never_used_twice(connection: sqlite3.Connection) -> None:
    """A reader's cursor would pass over the second one."""
    assert sql.newest(connection) == 0
    for number in (1, 2):
        send(connection, outgoing(number))
        assert [each.id for each in claim(connection, 1, keep=False)] == [number]
        assert sql.newest(connection) == number


# Flushing


def test_a_flush_leaves_nothing_and_begins_another_epoch(connection: sqlite3.Connection) -> None:
    epochs = set()
    for _ in range(5):
        join(connection, LOCAL)
        send(connection, outgoing(1), outgoing(2))
        claim(connection, 1)
        epochs.add(epoch(connection))
        sql.flush(connection)
        for table in (MESSAGE, MEMBERSHIP):
            assert select(connection, f"count(*) from {table}") == [0]
    assert len(epochs) == 5


# Transactions


@pytest.mark.parametrize("ends_it", ["", "or rollback"])
def test_a_transaction_that_fails_is_rolled_back(
    connection: sqlite3.Connection, ends_it: str
) -> None:
    """Also where SQLite has ended it itself."""

    def fail() -> None:
        with sql.transaction(connection):
            send(connection, outgoing(1))
            connection.execute(f"insert {ends_it} into {SEQUENCE} values ('test-channel', 1)")

    with pytest.raises(sqlite3.IntegrityError):
        fail()
    assert not connection.in_transaction
    assert waiting(connection) == []
