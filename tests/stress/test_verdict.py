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

    def sent(
        self, number: int, target: str = "c", outcome: str = ledger.ACCEPTED, who: str = "p"
    ) -> Forger:
        channel = "" if target.startswith("group") else target
        for kind in (ledger.SENT, outcome):
            self(kind, who, sender="s", number=number, target=target, channel=channel)
        return self

    def waits(self, seconds: float) -> Forger:
        """Nothing happens for so long."""
        self.now += int(seconds * 1e9)
        return self

    def received(
        self, number: int, channel: str = "c", target: str | None = None, who: str = "p"
    ) -> Forger:
        return self(
            ledger.RECEIVED,
            who,
            sender="s",
            number=number,
            target=target or channel,
            channel=channel,
        )

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


def test_a_message_nobody_listens_for_is_lost_too() -> None:
    assert troubles(check(Forger().sent(0).entries)) == {"lost": 1}


def test_a_doubled_message_is_caught() -> None:
    history = Forger().listens().sent(0).received(0).received(0)
    assert troubles(check(history.entries)) == {"doubled": 1}


def test_a_message_doubled_by_two_competing_readers_is_caught() -> None:
    history = Forger().listens(who="p").listens(who="q").sent(0)
    history.received(0, who="p").received(0, who="q")
    assert troubles(check(history.entries)) == {"doubled": 1}


def test_a_misordered_message_is_caught() -> None:
    history = Forger().listens().sent(0).sent(1).received(1).received(0)
    verdict = check(history.entries)
    assert troubles(verdict) == {"misordered": 1}
    assert verdict.examples == ["misordered: s#0 to c after #1"]


def test_order_between_competing_readers_is_not_judged() -> None:
    history = Forger().listens(who="p").listens(who="q").sent(0).sent(1).sent(2)
    history.received(2, who="p").received(0, who="p").received(1, who="q")
    assert not check(history.entries).broken


def test_order_between_two_senders_is_not_judged() -> None:
    history = Forger().listens().sent(5)
    for kind in (ledger.SENT, ledger.ACCEPTED):
        history(kind, sender="other", number=1, target="c", channel="c")
    history(ledger.RECEIVED, sender="other", number=1, target="c", channel="c").received(5)
    assert not check(history.entries).broken


@pytest.mark.parametrize(
    "forge",
    [
        lambda history: history.received(0),
        lambda history: history.sent(0).received(0).received(1),
        lambda history: history.sent(0, outcome=ledger.REFUSED).received(0),
    ],
    ids=["never sent", "another number", "refused"],
)
def test_an_invented_message_is_caught(forge: object) -> None:
    history = Forger().listens()
    forge(history)  # type: ignore[operator]
    assert check(history.entries).invented == 1


def test_a_message_on_the_wrong_channel_is_both_invented_and_lost() -> None:
    history = Forger().listens("c").listens("d").sent(0, "c").received(0, "d", target="c")
    assert troubles(check(history.entries)) == {"invented": 1, "lost": 1}


def test_refused_failed_and_unfinished_sends_are_owed_to_nobody() -> None:
    history = Forger().listens().sent(0, outcome=ledger.REFUSED).sent(1, outcome=ledger.FAILED)
    history(ledger.SENT, sender="s", number=2, target="c", channel="c")
    verdict = check(history.entries)
    assert not verdict.broken
    assert (verdict.refused, verdict.failed, verdict.unknown, verdict.owed) == (1, 1, 1, 0)


def test_a_failed_send_may_arrive_after_all() -> None:
    history = Forger().listens().sent(0, outcome=ledger.FAILED).received(0)
    assert not check(history.entries).broken


def test_every_member_of_a_group_is_owed_its_copy() -> None:
    history = Forger().joins("a").joins("b").sent(0, "group").received(0, "a", target="group")
    verdict = check(history.entries)
    assert troubles(verdict) == {"lost": 1}
    assert verdict.owed == 2
    assert verdict.examples == ["lost: s#0 to group on b"]


def test_a_member_that_gets_its_copy_twice_is_caught() -> None:
    history = Forger().joins("a").joins("b").sent(0, "group")
    for channel in ("a", "b", "b"):
        history.received(0, channel, target="group")
    assert troubles(check(history.entries)) == {"doubled": 1}


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


def test_who_joined_after_the_send_or_left_before_it_must_not_get_it() -> None:
    late = Forger().sent(0, "group").joins("a").received(0, "a", target="group")
    assert troubles(check(late.entries)) == {"invented": 1}
    gone = Forger().joins("a").leaves("a").sent(0, "group").received(0, "a", target="group")
    assert troubles(check(gone.entries)) == {"invented": 1}


def test_who_left_and_came_back_is_owed_only_what_was_sent_while_it_was_there() -> None:
    history = Forger().joins("a").sent(0, "group").leaves("a").sent(1, "group").joins("a")
    history.sent(2, "group").received(0, "a", target="group").received(2, "a", target="group")
    verdict = check(history.entries)
    assert not verdict.broken
    assert verdict.owed == 2


def test_the_layers_own_count_of_drops_explains_as_many_and_no_more() -> None:
    history = Forger().listens()
    for number in range(5):
        history.sent(number)
    history(ledger.DROPPED, number=2)(ledger.EXPIRED, number=1).received(0)
    assert troubles(check(history.entries)) == {"lost": 1}


def members_of_one_process() -> Forger:
    """One message to a group of three channels of process p, sent by process w."""
    return Forger().joins("a").joins("b").joins("c").sent(0, "group", who="w")


def test_a_full_inbox_is_one_drop_of_the_sender_for_all_its_members() -> None:
    assert not check(members_of_one_process()(ledger.DROPPED, "w", number=1).entries).broken
    assert troubles(check(members_of_one_process().entries)) == {"lost": 3}


def test_a_full_inbox_does_not_explain_what_one_of_its_members_misses() -> None:
    history = members_of_one_process()
    history.received(0, "a", target="group").received(0, "b", target="group")
    assert troubles(check(history(ledger.DROPPED, "w", number=1).entries)) == {"lost": 1}


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


def test_a_drop_of_a_message_whose_outcome_is_unknown_is_not_overcounted() -> None:
    history = Forger().listens().sent(0, outcome=ledger.FAILED)
    history(ledger.SENT, sender="s", number=1, target="c", channel="c")(ledger.DROPPED, number=2)
    assert not check(history.entries).broken


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


def test_what_had_long_been_due_is_not_excused_by_a_kill() -> None:
    history = Forger().listens(who="victim").sent(0).waits(60).sent(1)(ledger.KILLED, "victim")
    assert troubles(check(history.entries)) == {"lost": 1}


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


def test_a_kill_excuses_nobody_elses_channel() -> None:
    history = Forger().listens(who="survivor").sent(0)(ledger.KILLED, "victim", number=9)
    assert troubles(check(history.entries)) == {"lost": 1}


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
