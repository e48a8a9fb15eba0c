"""The verdict on a ledger: what was lost, doubled, misordered or invented. One pure function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from stress.history import History, Key
from stress.ledger import ACCEPTED, DROPPED, EXPIRED, FAILED, REFUSED, Entry

SHOWN = 5  # examples kept of each kind of trouble
ZERO = ("lost", "doubled", "misordered", "invented", "overcounted")


@dataclass
class Verdict:
    """Counts of a history. The counts of `ZERO` must be zero."""

    sent: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    unknown: int = 0  # the sender ended before it knew
    owed: int = 0  # deliveries promised by the accepted messages
    received: int = 0
    dropped: int = 0
    expired: int = 0
    excused: int = 0  # in the hands of a killed process, or in a fault of our making
    lost: int = 0
    doubled: int = 0
    misordered: int = 0
    invented: int = 0
    overcounted: int = 0  # called dropped or expired by the layer, and missing nowhere
    examples: list[str] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        return any(getattr(self, name) for name in ZERO)

    def __str__(self) -> str:
        counts = (f"{getattr(self, name):,} {name}" for name in ("accepted", "received", *ZERO))
        return ", ".join(counts)

    def __add__(self, other: Verdict) -> Verdict:
        mine, theirs = asdict(self), asdict(other)
        return Verdict(**{name: mine[name] + theirs[name] for name in mine})


Delivery = tuple[Key, str]  # of a message, to a channel
Delivered = set[Delivery]


def check(entries: Iterable[Entry], *, counts_drops: bool = True) -> Verdict:
    """Judge a history.

    If a layer counts its drops (`counts_drops`), its count has to be right: a delivery that is
    missing and not in the count is lost, one in the count and missing nowhere is overcounted. If
    the caller says so, a layer may drop without counting. Its missing deliveries are then called
    dropped.

    Order is judged between one sender and one reader of one channel. Competing readers of a
    channel have no order to judge.
    """
    history = History(entries)
    verdict = Verdict(sent=len(history.messages))
    verdict.dropped = sum(history.counted[DROPPED].values())
    verdict.expired = sum(history.counted[EXPIRED].values())
    outcomes = Counter(message.outcome for message in history.messages.values())
    verdict.accepted = outcomes[ACCEPTED]
    verdict.refused = outcomes[REFUSED]
    verdict.failed = outcomes[FAILED]
    verdict.unknown = outcomes[""]

    delivered = _judge_receipts(history, verdict)
    missing = _missing(history, delivered, verdict)
    if counts_drops:
        _judge_missing(history, delivered, missing, verdict)
    else:
        verdict.dropped = len(missing)
    return verdict


def _judge_receipts(history: History, verdict: Verdict) -> Delivered:
    delivered: Delivered = set()
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


def _missing(history: History, delivered: Delivered, verdict: Verdict) -> list[Delivery]:
    """The deliveries that were owed, did not come, and are not the harness's fault."""
    missing = []
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
                missing.append((key, channel))
    return missing


def _judge_missing(
    history: History, delivered: Delivered, missing: list[Delivery], verdict: Verdict
) -> None:
    """Compare the missing deliveries with the layer's counts."""
    early: list[str] = []
    others: list[str] = []
    for key, channel in missing:
        overtaken = history.overtaken(history.messages[key])
        (early if overtaken else others).append(history.name(key, channel))
    verdict.excuses += [f"{name}: the clock was set forward" for name in early]
    unexplained = _unexplained(history, delivered, missing)
    expired = min(unexplained, len(early))
    verdict.expired += expired
    verdict.lost = unexplained - expired
    if verdict.lost:
        for number, name in enumerate(others, start=1):
            _example(verdict, "lost", number, name)
    counted = sum(count.total() for count in history.counted.values())
    if counted:
        absent = sum(delivery not in delivered for delivery in history.possible())
        verdict.overcounted = max(0, counted - absent)
        if verdict.overcounted:
            text = f"{counted} counted, {absent} missing at most"
            _example(verdict, "overcounted", 1, text)


def _unexplained(history: History, delivered: Delivered, missing: list[Delivery]) -> int:
    """The number of deliveries that the layer's counts leave unexplained, read in its favour.

    The layer counts deliveries. But it counts a group's message without room in an inbox once, in
    the sending process, whatever the number of members there. If a process reads, and also sends
    to groups, its drops may be either.
    """
    dropped = history.counted[DROPPED]
    readers = set().union(*history.readers.values())
    inboxes = sum(n for who, n in dropped.items() if who not in readers)
    either = sum(n for who, n in dropped.items() if who in readers & history.group_senders)
    single = dropped.total() - inboxes - either + history.counted[EXPIRED].total()

    # Each reading process's misses of a message: none of its channels has it, or some have.
    misses = Counter((key, history.reader(channel)) for key, channel in missing)
    some = {(key, history.reader(channel)) for key, channel in delivered}
    whole = sorted(
        (n for miss, n in misses.items() if history.messages[miss[0]].group and miss not in some),
        reverse=True,
    )
    rest = misses.total() - sum(whole) + sum(whole[inboxes:][either:])
    either = max(0, either - len(whole[inboxes:]))
    return max(0, rest - either - single)


def _example(verdict: Verdict, kind: str, number: int, text: str) -> None:
    if number <= SHOWN:
        verdict.examples.append(f"{kind}: {text}")
