"""The store: what each function promises, on a real file."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite import store, upkeep
from channels_sqlite.messages import Outgoing
from channels_sqlite.schema import GROUP_SEND, MEMBERSHIP, MESSAGE, SEND, SEQUENCE
from tests.rows import LATER, inbox_of, outgoing, row, select, to_group

KEEP = pytest.mark.parametrize("keep", [True, False], ids=["retention", "no-retention"])
NEVER = -(10**12)  # unix seconds; earlier than anything in the table

Connect = Callable[[], sqlite3.Connection]


@pytest.fixture
def connect(database: Path) -> Iterator[Connect]:
    """Opens connections as the layer does, and closes them when the test is over."""
    with ExitStack() as stack:

        def connect_() -> sqlite3.Connection:
            connection = sqlite3.connect(database, isolation_level=None, timeout=0)
            stack.callback(connection.close)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            return connection

        yield connect_


@pytest.fixture
def connection(connect: Connect) -> sqlite3.Connection:
    return connect()


def send(connection: sqlite3.Connection, *messages: Outgoing) -> list[bool]:
    return store.send(connection, messages, time.time())


def bodies(connection: sqlite3.Connection, inbox: str = "test-channel") -> list[int]:
    """The numbers of the undelivered messages of an inbox, in their order."""
    found = select(
        connection,
        f"body from {MESSAGE} where inbox = ? and delivered_at is null order by id",
        inbox,
    )
    return [int(body) for body in found]


def sequence(connection: sqlite3.Connection, inbox: str = "test-channel") -> int | None:
    return store.sequences(connection, [inbox]).get(inbox)


def join(
    connection: sqlite3.Connection, channel: str, group: str = "test-group", **times: float
) -> None:
    """Add a channel to a group; the membership lapses LATER unless `expires_at` says otherwise."""
    times = {"now": time.time(), "expires_at": time.time() + LATER} | times
    store.group_add(connection, group, inbox_of(channel), channel, **times)


def group_send(
    connection: sqlite3.Connection, number: int, capacity: int | None = 100, **fields: Any
) -> list[str]:
    """Returns the inboxes that missed it."""
    full = store.group_send(
        connection, to_group(number, **fields), capacity, lambda inbox: capacity or 100
    )
    return sorted(full)


def claimed(connection: sqlite3.Connection, limit: int, *, keep: bool = True) -> list[int]:
    rows = store.claim(connection, "test-channel", limit, time.time(), keep=keep)
    return [int(each.body) for each in rows]


# Sending


def test_a_message_is_one_row_and_raises_its_sequence(connection: sqlite3.Connection) -> None:
    now = time.time()
    message = outgoing(1, "specific.abc!x", expires_at=now + 5)
    assert store.send(connection, [message], now) == [True]
    assert select(connection, f"inbox, channel, body, created_at, expires_at from {MESSAGE}") == [
        ("specific.abc!", "specific.abc!x", b"1", now, now + 5)
    ]
    assert select(connection, f'1 from {MESSAGE} where "group" is null and delivered_at is null')
    assert sequence(connection, "specific.abc!") == 1


def test_a_batch_stands_in_the_order_in_which_it_was_sent(connection: sqlite3.Connection) -> None:
    shuffled = random.sample(range(64), 64)
    batch = [outgoing(number, random.choice(["a", "test-channel"])) for number in shuffled]
    assert store.send(connection, batch, time.time()) == [True] * 64
    assert [
        int(body) for body in select(connection, f"body from {MESSAGE} order by id")
    ] == shuffled


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_a_batch_fills_an_inbox_to_its_capacity_exactly(
    connection: sqlite3.Connection, size: int
) -> None:
    """Several messages to one inbox in one batch find what room the others leave."""
    accepted: list[bool] = []
    while len(accepted) < 150:
        batch = [outgoing(len(accepted) + number) for number in range(size)]
        accepted += send(connection, *batch)
    assert accepted[:100] == [True] * 100
    assert not any(accepted[100:])
    assert bodies(connection) == [*range(100)]


def test_a_refused_message_does_not_take_its_neighbours_with_it(
    connection: sqlite3.Connection,
) -> None:
    send(connection, outgoing(0, "full", capacity=1))
    batch = [outgoing(1), outgoing(2, "full", capacity=1), outgoing(3)]
    assert send(connection, *batch) == [True, False, True]
    assert bodies(connection) == [1, 3]
    assert bodies(connection, "full") == [0]


def test_a_batch_that_finds_room_for_some_takes_the_earliest(
    connection: sqlite3.Connection,
) -> None:
    batch = [outgoing(number, channel, capacity=2) for number in range(4) for channel in "ab"]
    assert send(connection, *batch) == [True] * 4 + [False] * 4
    assert bodies(connection, "a") == bodies(connection, "b") == [0, 1]


def test_process_local_channels_share_the_room_of_their_inbox(
    connection: sqlite3.Connection,
) -> None:
    batch = [outgoing(number, f"specific.abc!{number}", capacity=3) for number in range(5)]
    assert send(connection, *batch) == [True, True, True, False, False]


def test_each_message_is_measured_by_the_capacity_of_its_own_channel(
    connection: sqlite3.Connection,
) -> None:
    batch = [
        outgoing(1, "specific.abc!small", capacity=1),
        outgoing(2, "specific.abc!small", capacity=1),
        outgoing(3, "specific.abc!large", capacity=10),
    ]
    assert send(connection, *batch) == [True, False, True]


@pytest.mark.parametrize("history", range(10))
def test_any_history_of_batches_is_accepted_as_by_a_plain_counter(
    connection: sqlite3.Connection, history: int
) -> None:
    chance = random.Random(history)
    waiting = {"a": 0, "b": 0, "c": 0}
    for _ in range(30):
        batch = [
            outgoing(0, chance.choice("abc"), capacity=chance.choice([5, 8]))
            for _ in range(chance.randint(1, 10))
        ]
        expected = []
        for message in batch:
            expected.append(waiting[message.channel] < message.capacity)
            waiting[message.channel] += expected[-1]
        assert send(connection, *batch) == expected
        taken = chance.choice("abc")
        rows = store.claim(connection, taken, chance.randint(1, 3), time.time(), keep=True)
        waiting[taken] -= len(rows)


def test_what_was_delivered_takes_no_room(connection: sqlite3.Connection) -> None:
    assert send(connection, outgoing(1, capacity=1)) == [True]
    assert claimed(connection, 1) == [1]
    assert send(connection, outgoing(2, capacity=1)) == [True]


def test_what_has_expired_takes_no_room(connection: sqlite3.Connection) -> None:
    assert send(connection, outgoing(1, capacity=1, expires_at=time.time() - 1)) == [True]
    assert send(connection, outgoing(2, capacity=1), outgoing(3, capacity=1)) == [True, False]


def test_another_writers_messages_take_room(
    connection: sqlite3.Connection, connect: Connect
) -> None:
    other = connect()
    for number in range(10):
        assert send(other if number % 2 else connection, outgoing(number, capacity=10)) == [True]
    assert send(connection, outgoing(10, capacity=10)) == [False]
    assert send(other, outgoing(11, capacity=10)) == [False]


def test_a_send_that_cannot_write_writes_nothing(
    connection: sqlite3.Connection, connect: Connect
) -> None:
    other = connect()
    other.execute("begin immediate")
    with pytest.raises(sqlite3.OperationalError):
        send(connection, outgoing(1), outgoing(2))
    other.execute("rollback")
    assert bodies(connection) == []


# Groups: sending


def test_a_group_message_is_one_row_for_each_inbox(connection: sqlite3.Connection) -> None:
    for member in range(1000):
        join(connection, f"specific.one!{member}")
    join(connection, "specific.two!x")
    join(connection, "normal")
    join(connection, "elsewhere", group="another-group")
    assert group_send(connection, 7) == []
    assert select(connection, f'inbox, channel, "group", body from {MESSAGE} order by inbox') == [
        ("normal", None, "test-group", b"7"),
        ("specific.one!", None, "test-group", b"7"),
        ("specific.two!", None, "test-group", b"7"),
    ]


def test_a_group_message_raises_the_sequence_of_every_inbox(connection: sqlite3.Connection) -> None:
    for channel in ("a", "b"):
        join(connection, channel)
    group_send(connection, 1)
    group_send(connection, 2)
    assert sorted(sequence(connection, channel) or 0 for channel in "ab") == [3, 4]


@pytest.mark.parametrize("capacity", [None, 100], ids=["capacities-differ", "all-alike"])
def test_a_group_without_members_gets_nothing(
    connection: sqlite3.Connection, capacity: int | None
) -> None:
    assert group_send(connection, 1, capacity) == []
    assert select(connection, f"count(*) from {MESSAGE}") == [0]


def test_full_inboxes_miss_a_group_message_and_are_named(connection: sqlite3.Connection) -> None:
    for channel in ("a", "b", "c"):
        join(connection, channel)
    send(connection, outgoing(1, "a"), outgoing(2, "a"), outgoing(3, "c"), outgoing(4, "c"))
    assert sorted(group_send(connection, 5, capacity=2)) == ["a", "c"]
    assert [bodies(connection, channel) for channel in "abc"] == [[1, 2], [5], [3, 4]]


def test_each_inbox_of_a_group_is_measured_by_its_own_capacity(
    connection: sqlite3.Connection,
) -> None:
    for channel in ("small", "large"):
        join(connection, channel)
    capacities = {"small": 1, "large": 2}
    full = [
        store.group_send(connection, to_group(number), None, capacities.__getitem__)
        for number in range(3)
    ]
    assert [sorted(each) for each in full] == [[], ["small"], ["large", "small"]]
    assert bodies(connection, "small") == [0]
    assert bodies(connection, "large") == [0, 1]


def test_an_inbox_without_room_is_told_with_its_oldest_message(
    connection: sqlite3.Connection,
) -> None:
    now = time.time()
    join(connection, "small")
    for age in (7, 3):
        store.group_send(connection, to_group(1, created_at=now - age), None, lambda _: 2)
    full = store.group_send(connection, to_group(2, created_at=now), None, lambda _: 2)
    assert full == {"small": now - 7}


@pytest.mark.parametrize("capacity", [None, 100], ids=["capacities-differ", "all-alike"])
def test_an_inbox_whose_memberships_have_all_lapsed_gets_nothing(
    connection: sqlite3.Connection, capacity: int | None
) -> None:
    now = time.time()
    join(connection, "specific.gone!a", expires_at=now + 1)
    join(connection, "specific.gone!b", expires_at=now + 2)
    join(connection, "specific.half!a", expires_at=now + 1)
    join(connection, "specific.half!b", expires_at=now + 3)
    group_send(connection, 1, capacity, created_at=now + 2)
    assert select(connection, f"inbox from {MESSAGE}") == ["specific.half!"]


# Looking


def test_sequences_of_inboxes_that_never_got_a_message_are_absent(
    connection: sqlite3.Connection,
) -> None:
    send(connection, outgoing(1, "a"), outgoing(2, "b"), outgoing(3, "a"))
    assert store.sequences(connection, ["a", "c"]) == {"a": 3}


def test_every_writer_raises_the_sequence(connection: sqlite3.Connection) -> None:
    """Also one that knows nothing of the layer."""
    for _ in range(2):
        connection.execute(
            f"insert into {MESSAGE} (inbox, channel, body, created_at, expires_at)"
            " values ('a', 'a', x'80', 0, 0)"
        )
    assert sequence(connection, "a") == 2


def arrivals(connection: sqlite3.Connection, inbox: str, cursor: int = 0) -> list[Any]:
    return [
        (row.id, int(row.body), sorted(channels))
        for row, channels in store.arrivals(connection, inbox, cursor)
    ]


def test_arrivals_are_what_came_after_the_cursor_oldest_first(
    connection: sqlite3.Connection,
) -> None:
    send(connection, *(outgoing(number, "specific.abc!x") for number in range(5)))
    send(connection, outgoing(9, "specific.other!x"))
    assert arrivals(connection, "specific.abc!", cursor=2) == [
        (3, 2, ["specific.abc!x"]),
        (4, 3, ["specific.abc!x"]),
        (5, 4, ["specific.abc!x"]),
    ]


def test_arrivals_bring_the_whole_row(connection: sqlite3.Connection) -> None:
    now = time.time()
    sent = outgoing(1, "specific.abc!x", expires_at=now + 5)
    store.send(connection, [sent], now)
    ((arrived, _),) = store.arrivals(connection, "specific.abc!", 0)
    assert arrived == row(
        1, "specific.abc!x", inbox="specific.abc!", created_at=now, expires_at=now + 5
    )


def test_a_group_message_arrives_at_the_members_of_its_inbox(
    connection: sqlite3.Connection,
) -> None:
    for channel in ("specific.abc!1", "specific.abc!2", "specific.other!3"):
        join(connection, channel)
    join(connection, "specific.abc!4", group="another-group")
    group_send(connection, 1)
    assert arrivals(connection, "specific.abc!") == [(1, 1, ["specific.abc!1", "specific.abc!2"])]


def test_who_joins_later_gets_later_messages_only(connection: sqlite3.Connection) -> None:
    join(connection, "specific.abc!early")
    group_send(connection, 1)
    join(connection, "specific.abc!late")
    group_send(connection, 2)
    assert arrivals(connection, "specific.abc!") == [
        (1, 1, ["specific.abc!early"]),
        (2, 2, ["specific.abc!early", "specific.abc!late"]),
    ]


def test_who_joins_late_waits_for_no_message_that_was_deleted(
    connection: sqlite3.Connection,
) -> None:
    """The newest id is gone with its row; the next one is still a later one."""
    join(connection, "specific.abc!x")
    group_send(connection, 1)
    store.flush(connection)
    join(connection, "specific.abc!x")
    group_send(connection, 2)
    assert arrivals(connection, "specific.abc!") == [(2, 2, ["specific.abc!x"])]


def test_membership_is_judged_at_the_messages_creation(connection: sqlite3.Connection) -> None:
    """It may have lapsed when the message is read, and still counts."""
    now = time.time()
    join(connection, "specific.abc!lapsed", expires_at=now - 10)
    join(connection, "specific.abc!lapses", expires_at=now - 1)
    join(connection, "specific.abc!stays", expires_at=now + 60)
    group_send(connection, 1, created_at=now - 5)
    assert arrivals(connection, "specific.abc!") == [
        (1, 1, ["specific.abc!lapses", "specific.abc!stays"])
    ]


def test_arrivals_may_be_left_half_read(connection: sqlite3.Connection, connect: Connect) -> None:
    """Closing the iterator ends the read, so that the WAL can be reset."""
    send(connection, *(outgoing(number, "specific.abc!x") for number in range(50)))
    reader = connect()
    rows = store.arrivals(reader, "specific.abc!", 0)
    next(rows)
    assert checkpoint(connection)[0] == 1  # busy: that reader is in it
    rows.close()
    assert checkpoint(connection)[0] == 0


def checkpoint(connection: sqlite3.Connection) -> Any:
    (result,) = connection.execute("pragma wal_checkpoint(truncate)").fetchall()
    return result


def test_something_waits_until_it_is_claimed_or_expires(connection: sqlite3.Connection) -> None:
    now = time.time()
    assert not store.has_waiting(connection, "test-channel", now)
    send(connection, outgoing(1, expires_at=now + 5))
    assert store.has_waiting(connection, "test-channel", now)
    assert not store.has_waiting(connection, "another-channel", now)
    assert not store.has_waiting(connection, "test-channel", now + 5)
    claimed(connection, 1)
    assert not store.has_waiting(connection, "test-channel", now)


# Acknowledging


@KEEP
def test_what_was_taken_is_not_there_any_more(connection: sqlite3.Connection, keep: bool) -> None:
    send(connection, *(outgoing(number) for number in range(4)), outgoing(9, "another-channel"))
    now = time.time()
    store.acknowledge(connection, "test-channel", 0, 2, now, now, keep=keep)
    assert bodies(connection) == [2, 3]
    assert bodies(connection, "another-channel") == [9]
    kept = select(connection, f"id from {MESSAGE} where delivered_at = ?", now)
    assert kept == ([1, 2] if keep else [])


@KEEP
def test_what_is_not_after_the_last_acknowledgement_is_that_of_others(
    connection: sqlite3.Connection, keep: bool
) -> None:
    """Ids that have begun anew, before the reader has noticed."""
    send(connection, *(outgoing(number) for number in range(4)))
    now = time.time()
    store.acknowledge(connection, "test-channel", 2, 10, now, now, keep=keep)
    assert bodies(connection) == [0, 1]


@KEEP
def test_what_had_expired_when_the_reader_looked_was_not_taken(
    connection: sqlite3.Connection, keep: bool
) -> None:
    """It stays for the trimmer, which takes its channel out of its groups."""
    now = time.time()
    send(connection, outgoing(1, expires_at=now + 1), outgoing(2, expires_at=now + 3))
    store.acknowledge(connection, "test-channel", 0, 2, now + 1, now + 2, keep=keep)
    assert bodies(connection) == [1]


def test_what_was_acknowledged_keeps_the_time_of_its_delivery(
    connection: sqlite3.Connection,
) -> None:
    now = time.time()
    send(connection, outgoing(1))
    store.acknowledge(connection, "test-channel", 0, 1, now, now + 1, keep=True)
    store.acknowledge(connection, "test-channel", 0, 1, now, now + 2, keep=True)
    assert select(connection, f"delivered_at from {MESSAGE}") == [now + 1]


# Claiming


@KEEP
def test_claims_are_the_oldest_in_their_order(connection: sqlite3.Connection, keep: bool) -> None:
    """Whatever order RETURNING has, and whatever was done to the table meanwhile."""
    numbers = [*range(90)]
    send(connection, *(outgoing(number) for number in numbers))
    store.give_back(connection, store.claim(connection, "test-channel", 40, time.time(), keep=keep))
    assert claimed(connection, 50, keep=keep) == numbers[:50]
    assert claimed(connection, 50, keep=keep) == numbers[50:]
    assert claimed(connection, 50, keep=keep) == []


@KEEP
def test_what_was_flushed_meanwhile_is_not_given_back(
    connection: sqlite3.Connection, keep: bool
) -> None:
    send(connection, outgoing(1))
    rows = store.claim(connection, "test-channel", 1, time.time(), keep=keep)
    store.flush(connection)
    store.give_back(connection, rows)
    assert bodies(connection) == []


@KEEP
def test_a_claim_brings_the_whole_row(connection: sqlite3.Connection, keep: bool) -> None:
    now = time.time()
    store.send(connection, [outgoing(1, expires_at=now + 5)], now)
    (got,) = store.claim(connection, "test-channel", 1, now, keep=keep)
    assert got == row(1, created_at=now, expires_at=now + 5)


@KEEP
def test_two_connections_never_claim_the_same_message(
    connection: sqlite3.Connection, connect: Connect, keep: bool
) -> None:
    other = connect()
    send(connection, *(outgoing(number) for number in range(60)))
    numbers: list[int] = []
    while got := claimed(connection if len(numbers) % 2 else other, 7, keep=keep):
        numbers += got
    assert numbers == [*range(60)]


@KEEP
def test_what_has_expired_is_not_claimed(connection: sqlite3.Connection, keep: bool) -> None:
    send(connection, outgoing(1, expires_at=time.time() - 1), outgoing(2))
    assert claimed(connection, 5, keep=keep) == [2]


@pytest.mark.parametrize("keep", [True, False])
def test_what_was_claimed_is_kept_only_where_retention_wants_it(
    connection: sqlite3.Connection, keep: bool
) -> None:
    send(connection, outgoing(1))
    claimed(connection, 1, keep=keep)
    assert select(connection, f"count(*) from {MESSAGE} where delivered_at is not null") == [keep]


@KEEP
def test_what_is_given_back_stands_where_it_stood(
    connection: sqlite3.Connection, keep: bool
) -> None:
    send(connection, outgoing(1), outgoing(2), outgoing(3))
    rows = store.claim(connection, "test-channel", 2, time.time(), keep=keep)
    send(connection, outgoing(4))
    store.give_back(connection, rows)
    assert store.claim(connection, "test-channel", 1, time.time(), keep=keep) == rows[:1]
    assert claimed(connection, 5, keep=keep) == [2, 3, 4]


@KEEP
def test_what_is_given_back_raises_the_sequence_so_that_others_look(
    connection: sqlite3.Connection, keep: bool
) -> None:
    send(connection, outgoing(1), outgoing(2))
    rows = store.claim(connection, "test-channel", 2, time.time(), keep=keep)
    before = sequence(connection)
    assert before is not None
    store.give_back(connection, rows)
    after = sequence(connection)
    assert after is not None
    assert after > before


@KEEP
def test_a_sequence_never_stands_still(connection: sqlite3.Connection, keep: bool) -> None:
    """Neither when the id of a new message is one that giving back has already reached."""
    seen = [-1]
    for number in range(5):
        send(connection, outgoing(number))
        seen.append(sequence(connection) or 0)
        store.give_back(
            connection, store.claim(connection, "test-channel", 1, time.time(), keep=keep)
        )
        seen.append(sequence(connection) or 0)
    assert seen == sorted(set(seen))


def test_giving_back_revives_no_other_message(connection: sqlite3.Connection) -> None:
    """Ids have begun anew meanwhile."""
    send(connection, outgoing(1))
    rows = store.claim(connection, "test-channel", 1, time.time(), keep=True)
    connection.execute(f"delete from {MESSAGE}")
    connection.execute("update sqlite_sequence set seq = 0")
    send(connection, outgoing(2))
    assert claimed(connection, 1) == [2]
    store.give_back(connection, rows)
    assert claimed(connection, 1) == []


def test_giving_back_what_was_flushed_meanwhile_leaves_nothing_half_done(
    connection: sqlite3.Connection, connect: Connect
) -> None:
    send(connection, outgoing(1))
    rows = store.claim(connection, "test-channel", 1, time.time(), keep=True)
    other = connect()
    other.execute("begin immediate")
    with pytest.raises(sqlite3.OperationalError):
        store.give_back(connection, rows)
    other.execute("rollback")
    assert not connection.in_transaction
    store.give_back(connection, rows)
    assert bodies(connection) == [1]


# Joining and leaving


def members(connection: sqlite3.Connection) -> list[Any]:
    return select(connection, f'"group", channel from {MEMBERSHIP} order by 1, 2')


def test_joining_again_is_staying_for_longer(connection: sqlite3.Connection) -> None:
    now = time.time()
    join(connection, "specific.abc!x", expires_at=now + 5)
    send(connection, outgoing(1))
    join(connection, "specific.abc!x", expires_at=now + 50)
    assert select(connection, f"expires_at, joined_after from {MEMBERSHIP}") == [(now + 50, 0)]


def test_joining_again_mends_the_inbox_that_somebody_else_has_written(
    connection: sqlite3.Connection,
) -> None:
    """Else the member would be one for ever, and get nothing."""
    join(connection, "specific.abc!x")
    connection.execute(f"update {MEMBERSHIP} set inbox = 'elsewhere!'")
    join(connection, "specific.abc!x")
    group_send(connection, 1)
    assert arrivals(connection, "specific.abc!") == [(1, 1, ["specific.abc!x"])]


def test_joining_again_after_the_membership_lapsed_is_joining(
    connection: sqlite3.Connection,
) -> None:
    now = time.time()
    join(connection, "specific.abc!x", expires_at=now + 5)
    send(connection, outgoing(1))
    join(connection, "specific.abc!x", now=now + 5, expires_at=now + 50)
    assert select(connection, f"expires_at, joined_after from {MEMBERSHIP}") == [(now + 50, 1)]


def test_who_joins_again_does_not_miss_what_was_sent_before(connection: sqlite3.Connection) -> None:
    join(connection, "specific.abc!x")
    group_send(connection, 1)
    join(connection, "specific.abc!x")
    assert arrivals(connection, "specific.abc!") == [(1, 1, ["specific.abc!x"])]


def test_who_left_and_joined_again_does_not_get_what_was_sent_between(
    connection: sqlite3.Connection,
) -> None:
    join(connection, "specific.abc!x")
    join(connection, "specific.abc!y")
    store.group_discard(connection, "test-group", "specific.abc!x")
    group_send(connection, 1)
    join(connection, "specific.abc!x")
    assert arrivals(connection, "specific.abc!") == [(1, 1, ["specific.abc!y"])]


def test_leaving_leaves_one_group_and_one_channel_only(connection: sqlite3.Connection) -> None:
    for group in ("one", "two"):
        for channel in ("a", "b"):
            join(connection, channel, group)
    for _ in range(2):
        store.group_discard(connection, "one", "a")
    assert members(connection) == [("one", "b"), ("two", "a"), ("two", "b")]


def test_leaving_all_groups_takes_no_neighbour_along(connection: sqlite3.Connection) -> None:
    for group in ("one", "two"):
        for channel in ("specific.abc!a", "specific.abc!b", "c"):
            join(connection, channel, group)
    store.leave_all_groups(connection, {"specific.abc!a": 1, "c": 1})
    assert members(connection) == [("one", "specific.abc!b"), ("two", "specific.abc!b")]


def test_who_has_joined_since_or_again_stays(connection: sqlite3.Connection) -> None:
    """Whatever had expired unread before; what does so later counts."""
    send(connection, outgoing(1))
    join(connection, "since")
    join(connection, "again")
    send(connection, outgoing(2))
    join(connection, "again")
    store.leave_all_groups(connection, {"since": 1, "again": 2})
    assert members(connection) == [("test-group", "again"), ("test-group", "since")]
    store.leave_all_groups(connection, {"since": 2, "again": 3})
    assert members(connection) == []


# Trimming


def trim(
    connection: sqlite3.Connection, limit: int = 100, *, now: float, retention: float = 86400
) -> list[int]:
    """How many messages had been delivered, and had expired, and how many memberships lapsed."""
    return [
        upkeep.trim_delivered(connection, limit, now - retention),
        upkeep.trim_expired(connection, limit, now),
        upkeep.trim_memberships(connection, limit, now),
    ]


def test_expired_messages_are_deleted_after_a_grace(connection: sqlite3.Connection) -> None:
    """Their reader may have taken them, and not have said so."""
    now = time.time()
    send(connection, outgoing(1, expires_at=now), outgoing(2, expires_at=now + 10))
    assert trim(connection, now=now + upkeep.GRACE - 0.001) == [0, 0, 0]
    assert bodies(connection) == [1, 2]
    assert trim(connection, now=now + upkeep.GRACE) == [0, 1, 0]
    assert bodies(connection) == [2]


def test_delivered_messages_are_deleted_after_the_retention(connection: sqlite3.Connection) -> None:
    send(connection, outgoing(1), outgoing(2))
    claimed(connection, 1)
    (delivered_at,) = select(connection, f"delivered_at from {MESSAGE} where delivered_at > 0")
    assert trim(connection, now=delivered_at + 9.9, retention=10) == [0, 0, 0]
    assert trim(connection, now=delivered_at + 10, retention=10) == [1, 0, 0]
    assert select(connection, f"body from {MESSAGE}") == [b"2"]


def test_delivered_messages_are_kept_for_the_retention_though_they_expire(
    connection: sqlite3.Connection,
) -> None:
    now = time.time()
    send(connection, outgoing(1, expires_at=now + 1))
    claimed(connection, 1)
    assert trim(connection, now=now + 1000) == [0, 0, 0]
    assert select(connection, f"count(*) from {MESSAGE}") == [1]


def test_lapsed_memberships_are_deleted(connection: sqlite3.Connection) -> None:
    now = time.time()
    join(connection, "a", expires_at=now)
    join(connection, "b", expires_at=now + 1)
    assert trim(connection, now=now) == [0, 0, 1]
    assert members(connection) == [("test-group", "b")]


def test_a_batch_deletes_no_more_of_each_kind_than_its_limit(
    connection: sqlite3.Connection,
) -> None:
    now = time.time()
    send(connection, *(outgoing(number, "expires", expires_at=now) for number in range(25)))
    send(connection, *(outgoing(number) for number in range(25)))
    claimed(connection, 25)
    for number in range(25):
        join(connection, f"member-{number}", expires_at=now)
    for left, trimmed in ((15, 10), (5, 10), (0, 5)):
        assert trim(connection, 10, now=now + 100, retention=10) == [trimmed] * 3
        assert len(bodies(connection, "expires")) == left
        assert select(connection, f"count(*) from {MESSAGE}") == [2 * left]
        assert len(members(connection)) == left
    assert trim(connection, 10, now=now + 100, retention=10) == [0, 0, 0]


def test_who_lets_a_message_expire_leaves_all_groups(connection: sqlite3.Connection) -> None:
    now = time.time()
    for group in ("one", "two"):
        for channel in ("specific.abc!gone", "specific.abc!alive", "gone", "alive"):
            join(connection, channel, group)
    for channel in ("specific.abc!gone", "gone"):
        send(connection, outgoing(1, channel, expires_at=now))
    trim(connection, now=now + 10)
    alive = ["alive", "specific.abc!alive"]
    assert members(connection) == [(group, name) for group in ("one", "two") for name in alive]


def test_whose_process_never_looked_leaves_the_group_with_its_neighbours(
    connection: sqlite3.Connection,
) -> None:
    now = time.time()
    for channel in ("specific.dead!1", "specific.dead!2", "specific.alive!1"):
        join(connection, channel, "one")
        join(connection, channel, "two")
    group = to_group(1, "one", created_at=now, expires_at=now + 1)
    store.group_send(connection, group, 100, lambda inbox: 100)
    store.acknowledge(connection, "specific.alive!", 0, 100, now, now, keep=True)
    trim(connection, now=now + 10)
    assert members(connection) == [
        ("one", "specific.alive!1"),
        ("two", "specific.alive!1"),
        ("two", "specific.dead!1"),
        ("two", "specific.dead!2"),
    ]


def test_a_message_that_was_taken_expires_nobody(connection: sqlite3.Connection) -> None:
    now = time.time()
    join(connection, "test-channel")
    send(connection, outgoing(1, expires_at=now + 1))
    claimed(connection, 1)
    trim(connection, now=now + 10, retention=1)
    assert members(connection) == [("test-group", "test-channel")]


def test_sequences_without_messages_are_deleted(connection: sqlite3.Connection) -> None:
    send(connection, outgoing(1, "gone"), outgoing(2, "stays"), outgoing(3, "later"))
    store.claim(connection, "gone", 1, time.time(), keep=False)
    upkeep.trim_sequences(connection)
    assert select(connection, f"inbox from {SEQUENCE} order by 1") == ["later", "stays"]
    store.claim(connection, "stays", 1, time.time(), keep=False)
    store.claim(connection, "later", 1, time.time(), keep=False)
    upkeep.trim_sequences(connection)
    assert select(connection, f"count(*) from {SEQUENCE}") == [0]


def test_the_epoch_is_never_deleted(connection: sqlite3.Connection) -> None:
    store.flush(connection)
    upkeep.trim_sequences(connection)
    assert sequence(connection, store.EPOCH) == 0


def test_ids_are_never_used_twice(connection: sqlite3.Connection) -> None:
    """A reader's cursor would pass over a second message of the same id."""
    send(connection, outgoing(1))
    claimed(connection, 1, keep=False)
    upkeep.trim_sequences(connection)
    send(connection, outgoing(2))
    assert sequence(connection) == 2


# Forgetting


def test_what_others_have_sent_is_not_forgotten(connection: sqlite3.Connection) -> None:
    now = time.time()
    connection.executemany(
        f"insert into {MESSAGE} (inbox, channel, body, created_at, expires_at, delivered_at)"
        " values (?, ?, x'80', ?, ?, ?)",
        [
            ("?", "a!b", now, now + 5, None),
            ("?", "a!c", now, now + 5, None),
            ("a!", "a!b", now, now + 5, now),
            ("a!", "a!c", now, now + 5, now),
            ("a!", "a!c", now, now + 5, None),
        ],
    )
    store.forget(connection, ["?", "a!"], "a!b", now - 1)
    assert select(connection, f"count(*) from {MESSAGE} where channel = 'a!c'") == [3]
    assert select(connection, f"count(*) from {MESSAGE}") == [3]


# Flushing


def test_flush_leaves_no_message_and_no_member(connection: sqlite3.Connection) -> None:
    join(connection, "a")
    send(connection, outgoing(1), outgoing(2))
    claimed(connection, 1)
    store.flush(connection)
    assert select(connection, f"count(*) from {MESSAGE}") == [0]
    assert members(connection) == []


def test_the_epoch_is_the_newest_message_at_the_flush(connection: sqlite3.Connection) -> None:
    store.flush(connection)
    epochs = [sequence(connection, store.EPOCH)]
    for _ in range(2):
        send(connection, outgoing(1), outgoing(2))
        claimed(connection, 2, keep=False)
        store.flush(connection)
        epochs.append(sequence(connection, store.EPOCH))
    assert epochs == [0, 2, 4]


def test_flush_is_seen_as_a_whole_or_not_at_all(
    connection: sqlite3.Connection, connect: Connect
) -> None:
    send(connection, outgoing(1))
    other = connect()
    other.execute("begin immediate")
    with pytest.raises(sqlite3.OperationalError):
        store.flush(connection)
    other.execute("rollback")
    assert bodies(connection) == [1]
    assert sequence(connection, store.EPOCH) is None


# Transactions


def test_a_transaction_that_fails_is_rolled_back(connection: sqlite3.Connection) -> None:
    with pytest.raises(ZeroDivisionError):
        write_and_fail(connection)
    assert not connection.in_transaction
    assert bodies(connection) == []


def write_and_fail(connection: sqlite3.Connection) -> None:
    with store.transaction(connection):
        send(connection, outgoing(1))
        raise ZeroDivisionError


def test_a_transaction_holds_the_write_lock_from_its_beginning(
    connection: sqlite3.Connection, connect: Connect
) -> None:
    other = connect()
    with store.transaction(connection), pytest.raises(sqlite3.OperationalError):
        send(other, outgoing(1))
    assert send(other, outgoing(1)) == [True]


def test_a_transaction_that_sqlite_has_ended_itself_is_not_rolled_back_again(
    connection: sqlite3.Connection,
) -> None:
    send(connection, outgoing(1))
    with pytest.raises(sqlite3.IntegrityError), store.transaction(connection):
        connection.execute(f"insert or rollback into {SEQUENCE} values ('test-channel', 1)")
    assert not connection.in_transaction


# A day of retained rows costs the hot path nothing

RETAINED = 100_000


@pytest.fixture(scope="module", params=[False, True], ids=["", "analyzed"])
def full(
    request: pytest.FixtureRequest, migrated: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sqlite3.Connection]:
    """A table of 100,000 delivered messages, 10,000 members of one group, and a few that wait;
    somebody had run ANALYZE when there were few of all.
    """
    path = tmp_path_factory.mktemp("full") / "channels.sqlite3"
    path.write_bytes(migrated.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if request.param:
            for number in range(3):
                send(connection, outgoing(number), outgoing(number, "specific.abc!x"))
                join(connection, f"specific.abc!{number}", "group-1")
            claimed(connection, 2)
            connection.execute("analyze")
        with store.transaction(connection):
            connection.execute(
                f"""
                with recursive number (n) as (values (1) union all select n + 1 from number
                    where n < {RETAINED})
                insert into {MESSAGE} (inbox, channel, body, created_at, expires_at, delivered_at)
                select 'inbox-' || (n % 100), 'inbox-' || (n % 100), x'80', n, n + 60, n
                from number
                """
            )
            for number in range(10_000):
                join(connection, f"specific.abc!{number}", "group-1")
        for number in range(100):
            send(connection, outgoing(number, f"inbox-{number}"))
        join(connection, "small!x", "small-group")
        group_send(connection, 1, group="small-group")
        if request.param:
            upkeep.forget_statistics(connection)
    # SQLite 3.36 needs that for one statement, see there.
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


HOT: dict[str, Callable[[sqlite3.Connection], object]] = {
    "send": lambda each: send(each, outgoing(1, "inbox-1", capacity=0)),
    "send-many": lambda each: send(each, *[outgoing(1, "inbox-1", capacity=0)] * 3),
    "group-send": lambda each: group_send(each, 1, capacity=0),
    "group-send-of-capacities": lambda each: store.group_send(
        each, to_group(1, "group-1"), None, lambda inbox: 0
    ),
    "group-send-to-a-small-one": lambda each: group_send(each, 1, 1, group="small-group"),
    "sequences": lambda each: store.sequences(each, ["inbox-1", "inbox-2"]),
    "arrivals": lambda each: [*store.arrivals(each, "inbox-1", 0)],
    "arrivals-of-a-group": lambda each: [*store.arrivals(each, "small!", 0)],
    "has-waiting": lambda each: store.has_waiting(each, "inbox-1", 0),
    "acknowledge": lambda each: store.acknowledge(each, "inbox-1", 0, 0, 0, 0, keep=True),
    "claim": lambda each: store.claim(each, "inbox-1", 0, 0, keep=True),
    "claim-without-retention": lambda each: store.claim(each, "inbox-1", 0, 0, keep=False),
    "give-back": lambda each: store.give_back(each, [row(1, "inbox-1")]),
    "group-add": lambda each: join(each, "specific.abc!1", "group-1"),
    "group-discard": lambda each: store.group_discard(each, "group-1", "nobody!x"),
    "leave-all-groups": lambda each: store.leave_all_groups(each, {"nobody!x": 1}),
    "trim-delivered": lambda each: upkeep.trim_delivered(each, 100, NEVER),
    "trim-expired": lambda each: upkeep.trim_expired(each, 100, NEVER),
    "trim-memberships": lambda each: upkeep.trim_memberships(each, 100, NEVER),
}


@pytest.mark.parametrize("statement", HOT)
def test_hot_statements_seek_and_never_scan(full: sqlite3.Connection, statement: str) -> None:
    """Every table of ours is searched by an index, in every statement that was run."""
    ran: list[str] = []
    full.set_trace_callback(ran.append)
    HOT[statement](full)
    full.set_trace_callback(None)
    plans = [
        detail
        for sql in ran
        if not sql.startswith(("--", "begin", "commit"))
        for *_, detail in full.execute(f"explain query plan {sql}").fetchall()
    ]
    assert plans
    assert [each for each in plans if SCAN_OF_ALL.match(each)] == []


SCAN_OF_ALL = re.compile(
    r"SCAN (?!.* USING .*INDEX channels_sqlite_waiting).*(sqlite|waiting|message)"
)
"""The waiting index is partial: to scan it is to look at what waits, which capacities limit."""


BY_SQL: dict[str, Callable[[sqlite3.Connection], object]] = {
    "send-by-sql": lambda each: each.execute(f"insert into {SEND} values ('inbox-1', '{{}}')"),
    "group-send-by-sql": lambda each: each.execute(
        f"insert into {GROUP_SEND} values ('small-group', '{{}}')"
    ),
}


@pytest.mark.parametrize("statement", HOT | BY_SQL)
def test_hot_statements_cost_no_more_when_100_000_rows_are_kept(
    full: sqlite3.Connection, connection: sqlite3.Connection, statement: str
) -> None:
    """Counted in steps of SQLite's virtual machine, which no busy machine changes."""
    send(connection, *(outgoing(number, f"inbox-{number}") for number in range(3)))
    run = (HOT | BY_SQL)[statement]
    run(connection)
    run(full)
    assert steps(full, run) < 3 * steps(connection, run) + 1000


def steps(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], object]) -> int:
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(step, 1)
    work(connection)
    connection.set_progress_handler(None, 0)
    return count


def test_what_an_analyze_has_found_is_forgotten_by_every_connection(
    connection: sqlite3.Connection, connect: Connect
) -> None:
    """Also by those that had it already; what it has found of other tables stays."""
    other = connect()
    connection.execute("create table theirs (a)")
    connection.execute("create index theirs_a on theirs (a)")
    connection.execute("insert into theirs values (1)")
    send(connection, outgoing(1), outgoing(2))
    claimed(connection, 1)
    connection.execute("analyze")

    def plans() -> set[str]:
        query = f"explain query plan delete from {MESSAGE} where id in (select 1)"
        return {row[3] for each in (connection, other) for row in each.execute(query)}

    assert f"SCAN {MESSAGE}" in plans()
    upkeep.forget_statistics(connection)
    assert f"SCAN {MESSAGE}" not in plans()
    tables = select(connection, "tbl from sqlite_stat1")
    assert "theirs" in tables
    assert not {MESSAGE, MEMBERSHIP, SEQUENCE} & {*tables}
    assert select(connection, "1 from sqlite_master where name like '%planned'") == []
