"""A day of retained messages costs a statement nothing, whatever an ANALYZE has found."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from channels_sqlite._storing import groups, sql, upkeep
from channels_sqlite._storing.schema import GROUP_SEND, MESSAGE, SEND
from tests.rows import outgoing, row, steps
from tests.rows import sql as connect
from tests.storing.tables import INBOX, acknowledge, group_send, join, leave, send

RETAINED = 50_000
MEMBERS = 10_000
SOON = time.time() + 3600  # everything has expired by then

Work = Callable[[sqlite3.Connection], object]

IN_PLACE: dict[str, Work] = {
    "send": lambda each: send(each, outgoing(1, "inbox-1", capacity=0)),
    "send-many": lambda each: send(each, *[outgoing(1, "inbox-1", capacity=0)] * 3),
    "has-members": lambda each: groups.has_members(each, "large-group"),
    "group-send": lambda each: group_send(each, 1, capacity=0),
    "sequences": lambda each: sql.sequences(each, ["inbox-1", "inbox-2"]),
    "arrivals": lambda each: sql.arrivals(each, "inbox-1", 0, 9, SOON),
    "arrivals-of-a-group": lambda each: sql.arrivals(each, "specific.small!", 0, 9, SOON),
    "has-waiting": lambda each: sql.has_waiting(each, "inbox-1", 0),
    "acknowledge": lambda each: acknowledge(each, "inbox-1", 0, keep=True),
    "acknowledge-large": lambda each: acknowledge(each, "inbox-1", 0, keep=True, large=True),
    "acknowledge-without-retention": lambda each: acknowledge(each, "inbox-1", 0, keep=False),
    "claim": lambda each: sql.claim(each, "inbox-1", 0, 0, keep=True),
    "claim-without-retention": lambda each: sql.claim(each, "inbox-1", 0, 0, keep=False),
    "give-back": lambda each: sql.give_back(each, [row(1, "inbox-1")], 0),
    "group-add": lambda each: join(each, f"{INBOX}1", group="large-group"),
    "group-discard": lambda each: leave(each, "nobody!x"),
    "group-discard-while-something-waits": lambda each: leave(each, "specific.small!x"),
    "has-lapsed": lambda each: groups.has_lapsed(each, "abcdefgh-_12", 0),
    "end-lapsed": lambda each: groups.end_lapsed(each, "abcdefgh-_12", 0),
}
ASIDE: dict[str, Work] = {
    "trim-delivered": lambda each: upkeep.trim_delivered(each, 1, SOON),
    "trim-expired": lambda each: upkeep.trim_expired(each, 1, SOON, ["a"], read=False),
    "trim-memberships": lambda each: upkeep.trim_memberships(each, 1, SOON, ["a"]),
    "trim-left": lambda each: upkeep.trim_left(each, 1),
    "trim-sequences": lambda each: upkeep.trim_sequences(each, 1),
    "forget-messages": lambda each: upkeep.forget_messages(each, 1, ["inbox-1"]),
}
BY_SQL: dict[str, Work] = {
    "send-by-sql": lambda each: each.execute(f"insert into {SEND} values ('inbox-1', '{{}}')"),
    "group-send-by-sql": lambda each: each.execute(
        f"insert into {GROUP_SEND} values ('test-group', '{{}}')"
    ),
}


@pytest.fixture(scope="module", params=[False, True], ids=["", "analyzed"])
def full(
    request: pytest.FixtureRequest, migrated: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sqlite3.Connection]:
    """A table of 50,000 delivered messages, 10,000 members of one group, and a few messages that
    wait; ANALYZE was run when there were few of all.
    """
    path = tmp_path_factory.mktemp("full") / "channels.sqlite3"
    path.write_bytes(migrated.read_bytes())
    with connect(path) as connection:
        if request.param:
            send(connection, *(outgoing(number, f"{INBOX}x") for number in range(3)))
            acknowledge(connection, INBOX, 2, keep=True)
            fill(connection)
            connection.execute("analyze")
        with sql.Transaction(connection):
            connection.execute(
                f"""
                with recursive number (n) as (values (1) union all select n + 1 from number
                    where n < {RETAINED})
                insert into {MESSAGE} (inbox, channel, body, created_at, expires_at, delivered_at)
                select 'inbox-' || (n % 100), 'inbox-' || (n % 100), x'80', n, n + 60, n
                from number
                """
            )
            join(
                connection, *(f"{INBOX}{number}" for number in range(MEMBERS)), group="large-group"
            )
        fill(connection)
    with connect(path) as connection:  # which reads what ANALYZE has found
        yield connection


def fill(connection: sqlite3.Connection) -> None:
    """A few of all that there is, and that the statements find."""
    left = [f"specific.left!{number}" for number in range(5)]
    join(connection, "specific.small!x", *left)
    group_send(connection, 1)
    leave(connection, *left)
    acknowledge(connection, "specific.left!", sql.newest(connection), keep=False)
    send(connection, *(outgoing(number, f"inbox-{number}") for number in range(5)))


def plans(connection: sqlite3.Connection, work: Work) -> list[str]:
    """How SQLite finds the rows of every statement that is run, one line for each table."""
    ran: list[str] = []
    connection.set_trace_callback(ran.append)
    work(connection)
    connection.set_trace_callback(None)
    statements = [each for each in ran if not each.startswith(("--", "begin", "commit"))]
    assert statements
    return [
        detail
        for statement in statements
        for *_, detail in connection.execute(f"explain query plan {statement}").fetchall()
    ]


OURS = "channels_sqlite|sqlite_sequence|message|membership|waiting|sequence"


@pytest.mark.parametrize("name", IN_PLACE | ASIDE | BY_SQL)
def test_a_statement_seeks_and_costs_no_more_when_50_000_messages_are_retained(
    full: sqlite3.Connection, connection: sqlite3.Connection, name: str
) -> None:
    """Statements on the thread scan only what waits or is left, whose indexes are partial, and the
    table of sequences, which has a row for each inbox.
    """
    fill(connection)
    work = (IN_PLACE | ASIDE | BY_SQL)[name]
    if name not in BY_SQL:  # whose triggers no plan explains
        scans = [each for each in plans(full, work) if re.match(f"SCAN ({OURS})", each)]
        allowed = "INDEX channels_sqlite_(waiting|member_left)|SCAN channels_sqlite_sequence"
        assert [each for each in scans if name in IN_PLACE or not re.search(allowed, each)] == []
    for each in (connection, full):
        work(each)
    costs = [steps(each, partial(work, each)) for each in (full, connection)]
    assert costs[0] < 3 * costs[1] + 100
