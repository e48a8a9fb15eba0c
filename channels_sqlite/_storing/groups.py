"""Groups, as SQL: sending to them, joining and leaving, who is in them, and when that ends.

As in `sql`: one function, one intent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from .messages import GroupMessage
from .schema import (
    CLIENT,
    COUNT_WAITING,
    MEMBER,
    MEMBER_EXPIRES,
    MEMBER_READS,
    MEMBERSHIP,
    MESSAGE,
    WAITING,
)
from .sql import TIME

CURRENT = "left_after is null and (expires_at > :now or substr(inbox, -1) = '!')"
"""A membership that counts. The reader of a process-local channel ends its memberships itself, by a
clock that nobody sets; the wall clock counts for the others."""

REPLACED = "\ufffd"  # for what cannot be read, by `handle.text`; no channel's name has it

# Sending

# The next inbox of a group with a membership that counts, and how many messages wait there: a seek,
# however many members it has. `select distinct` would visit all members; one recursive query, which
# does not, is slower. After the inbox of a row: others may write any name, and Python reads another
# one where it is not in the file's encoding.
_NEXT_RECIPIENT = f"""
    select id, inbox, ({COUNT_WAITING % ("membership.inbox", ":now")})
    from {MEMBERSHIP} as membership indexed by {MEMBER_READS}
    where "group" = :group and {CURRENT} and typeof(inbox) = 'text'
    and inbox > coalesce((select inbox from {MEMBERSHIP} where id = :after), '')
    order by inbox
    limit 1
"""

_SEND = f"""
    insert into {MESSAGE} (inbox, "group", body, created_at, expires_at) values (?, ?, ?, ?, ?)
"""


def has_members(connection: sqlite3.Connection, group: str) -> bool:
    """Return False if a message to the group would reach nobody; True if it may reach somebody."""
    query = f'select 1 from {MEMBERSHIP} indexed by {MEMBER_READS} where "group" = ? limit 1'
    return bool(connection.execute(query, (group,)).fetchall())


def send(
    connection: sqlite3.Connection, message: GroupMessage, capacity_of: Callable[[str], int]
) -> tuple[list[str], dict[str, float]]:
    """Insert one row for each inbox in the group, whatever the number of its members.

    Returns the inboxes that were written to; and those that had no room, and miss the message, each
    with the time at which the oldest message that waits in it was created.
    """
    written: list[str] = []
    full: list[str] = []
    values = {"group": message.group, "now": message.created_at, "after": None}
    connection.execute("begin immediate")  # no `sql.Transaction`: each call costs here
    while found := connection.execute(_NEXT_RECIPIENT, values).fetchall():
        ((values["after"], inbox, waiting),) = found
        if REPLACED not in inbox:
            (written if waiting < capacity_of(inbox) else full).append(inbox)
    connection.executemany(_SEND, [(inbox, *message) for inbox in written])
    oldest = {inbox: _oldest(connection, inbox, message.created_at) for inbox in full}
    connection.execute("commit")
    return written, oldest


def _oldest(connection: sqlite3.Connection, inbox: str, now: float) -> float:
    """When the oldest message that waits in an inbox was created; `now` where none does."""
    found = connection.execute(
        f"select {TIME.format('created_at')} from {MESSAGE} indexed by {WAITING}"
        " where inbox = ? and delivered_at is null and expires_at > ? order by id limit 1",
        (inbox, now),
    ).fetchall()
    return float(found[0][0]) if found else now


# Joining and leaving

_NEWEST = f"coalesce((select max(id) from {MESSAGE}), 0)"


def add(
    connection: sqlite3.Connection,
    group: str,
    inbox: str,
    channel: str,
    now: float,
    lasts: float,
) -> None:
    """Join, or stay a member for longer; a member gets the messages that come after it joined."""
    expires_at = now + lasts
    connection.execute(
        f"""
        insert into {MEMBERSHIP} ("group", inbox, channel, expires_at, joined_after)
        values (:group, :inbox, :channel, :expires_at, {_NEWEST})
        on conflict (channel, "group") where left_after is null do update
        set inbox = excluded.inbox,
            joined_after =
                case when {CURRENT} then joined_after else excluded.joined_after end,
            expires_at = excluded.expires_at
        """,
        {"group": group, "inbox": inbox, "channel": channel, "now": now, "expires_at": expires_at},
    )


def discard(connection: sqlite3.Connection, group: str, channel: str) -> None:
    """Leave. A message that was sent before still arrives, so a member in whose inbox something
    waits only notes the newest message's id, and goes when its reader is past that.
    """
    member = 'channel = ? and "group" = ? and left_after is null'
    gone = connection.execute(
        f"""
        delete from {MEMBERSHIP} indexed by {MEMBER}
        where {member} and not (substr(inbox, -1) = '!' and exists (
            select 1 from {MESSAGE} as waiting indexed by {WAITING}
            where waiting.inbox = {MEMBERSHIP}.inbox and waiting.delivered_at is null
        ))
        """,
        (channel, group),
    ).rowcount
    if not gone:
        connection.execute(
            f"update {MEMBERSHIP} indexed by {MEMBER} set left_after = {_NEWEST} where {member}",
            (channel, group),
        )


_MEMBERS = f"""
    from {MEMBERSHIP} indexed by {MEMBER_READS} where "group" = :group and {CURRENT}
"""


def channels(connection: sqlite3.Connection, group: str, now: float) -> list[str]:
    values = {"group": group, "now": now}
    found = connection.execute(f"select channel {_MEMBERS} order by channel", values).fetchall()
    return [channel for (channel,) in found]


def count(connection: sqlite3.Connection, group: str, now: float) -> int:
    """How many channels are in a group."""
    values = {"group": group, "now": now}
    ((members,),) = connection.execute(f"select count(*) {_MEMBERS}", values).fetchall()
    return int(members)


# A reader's own memberships, whoever has added them: its inboxes are named after it.


_LAPSED = f"""
    from {MEMBERSHIP} indexed by {MEMBER_EXPIRES} where expires_at <= ? and {CLIENT} = ?
"""


def has_lapsed(connection: sqlite3.Connection, client: str, now: float) -> bool:
    """Return True if memberships of a reader have lapsed by its own clock."""
    return bool(connection.execute(f"select 1 {_LAPSED} limit 1", (now, client)).fetchall())


def end_lapsed(connection: sqlite3.Connection, client: str, now: float) -> None:
    """Delete those, unless they were renewed meanwhile: one statement looks and deletes."""
    connection.execute(f"delete {_LAPSED}", (now, client))


def shift_expiry(connection: sqlite3.Connection, client: str, by: float) -> None:
    """The wall clock was set: a reader's memberships lapse so many seconds later, or sooner."""
    connection.execute(
        f"update {MEMBERSHIP} set expires_at = expires_at + ? where {CLIENT} = ?",
        (by, client),
    )
