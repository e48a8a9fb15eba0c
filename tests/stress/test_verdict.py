"""The verdict catches what it is for: forged histories, each with one thing wrong."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from stress import ledger
from stress.ledger import ACCEPTED, DROPPED, EXPIRED, FAILED, JUMPED, KILLED, REFUSED, SENT, Entry
from stress.verdict import ZERO, check


class Forger:
    """Writes a history entry by entry; the clock ticks once for each."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.now = 0

    def __call__(self, kind: str, who: str = "p", **fields: Any) -> Forger:
        self.entries.append(Entry(kind, self.now, who, **fields))
        self.now += 1
        return self

    def begins(self, number: int, to: str = "c", kind: str = SENT, **more: str) -> Forger:
        """A send of which nobody knows how it ended, unless that follows."""
        channel = "" if to == "group" else to
        named = {"sender": "s", "channel": channel, **more}
        return self(kind, number=number, target=to, **named)

    def sent(self, *numbers: int, to: str = "c", outcome: str = ACCEPTED, **more: str) -> Forger:
        for number in numbers:
            self.begins(number, to, **more).begins(number, to, outcome, **more)
        return self

    def waits(self, seconds: float) -> Forger:
        """Nothing happens for so long."""
        self.now += int(seconds * 1e9)
        return self

    def received(self, *numbers: int, on: str = "c", of: str = "", **more: str) -> Forger:
        for number in numbers:
            self.begins(number, of or on, ledger.RECEIVED, channel=on, **more)
        return self

    def tells(self, *numbers: int, **more: str) -> Forger:
        """Messages to the group."""
        return self.sent(*numbers, to="group", **more)

    def hears(self, channel: str, *numbers: int) -> Forger:
        """A member receives them."""
        return self.received(*numbers, on=channel, of="group")

    def listens(self, *channels: str, who: str = "p") -> Forger:
        for channel in channels or ["c"]:
            self(ledger.LISTENING, who, channel=channel)
        return self

    def joins(self, *channels: str, who: str = "p") -> Forger:
        for channel in channels:
            self.listens(channel, who=who)
            self.member(ledger.JOINING, channel).member(ledger.JOINED, channel)
        return self

    def leaves(self, channel: str) -> Forger:
        return self.member(ledger.LEAVING, channel).member(ledger.LEFT, channel)

    def member(self, kind: str, channel: str) -> Forger:
        return self(kind, target="group", channel=channel)


def listens(*channels: str, who: str = "p") -> Forger:
    return Forger().listens(*channels, who=who)


def joins(*channels: str, who: str = "p") -> Forger:
    return Forger().joins(*channels, who=who)


def members_of_one_process() -> Forger:
    """One message to a group of three channels of process p, sent by process w."""
    return joins("a", "b", "c").tells(0, who="w")


def fault_during_the_second_of_three() -> Forger:
    history = listens().sent(0, 1, 2)
    _, _, _, begin, end, *_ = (entry.at for entry in history.entries)
    history.entries.append(Entry(ledger.FAULT, begin, "lab", number=end, target="file deleted"))
    return history


# The verdict on each: all that must be zero and is not, and whatever else is named.
HISTORIES: dict[str, tuple[Forger, dict[str, Any]]] = {
    "nothing": (Forger(), {"sent": 0, "examples": []}),
    "all in order": (
        listens().sent(*range(10)).received(*range(10)),
        {"sent": 10, "accepted": 10, "owed": 10, "received": 10, "examples": []},
    ),
    "lost": (listens().sent(0, 1, 2).received(0, 2), {"lost": 1, "examples": ["lost: s#1 to c"]}),
    "misordered": (
        listens().sent(0, 1).received(1, 0),
        {"misordered": 1, "examples": ["misordered: s#0 to c after #1"]},
    ),
    "received twice": (listens().sent(0).received(0, 0), {"doubled": 1}),
    # A double is old by then, and known: it is not out of order as well.
    "several things": (
        listens().sent(*range(9)).received(0, 2, 3, 6, 7, 8, 2, 6, 10),
        {"lost": 3, "doubled": 2, "invented": 1},
    ),
    "refused, and arrived": (listens().sent(0, outcome=REFUSED).received(0), {"invented": 1}),
    "on the wrong channel": (
        listens("c", "d").sent(0).received(0, on="d", of="c"),
        {"invented": 1, "lost": 1},
    ),
    "to who joined later": (Forger().tells(0).joins("a").hears("a", 0), {"invented": 1}),
    "two readers of a channel share no order": (
        listens().listens(who="q").sent(0, 1, 2).received(2, 0).received(1, who="q"),
        {},
    ),
    "refused, failed and unfinished sends are owed to nobody": (
        listens().sent(0, outcome=REFUSED).sent(1, outcome=FAILED).begins(2),
        {"refused": 1, "failed": 1, "unknown": 1, "owed": 0},
    ),
    "who left and came back is owed only what was sent while it was there": (
        joins("a").tells(0).leaves("a").tells(1).joins("a").tells(2).hears("a", 0, 2),
        {"owed": 2},
    ),
    "one more than the layer has counted": (
        listens().sent(0, 1, 2)(DROPPED, number=1)(EXPIRED, number=1),
        {"lost": 1},
    ),
    "a drop of what arrived after all": (
        listens().sent(0).received(0)(DROPPED, number=1),
        {"overcounted": 1, "examples": ["overcounted: 1 counted, 0 missing at most"]},
    ),
    "a full inbox is one drop of the sender for all its members": (
        members_of_one_process()(DROPPED, "w", number=1),
        {},
    ),
    "a full inbox does not explain what one of its members misses": (
        members_of_one_process().hears("a", 0).hears("b", 0)(DROPPED, "w", number=1),
        {"lost": 1},
    ),
    **{
        f"a full buffer is a drop for each of three channels, of which {count} are counted": (
            members_of_one_process()(DROPPED, "p", number=count),
            {"lost": max(0, 3 - count), "overcounted": max(0, count - 3)},
        )
        for count in range(5)
    },
    "drops of a process that sends and reads may be of inboxes or buffers": (
        joins("a", "b", "c").tells(0)(DROPPED, "p", number=2),
        {},
    ),
    "what a killed process was owed": (
        listens(who="victim").sent(0)(KILLED, "victim"),
        {"excused": 1, "excuses": ["s#0 to c: victim was killed"]},
    ),
    "what is sent to the dead is owed to nobody": (
        joins("a", who="victim")
        .joins("b")(KILLED, "victim")
        .sent(0, to="a")
        .tells(1)
        .hears("b", 1),
        {"owed": 1, "excused": 0},
    ),
    "due for long when its reader was killed": (
        listens(who="victim").sent(0).waits(60).sent(1)(KILLED, "victim"),
        {"lost": 1},
    ),
    "of a shared channel a killed reader excuses only what it held": (
        listens(who="victim").listens(who="survivor").sent(0, 1)(KILLED, "victim", number=1),
        {"excused": 1, "lost": 1},
    ),
    "the clock was set forward": (
        listens().sent(0).waits(60).sent(1)(JUMPED, "lab").sent(2),
        {
            "expired": 1,
            "lost": 2,
            "excuses": ["s#1 to c: the clock was set forward"],
            "examples": ["lost: s#0 to c", "lost: s#2 to c"],
        },
    ),
    "what the layer has counted of a jump is not counted twice": (
        listens().sent(0, 1)(JUMPED, "lab")(EXPIRED, number=1),
        {"expired": 2},
    ),
    "who goes away is excused what had just come and nothing older": (
        listens().sent(0, 1, 2)(ledger.GONE, number=2, channel="c"),
        {"excused": 1, "lost": 2, "excuses": ["s#2 to c: its reader had just gone"]},
    ),
    "a fault excuses what was sent during it": (
        fault_during_the_second_of_three(),
        {"excused": 1, "lost": 2, "excuses": ["s#1 to c: file deleted"]},
    ),
}


@pytest.mark.parametrize(("history", "says"), HISTORIES.values(), ids=HISTORIES)
def test_what_is_wrong_is_caught_and_nothing_else(history: Forger, says: dict[str, Any]) -> None:
    verdict = check(history.entries)
    expected = dict.fromkeys(ZERO, 0) | says
    assert {name: asdict(verdict)[name] for name in expected} == expected
    assert verdict.broken == any(expected[name] for name in ZERO)


def test_a_layer_that_does_not_count_its_drops_is_let_off_where_the_caller_says_so() -> None:
    verdict = check(listens().sent(0, 1).received(1).entries, counts_drops=False)
    assert not verdict.broken
    assert verdict.dropped == 1


def test_a_history_that_sends_one_number_twice_is_the_harnesss_own_mistake() -> None:
    with pytest.raises(ValueError, match="twice"):
        check(Forger().sent(0, 0).entries)


def test_verdicts_add_up() -> None:
    one = check(listens().sent(0).entries)
    total = one + one
    assert (total.sent, total.lost, len(total.examples)) == (2, 2, 2)
