"""The ledger: what every process says it did, and one pure function that judges it.

Each child writes an entry before and after every send, at every receipt, and around every join
and leave. `check` reads them all and says what was lost, doubled, misordered or invented. It
knows no layer and no clock: a history is a list, and tests feed it forged ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

SENT = "sent"  # about to be sent
ACCEPTED = "accepted"  # send() returned
REFUSED = "refused"  # send() raised ChannelFull
FAILED = "failed"  # send() raised anything else: it may or may not arrive
RECEIVED = "received"
LISTENING = "listening"  # `who` reads `channel`
JOINING = "joining"  # about to call group_add
JOINED = "joined"  # group_add returned
LEAVING = "leaving"  # about to call group_discard
LEFT = "left"  # group_discard returned
DROPPED = "dropped"  # the layer's own count in `who`, as `number`
EXPIRED = "expired"  # likewise
GONE = "gone"  # `who` stopped reading `channel`; what came within `number` ns before is excused
KILLED = "killed"  # the harness killed `who`; it could hold `number` messages in its hands
FAULT = "fault"  # the harness broke `target` from `at` until `number`

SHOWN = 5  # examples kept of each kind of trouble


class Entry(NamedTuple):
    """One line of the ledger. A message is (sender, number, target); numbers rise per sender."""

    kind: str
    at: int  # time.monotonic_ns(), one clock for all processes of a machine
    who: str  # the process
    sender: str = ""
    number: int = 0
    target: str = ""  # a channel or a group
    channel: str = ""  # where it was read or joined; "" for a send to a group


@dataclass
class Verdict:
    """Counts of a history. `lost`, `doubled`, `misordered` and `invented` must be zero."""

    sent: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    unknown: int = 0  # the sender was gone before it knew
    owed: int = 0  # deliveries promised by the accepted messages
    received: int = 0
    dropped: int = 0
    expired: int = 0
    excused: int = 0  # in the hands of a killed process, or in a fault of our making
    lost: int = 0
    doubled: int = 0
    misordered: int = 0
    invented: int = 0
    examples: list[str] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        return bool(self.lost or self.doubled or self.misordered or self.invented)

    def __add__(self, other: Verdict) -> Verdict:
        mine, theirs = asdict(self), asdict(other)
        return Verdict(**{name: mine[name] + theirs[name] for name in mine})


@dataclass
class Message:
    sent_at: int
    group: bool
    target: str
    outcome: str = ""
    settled_at: int | None = None


@dataclass
class Membership:
    """From the first moment a channel may receive (joining) to the last (left)."""

    joining: int
    joined: int | None = None
    leaving: int | None = None
    left: int | None = None

    def owes(self, message: Message) -> bool:
        """Joined before the send began, and still a member when it returned."""
        assert message.settled_at is not None
        return (
            self.joined is not None
            and self.joined <= message.sent_at
            and (self.leaving is None or message.settled_at <= self.leaving)
        )

    def allows(self, message: Message) -> bool:
        """A member at some moment between the send's beginning and its end."""
        return (self.left is None or message.sent_at <= self.left) and (
            message.settled_at is None or self.joining <= message.settled_at
        )


Key = tuple[str, int, str]


class History:
    """The entries, indexed: what `check` asks questions of."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.messages: dict[Key, Message] = {}
        self.receipts: list[tuple[Key, str, str]] = []  # message, channel, reader; in order
        self.readers: defaultdict[str, set[str]] = defaultdict(set)
        self.memberships: dict[tuple[str, str], list[Membership]] = {}
        self.members: defaultdict[str, list[str]] = defaultdict(list)
        self.killed: dict[str, int] = {}
        self.gone: dict[str, int] = {}  # channel -> from when on its messages may be unread
        self.faults: list[tuple[int, int, str]] = []
        self.counted: Counter[str] = Counter()
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
            self.counted[kind] += entry.number
        elif kind == LISTENING:
            self.readers[entry.channel].add(entry.who)
        elif kind == GONE:
            self.gone[entry.channel] = entry.at - entry.number
        elif kind == KILLED:
            self.killed[entry.who] = entry.number
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

    def owed(self, message: Message) -> Iterator[str]:
        """The channels that an accepted message must reach."""
        if not message.group:
            yield message.target
            return
        for channel in self.members[message.target]:
            if any(span.owes(message) for span in self.memberships[message.target, channel]):
                yield channel

    def stranger(self, key: Key, channel: str) -> str:
        """Why this receipt is an invention, or ""."""
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
        """What the harness did that explains a missing delivery, or ""."""
        readers = self.readers[channel]
        for who in sorted(readers & self.killed.keys()):
            # A killed process's own channels died with it. Of a channel that others read too, it
            # took no more than what it held in its hands.
            if len(readers) == 1:
                return f"{who} was killed"
            if hands[who] > 0:
                hands[who] -= 1
                return f"{who} was killed with it in its hands"
        assert message.settled_at is not None
        if message.settled_at >= self.gone.get(channel, message.settled_at + 1):
            return "its reader had just gone"
        for begin, end, what in self.faults:
            if message.sent_at <= end and message.settled_at >= begin:
                return what
        return ""


def check(entries: Iterable[Entry], *, counts_drops: bool = True) -> Verdict:
    """Judge a history.

    A layer that counts its drops (`counts_drops`) is held to its word: what is missing and not in
    the count is lost. A layer that drops without counting is allowed to where the caller says so,
    and its missing deliveries are called dropped.

    Order is judged between one sender and one reader of one channel; between competing readers of
    a channel there is none to judge.
    """
    history = History(entries)
    verdict = Verdict(sent=len(history.messages))
    verdict.dropped = history.counted[DROPPED]
    verdict.expired = history.counted[EXPIRED]
    outcomes = Counter(message.outcome for message in history.messages.values())
    verdict.accepted = outcomes[ACCEPTED]
    verdict.refused = outcomes[REFUSED]
    verdict.failed = outcomes[FAILED]
    verdict.unknown = outcomes[""]

    delivered = _judge_receipts(history, verdict)
    _judge_missing(history, delivered, verdict, counts_drops=counts_drops)
    return verdict


def _judge_receipts(history: History, verdict: Verdict) -> set[tuple[Key, str]]:
    delivered: set[tuple[Key, str]] = set()
    newest: dict[tuple[str, str, str, str], int] = {}
    for key, channel, who in history.receipts:
        verdict.received += 1
        sender, number, target = key
        if why := history.stranger(key, channel):
            verdict.invented += 1
            _example(verdict, "invented", verdict.invented, f"{sender}#{number} to {target} {why}")
            continue
        if (key, channel) in delivered:
            verdict.doubled += 1
            _example(verdict, "doubled", verdict.doubled, history.name(key, channel))
            continue
        delivered.add((key, channel))
        if len(history.readers[channel]) > 1:
            continue
        stream = (who, channel, sender, target)
        if number < newest.get(stream, number):
            verdict.misordered += 1
            text = f"{history.name(key, channel)} after #{newest[stream]}"
            _example(verdict, "misordered", verdict.misordered, text)
        else:
            newest[stream] = number
    return delivered


def _judge_missing(
    history: History, delivered: set[tuple[Key, str]], verdict: Verdict, *, counts_drops: bool
) -> None:
    missing: list[str] = []
    hands = dict(history.killed)
    for key, message in history.messages.items():
        if message.outcome != ACCEPTED:
            continue
        for channel in history.owed(message):
            verdict.owed += 1
            if (key, channel) in delivered:
                continue
            if excuse := history.excuse(message, channel, hands):
                verdict.excused += 1
                verdict.excuses.append(f"{history.name(key, channel)}: {excuse}")
            else:
                missing.append(history.name(key, channel))
    if counts_drops:
        verdict.lost = max(0, len(missing) - verdict.dropped - verdict.expired)
    else:
        verdict.dropped = len(missing)
    if verdict.lost:
        for number, name in enumerate(missing, start=1):
            _example(verdict, "lost", number, name)


def _example(verdict: Verdict, kind: str, number: int, text: str) -> None:
    if number <= SHOWN:
        verdict.examples.append(f"{kind}: {text}")
