"""The verdict catches what it is for: forged histories, each with one thing wrong."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest

from stress import ledger
from stress.ledger import Entry
from stress.verdict import ZERO, Verdict, check


class Forger:
    """Writes a history entry by entry; the clock ticks once for each."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.now = 0

    def __call__(self, kind: str, who: str = "p", **fields: object) -> Forger:
        self.entries.append(Entry(kind, self.now, who, **fields))  # type: ignore[arg-type]
        self.now += 1
        return self

    def sent(self, number: int, target: str = "c", **more: str) -> Forger:
        named = {"sender": more.get("sender", "s"), "number": number, "target": target}
        channel = "" if target.startswith("group") else target
        for kind in (ledger.SENT, more.get("outcome", ledger.ACCEPTED)):
            self(kind, more.get("who", "p"), **named, channel=channel)
        return self

    def waits(self, seconds: float) -> Forger:
        """Nothing happens for so long."""
        self.now += int(seconds * 1e9)
        return self

    def received(
        self, number: int, channel: str = "c", target: str = "", who: str = "p", sender: str = "s"
    ) -> Forger:
        named = {"sender": sender, "number": number, "target": target or channel}
        return self(ledger.RECEIVED, who, **named, channel=channel)

    def listens(self, channel: str = "c", who: str = "p") -> Forger:
        return self(ledger.LISTENING, who, channel=channel)

    def joins(self, channel: str, group: str = "group", who: str = "p") -> Forger:
        self.listens(channel, who)
        self(ledger.JOINING, target=group, channel=channel)
        return self(ledger.JOINED, target=group, channel=channel)

    def leaves(self, channel: str, group: str = "group") -> Forger:
        self(ledger.LEAVING, target=group, channel=channel)
        return self(ledger.LEFT, target=group, channel=channel)


def troubles(verdict: Verdict) -> dict[str, int]:
    return {kind: getattr(verdict, kind) for kind in ZERO if getattr(verdict, kind)}


def members_of_one_process() -> Forger:
    """One message to a group of three channels of process p, sent by process w."""
    return Forger().joins("a").joins("b").joins("c").sent(0, "group", who="w")


HISTORIES = {
    "to nobody": (Forger().sent(0), {"lost": 1}),
    "received twice": (Forger().listens().sent(0).received(0).received(0), {"doubled": 1}),
    "received by two that compete": (
        Forger().listens(who="p").listens(who="q").sent(0).received(0).received(0, who="q"),
        {"doubled": 1},
    ),
    "received twice by a member": (
        Forger().joins("a").sent(0, "group").received(0, "a", "group").received(0, "a", "group"),
        {"doubled": 1},
    ),
    "never sent": (Forger().listens().received(0), {"invented": 1}),
    "another number": (Forger().listens().sent(0).received(0).received(1), {"invented": 1}),
    "refused": (Forger().listens().sent(0, outcome=ledger.REFUSED).received(0), {"invented": 1}),
    "on the wrong channel": (
        Forger().listens("c").listens("d").sent(0, "c").received(0, "d", "c"),
        {"invented": 1, "lost": 1},
    ),
    "to who joined later": (
        Forger().sent(0, "group").joins("a").received(0, "a", "group"),
        {"invented": 1},
    ),
    "to who had left": (
        Forger().joins("a").leaves("a").sent(0, "group").received(0, "a", "group"),
        {"invented": 1},
    ),
    "two readers of a channel share no order": (
        Forger()
        .listens()
        .listens(who="q")
        .sent(0)
        .sent(1)
        .sent(2)
        .received(2)
        .received(0)
        .received(1, who="q"),
        {},
    ),
    "two senders share no order": (
        Forger().listens().sent(5).sent(1, sender="t").received(1, sender="t").received(5),
        {},
    ),
    "failed, and arrived": (Forger().listens().sent(0, outcome=ledger.FAILED).received(0), {}),
    "one more than the layer has counted": (
        Forger()
        .listens()
        .sent(0)
        .sent(1)
        .sent(2)(ledger.DROPPED, number=1)(ledger.EXPIRED, number=1),
        {"lost": 1},
    ),
    "a drop of what failed": (
        Forger().listens().sent(0, outcome=ledger.FAILED)(ledger.DROPPED, number=1),
        {},
    ),
    "a drop of what has no outcome": (
        Forger()
        .listens()
        .sent(0, outcome=ledger.FAILED)(
            ledger.SENT, "p", sender="s", number=1, target="c", channel="c"
        )(ledger.DROPPED, number=2),
        {},
    ),
    "due for long when its reader was killed": (
        Forger().listens(who="victim").sent(0).waits(60).sent(1)(ledger.KILLED, "victim"),
        {"lost": 1},
    ),
    "another one was killed": (
        Forger().listens(who="survivor").sent(0)(ledger.KILLED, "victim", number=9),
        {"lost": 1},
    ),
    "a full inbox that nobody has counted": (members_of_one_process(), {"lost": 3}),
    "a full inbox is one drop of the sender for all its members": (
        members_of_one_process()(ledger.DROPPED, "w", number=1),
        {},
    ),
    "a full inbox does not explain what one of its members misses": (
        members_of_one_process()
        .received(0, "a", "group")
        .received(0, "b", "group")(ledger.DROPPED, "w", number=1),
        {"lost": 1},
    ),
}


@pytest.mark.parametrize(("history", "found"), HISTORIES.values(), ids=HISTORIES)
def test_what_is_wrong_is_caught_and_nothing_else(history: Forger, found: dict[str, int]) -> None:
    assert troubles(check(history.entries)) == found


def test_a_clean_history_has_no_trouble() -> None:
    history = Forger().listens()
    for number in range(10):
        history.sent(number)
    for number in range(10):
        history.received(number)
    verdict = check(history.entries)
    assert not verdict.broken
    assert (verdict.sent, verdict.accepted, verdict.owed, verdict.received) == (10, 10, 10, 10)
    assert verdict.examples == []


def test_an_empty_history_is_clean() -> None:
    assert asdict(check([])) == asdict(Verdict())


def test_a_lost_message_is_caught_and_named() -> None:
    history = Forger().listens().sent(0).sent(1).sent(2).received(0).received(2)
    verdict = check(history.entries)
    assert troubles(verdict) == {"lost": 1}
    assert verdict.broken
    assert verdict.examples == ["lost: s#1 to c"]


def test_a_misordered_message_is_caught() -> None:
    history = Forger().listens().sent(0).sent(1).received(1).received(0)
    verdict = check(history.entries)
    assert troubles(verdict) == {"misordered": 1}
    assert verdict.examples == ["misordered: s#0 to c after #1"]


def test_refused_failed_and_unfinished_sends_are_owed_to_nobody() -> None:
    history = Forger().listens().sent(0, outcome=ledger.REFUSED).sent(1, outcome=ledger.FAILED)
    history(ledger.SENT, sender="s", number=2, target="c", channel="c")
    verdict = check(history.entries)
    assert not verdict.broken
    assert (verdict.refused, verdict.failed, verdict.unknown, verdict.owed) == (1, 1, 1, 0)


def test_every_member_of_a_group_is_owed_its_copy() -> None:
    history = Forger().joins("a").joins("b").sent(0, "group").received(0, "a", target="group")
    verdict = check(history.entries)
    assert troubles(verdict) == {"lost": 1}
    assert verdict.owed == 2
    assert verdict.examples == ["lost: s#0 to group on b"]


def test_who_joins_or_leaves_during_the_send_may_get_it_or_not() -> None:
    for received in (False, True):
        history = Forger().joins("a")
        history(ledger.JOINING, target="group", channel="b")
        history(ledger.SENT, sender="s", number=0, target="group")
        history(ledger.JOINED, target="group", channel="b").leaves("a")
        history(ledger.ACCEPTED, sender="s", number=0, target="group")
        if received:
            history.received(0, "a", target="group").received(0, "b", target="group")
        assert not check(history.entries).broken


def test_who_left_and_came_back_is_owed_only_what_was_sent_while_it_was_there() -> None:
    history = Forger().joins("a").sent(0, "group").leaves("a").sent(1, "group").joins("a")
    history.sent(2, "group").received(0, "a", target="group").received(2, "a", target="group")
    verdict = check(history.entries)
    assert not verdict.broken
    assert verdict.owed == 2


def test_a_full_buffer_is_a_drop_of_the_reader_for_each_channel() -> None:
    for drops in range(5):
        verdict = check(members_of_one_process()(ledger.DROPPED, "p", number=drops).entries)
        assert (verdict.lost, verdict.overcounted) == (max(0, 3 - drops), max(0, drops - 3))


def test_full_inboxes_and_full_buffers_add_up() -> None:
    history = Forger().joins("a").joins("b").joins("c")
    for number in range(3):
        history.sent(number, "group", who="w")
    history.received(1, "a", target="group")  # of 0 nothing arrived, of 2 nothing either
    history(ledger.DROPPED, "w", number=1)(ledger.DROPPED, "p", number=5)
    assert not check(history.entries).broken
    history.entries[-1] = history.entries[-1]._replace(number=4)
    assert troubles(check(history.entries)) == {"lost": 1}


def test_what_expired_is_counted_for_each_channel() -> None:
    for expired in range(5):
        verdict = check(members_of_one_process()(ledger.EXPIRED, "p", number=expired).entries)
        assert (verdict.lost, verdict.overcounted) == (max(0, 3 - expired), max(0, expired - 3))


def test_what_a_process_dropped_that_sends_and_reads_may_be_inboxes_or_buffers() -> None:
    for drops in (1, 2, 3):
        history = Forger().joins("a").joins("b").joins("c").sent(0, "group")
        assert not check(history(ledger.DROPPED, "p", number=drops).entries).broken


def test_a_drop_of_what_arrived_after_all_is_overcounted() -> None:
    history = Forger().listens().sent(0).received(0)(ledger.DROPPED, number=1)
    verdict = check(history.entries)
    assert troubles(verdict) == {"overcounted": 1}
    assert verdict.examples == ["overcounted: 1 counted, 0 missing at most"]


def test_a_layer_that_does_not_count_its_drops_is_let_off_where_the_caller_says_so() -> None:
    history = Forger().listens().sent(0).sent(1).received(1)
    verdict = check(history.entries, counts_drops=False)
    assert not verdict.broken
    assert verdict.dropped == 1


def test_what_a_killed_process_was_owed_is_excused_and_named() -> None:
    history = Forger().listens(who="victim").sent(0)(ledger.KILLED, "victim")
    verdict = check(history.entries)
    assert not verdict.broken
    assert verdict.excused == 1
    assert verdict.excuses == ["s#0 to c: victim was killed"]


def test_what_is_sent_to_the_dead_is_owed_to_nobody() -> None:
    history = Forger().joins("a", who="victim").joins("b")(ledger.KILLED, "victim")
    history.sent(0, "a").sent(1, "group").received(1, "b", target="group")
    verdict = check(history.entries)
    assert not verdict.broken
    assert (verdict.owed, verdict.excused) == (1, 0)


def test_what_was_under_way_when_the_clock_was_set_forward_has_expired_and_is_named() -> None:
    history = Forger().listens().sent(0).waits(60).sent(1)(ledger.JUMPED, "lab").sent(2)
    verdict = check(history.entries)
    assert (verdict.expired, verdict.lost) == (1, 2)
    assert verdict.excuses == ["s#1 to c: the clock was set forward"]
    assert verdict.examples == ["lost: s#0 to c", "lost: s#2 to c"]


def test_what_the_layer_has_counted_of_a_jump_is_not_counted_twice() -> None:
    history = Forger().listens().sent(0).sent(1)(ledger.JUMPED, "lab")(ledger.EXPIRED, number=1)
    verdict = check(history.entries)
    assert (verdict.expired, verdict.broken) == (2, False)


def test_of_a_shared_channel_a_killed_reader_excuses_only_what_it_held() -> None:
    history = Forger().listens(who="victim").listens(who="survivor").sent(0).sent(1)
    history(ledger.KILLED, "victim", number=1)
    verdict = check(history.entries)
    assert (verdict.excused, verdict.lost) == (1, 1)


def test_who_goes_away_is_excused_what_had_just_come_and_nothing_older() -> None:
    history = Forger().listens().sent(0).sent(1).sent(2)
    accepted = history.entries[-1].at
    history.entries.append(
        Entry(ledger.GONE, accepted + 1, "p", number=2, channel="c")  # the last send, not the first
    )
    verdict = check(history.entries)
    assert (verdict.excused, verdict.lost) == (1, 2)
    assert verdict.excuses == ["s#2 to c: its reader had just gone"]


def test_a_fault_excuses_what_was_sent_during_it_and_nothing_else() -> None:
    history = Forger().listens().sent(0).sent(1).sent(2)
    begin, end = history.entries[3].at, history.entries[4].at  # around the second send
    history.entries.append(Entry(ledger.FAULT, begin, "lab", number=end, target="file deleted"))
    verdict = check(history.entries)
    assert (verdict.excused, verdict.lost) == (1, 2)
    assert verdict.excuses == ["s#1 to c: file deleted"]


def test_a_history_that_sends_one_number_twice_is_the_harnesss_own_mistake() -> None:
    with pytest.raises(ValueError, match="twice"):
        check(Forger().sent(0).sent(0).entries)


def test_verdicts_add_up() -> None:
    one = check(Forger().listens().sent(0).entries)
    total = one + one
    assert (total.sent, total.lost, len(total.examples)) == (2, 2, 2)


def test_in_a_long_history_each_forgery_is_found_once() -> None:
    """500 messages, a handful of forgeries at random places: the counts are exact."""
    history = Forger().listens()
    for number in range(500):
        history.sent(number)
    arrivals = list(range(500))
    for number in random.sample(arrivals[10:490:4], 5):
        arrivals.remove(number)
    arrivals += random.sample(
        arrivals, 7
    )  # at the end, where it is old and known: doubled, not misordered
    for number in arrivals:
        history.received(number)
    for number in range(900, 903):
        history.received(number)
    assert troubles(check(history.entries)) == {"lost": 5, "doubled": 7, "invented": 3}
