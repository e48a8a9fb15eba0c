"""The pages, tables and lines that `manage.py channels_sqlite` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

from .._storing.messages import Row
from .._tools.doctor import Finding
from .._waking.bells import client_of
from .._waking.watchers import kinds
from ..exceptions import UndecodableMessage
from ..layers import SqliteChannelLayer
from ..serializers import Message
from ..stats import Group, Reader, Stats, Tally
from .formats import as_json, clock, duration, one_line, size, table

MOST = 20  # inboxes, and groups, that are shown one by one


def described(stats: Stats, readers: Sequence[Reader], layer: SqliteChannelLayer) -> list[str]:
    total, watcher = stats.total, layer.options.watcher
    here = f", which is {next(kinds())} here" if watcher == "auto" else ""
    waiting = "" if total.oldest is None else f" for up to {duration(total.oldest)}"
    processes = {each.client: f"process {each.pid}" for each in readers}
    return [
        f"File      {stats.path}",
        f"          {size(stats.size)}, of which {size(stats.free)} are free; "
        f"log {size(stats.wal_size)}; journal mode {stats.journal_mode}",
        f"Watcher   {watcher}{here}",
        f"Messages  {total.waiting} waiting{waiting}, {total.delivered} delivered, "
        f"{total.expired} expired",
        f"Groups    {groups_of(stats)}",
        f"Readers   {len(readers) or 'none'} alive",
        *readers_table(readers),
        *tallies("INBOX", stats.inboxes, reader=partial(_reader_of, processes=processes)),
        *tallies("GROUP", stats.groups),
    ]


def groups_of(stats: Stats) -> str:
    """How many groups have messages, and how many have members."""
    all_ = stats.groups.values()
    messages = sum(any((each.waiting, each.delivered, each.expired)) for each in all_)
    members = sum(each.members > 0 for each in all_)
    in_all = f" ({stats.total.members} in all)" if members else ""
    return f"{messages or 'none'} with messages, {members or 'none'} with members{in_all}"


def _reader_of(inbox: str, processes: Mapping[str, str]) -> str:
    """The process that a process-local inbox is of, by the clients of those that live."""
    is_local = inbox.endswith("!")
    return processes.get(client_of(inbox) or "", "gone") if is_local else "any process"


def readers_table(readers: Sequence[Reader]) -> list[str]:
    """The readers, with what they have counted."""
    counts = ("sent", "received", "expired", "dropped", "missed_wakes")
    names = (each.replace("_", " ") for each in counts)
    rows = [
        (
            *(f"process {each.pid}", each.watcher, duration(each.last_wake), each.channels),
            *(getattr(each.counters, name) for name in counts),
        )
        for each in readers
    ]
    header = ("READER", "watcher", "last wake", "channels", *names)
    return ["", *table(header, rows)] if rows else []


def tallies(title: str, all_: Mapping[str, Tally], **more: Callable[[str], str]) -> list[str]:
    """The busiest ones, one by one; `more` columns are made of their names."""
    header = (title, *more, "waiting", "oldest", "delivered", "last taken", "expired", "members")
    busiest = sorted(all_.items(), key=lambda item: (-item[1].waiting, -item[1].delivered))
    rows = [
        (
            *(name, *(of(name) for of in more.values()), each.waiting, duration(each.oldest)),
            *(each.delivered, duration(each.last_taken), each.expired, each.members),
        )
        for name, each in busiest[:MOST]
    ]
    omitted = [f"and {len(all_) - MOST} more (--json shows all)"] if len(all_) > MOST else []
    return ["", *table(header, rows), *omitted] if rows else []


def lapse(group: Group) -> str:
    return duration(group.lapses_in) if group.lapses_in > 0 else "lapsed"


def decoded(layer: SqliteChannelLayer, row: Row) -> tuple[Message | None, str | None]:
    """The message in a row, or why it cannot be read, or shown."""
    try:
        message = layer.codec.decode(row.body, row.channel or "", row.group)
        as_json(message)
    except UndecodableMessage as error:
        return None, str(error)
    except RecursionError:  # others may nest as deep as they like
        return None, "it is nested too deep"
    return message, None


def object_of(row: Row, message: Message | None, problem: str | None) -> str:
    shown = row._asdict()
    del shown["body"]
    return as_json({**shown, "message": message, "problem": problem}, indent=None)


def line_of(row: Row, message: Message | None, problem: str | None) -> str:
    address = row.channel or f"{row.group} (group)"
    content = (
        f"(cannot be read: {problem})"
        if problem
        else as_json(message, indent=None, ascii_only=False)
    )
    return f"{clock(row.created_at)}  {one_line(str(address))}  {one_line(content)}"


def delays(findings: Sequence[Finding]) -> list[str]:
    """How long messages took with each watcher, and what went wrong."""
    rows = []
    for each in findings:
        columns = ((median, each.first), (median, each.following), (max, each.all))
        delays = (f"{of(took) * 1000:.1f} ms" if took else "-" for of, took in columns)
        rows.append((each.watcher, *delays))
    problems = [f"{each.watcher}: {each.problem}" for each in findings if each.problem]
    return [*table(("WATCHER", "after a pause", "in conversation", "at most"), rows), *problems]
