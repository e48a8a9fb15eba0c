"""The entries of a ledger, indexed for the questions of a verdict.

It knows no layer and no clock. A history is a list, and tests make up their own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stress.ledger import (
    ACCEPTED,
    DROPPED,
    EXPIRED,
    FAILED,
    FAULT,
    GONE,
    JOINED,
    JOINING,
    JUMPED,
    KILLED,
    LEAVING,
    LEFT,
    LISTENING,
    RECEIVED,
    REFUSED,
    SENT,
    Entry,
)

# Nanoseconds that a message may have been under way when its reader was killed, because the harness
# may have stopped or disturbed it before. If the clock was set forward: a heartbeat or two.
UNDER_WAY = 5 * 10**9
OVERTAKEN = 2 * 10**9


@dataclass
class Message:
    sent_at: int
    group: bool
    target: str
    outcome: str = ""
    settled_at: int | None = None


@dataclass
class Membership:
    """The time from the first moment a channel may receive (joining) to the last (left)."""

    joining: int
    joined: int | None = None
    leaving: int | None = None
    left: int | None = None

    def owes(self, message: Message) -> bool:
        """Return True for a member from before the send began until after it returned."""
        assert message.settled_at is not None
        return (
            self.joined is not None
            and self.joined <= message.sent_at
            and (self.leaving is None or message.settled_at <= self.leaving)
        )

    def allows(self, message: Message) -> bool:
        """Return True for a member at some moment between the send's beginning and its end."""
        return (self.left is None or message.sent_at <= self.left) and (
            message.settled_at is None or self.joining <= message.settled_at
        )


Key = tuple[str, int, str]


class History:
    """The entries, indexed for the questions of `check`."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.messages: dict[Key, Message] = {}
        self.receipts: list[tuple[Key, str, str]] = []  # message, channel, reader; in order
        self.readers: defaultdict[str, set[str]] = defaultdict(set)
        self.memberships: dict[tuple[str, str], list[Membership]] = {}
        self.members: defaultdict[str, list[str]] = defaultdict(list)
        self.killed: dict[str, int] = {}  # process -> messages it may have held in its hands
        self.died: dict[str, int] = {}
        self.jumps: list[int] = []
        self.group_senders: set[str] = set()
        self.gone: dict[str, int] = {}  # channel -> from when on its messages may be unread
        self.faults: list[tuple[int, int, str]] = []
        self.counted: dict[str, Counter[str]] = {DROPPED: Counter(), EXPIRED: Counter()}
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        kind = entry.kind
        if kind == RECEIVED:
            key = (entry.sender, entry.number, entry.target)
            self.receipts.append((key, entry.channel, entry.who))
        elif kind in (SENT, ACCEPTED, REFUSED, FAILED):
            self._add_send(entry)
        elif kind in (JOINING, JOINED, LEAVING, LEFT):
            self._add_membership(entry)
        elif kind in (DROPPED, EXPIRED):
            self.counted[kind][entry.who] += entry.number
        elif kind == LISTENING:
            self.readers[entry.channel].add(entry.who)
        elif kind == GONE:
            self.gone[entry.channel] = entry.at - entry.number
        elif kind == KILLED:
            self.killed[entry.who], self.died[entry.who] = entry.number, entry.at
        elif kind == JUMPED:
            self.jumps.append(entry.at)
        elif kind == FAULT:
            self.faults.append((entry.at, entry.number, entry.target))
        else:
            raise ValueError(f"no such kind of entry: {kind!r}")

    def _add_send(self, entry: Entry) -> None:
        key = (entry.sender, entry.number, entry.target)
        if entry.kind != SENT:
            message = self.messages[key]
            message.outcome, message.settled_at = entry.kind, entry.at
        elif key in self.messages:
            raise ValueError(f"the harness sent {key} twice: the ledger cannot judge that")
        else:
            self.messages[key] = Message(entry.at, not entry.channel, entry.target)
            if not entry.channel:
                self.group_senders.add(entry.who)

    def _add_membership(self, entry: Entry) -> None:
        spans = self.memberships.get((entry.target, entry.channel))
        if entry.kind == JOINING:
            if spans is None:
                spans = self.memberships[entry.target, entry.channel] = []
                self.members[entry.target].append(entry.channel)
            spans.append(Membership(entry.at))
        elif spans is None:
            raise ValueError(f"{entry.channel} is {entry.kind} {entry.target}, but never joined")
        else:
            setattr(spans[-1], entry.kind, entry.at)

    def name(self, key: Key, channel: str) -> str:
        sender, number, target = key
        return f"{sender}#{number} to {target}" + (f" on {channel}" if channel != target else "")

    def reader(self, channel: str) -> str:
        """The process that reads a channel; the channel itself if several compete, or none does."""
        readers = self.readers.get(channel, ())
        return next(iter(readers)) if len(readers) == 1 else channel

    def owed(self, message: Message) -> Iterator[str]:
        """The channels that an accepted message must reach: those that had not died before."""
        channels = [message.target]
        if message.group:
            channels = [
                channel
                for channel in self.members[message.target]
                if any(span.owes(message) for span in self.memberships[message.target, channel])
            ]
        for channel in channels:
            if message.sent_at <= self.died.get(self.reader(channel), message.sent_at):
                yield channel

    def possible(self) -> Iterator[tuple[Key, str]]:
        """Every delivery that any message may lead to, owed or not."""
        for key, message in self.messages.items():
            if message.outcome == REFUSED:
                continue
            if not message.group:
                yield key, message.target
                continue
            for channel in self.members[message.target]:
                if any(span.allows(message) for span in self.memberships[message.target, channel]):
                    yield key, channel

    def overtaken(self, message: Message) -> bool:
        """Return True if the clock was set forward while the message was under way."""
        assert message.settled_at is not None
        settled = message.settled_at
        return any(message.sent_at <= at and settled >= at - OVERTAKEN for at in self.jumps)

    def stranger(self, key: Key, channel: str) -> str:
        """Return why this receipt is an invention, or ""."""
        message = self.messages.get(key)
        if message is None:
            return "was never sent"
        if message.outcome == REFUSED:
            return "was refused"
        if not message.group:
            return "" if channel == message.target else f"arrived on {channel}"
        spans = self.memberships.get((message.target, channel), [])
        if any(span.allows(message) for span in spans):
            return ""
        return f"arrived on {channel}, no member while it was sent"

    def excuse(self, message: Message, channel: str, hands: dict[str, int]) -> str:
        """Return the harness's action that explains a missing delivery, or ""."""
        assert message.settled_at is not None
        readers = self.readers[channel]
        for who in sorted(readers & self.killed.keys()):
            if message.settled_at < self.died[who] - UNDER_WAY or message.sent_at > self.died[who]:
                continue
            # A killed process's own channels died with it. If others read a channel too, it took
            # only the messages that it held in its hands.
            if len(readers) == 1:
                return f"{who} was killed"
            if hands[who] > 0:
                hands[who] -= 1
                return f"{who} was killed with it in its hands"
        if message.settled_at >= self.gone.get(channel, message.settled_at + 1):
            return "its reader had just gone"
        for begin, end, what in self.faults:
            if message.sent_at <= end and message.settled_at >= begin:
                return what
        return ""
