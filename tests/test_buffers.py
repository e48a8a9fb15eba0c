"""Buffers: what this process has taken and its consumers have not; first in, first out."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channels_sqlite.buffers import Buffers
from channels_sqlite.counters import Counters
from channels_sqlite.messages import Item
from tests.rows import item


def filled(*items: Item) -> Buffers:
    buffers = Buffers(Counters())
    for each in items:
        buffers.put("test-channel", each)
    return buffers


def test_gives_the_oldest_message_first() -> None:
    buffers = filled(item(1), item(2), item(3))
    assert numbers(buffers, "test-channel") == [1, 2, 3]


def test_gives_none_when_there_is_nothing() -> None:
    assert Buffers(Counters()).take("test-channel", now=0) is None


def test_keeps_channels_apart() -> None:
    buffers = filled(item(1))
    buffers.put("another-channel", item(2))
    assert numbers(buffers, "another-channel") == [2]
    assert numbers(buffers, "test-channel") == [1]


def test_says_how_many_wait() -> None:
    buffers = Buffers(Counters())
    assert [buffers.put("test-channel", item(number)) for number in range(3)] == [1, 2, 3]
    assert buffers.count("test-channel") == 3
    assert buffers.count("another-channel") == 0


def test_has_no_queue_for_a_channel_that_was_emptied() -> None:
    buffers = filled(item(1))
    assert "test-channel" in buffers
    buffers.take("test-channel", now=0)
    assert "test-channel" not in buffers


def test_skips_what_has_expired_and_counts_it() -> None:
    counters = Counters()
    buffers = Buffers(counters)
    for number, deadline in enumerate([1, 2, 9]):
        buffers.put("test-channel", item(number, deadline))
    assert numbers(buffers, "test-channel", now=2) == [2]
    assert counters.expired == 2


def test_a_message_is_expired_at_its_deadline_and_not_before() -> None:
    assert numbers(filled(item(1, deadline=5)), "test-channel", now=4.999) == [1]
    assert numbers(filled(item(1, deadline=5)), "test-channel", now=5) == []


def test_a_queue_of_expired_messages_is_gone_when_it_was_asked_for_one() -> None:
    buffers = filled(item(1, deadline=1), item(2, deadline=1))
    assert buffers.take("test-channel", now=1) is None
    assert "test-channel" not in buffers


def test_expire_names_the_channels_whose_consumers_let_it_happen() -> None:
    buffers = filled(item(1, deadline=1), item(2, deadline=9))
    buffers.put("reads", item(3, deadline=9))
    buffers.put("gone", item(4, deadline=1))
    assert buffers.expire(now=1) == {"gone": 4, "test-channel": 1}
    assert "gone" not in buffers
    assert numbers(buffers, "test-channel", now=1) == [2]
    assert numbers(buffers, "reads", now=1) == [3]


def test_take_newest_takes_from_the_end_in_order() -> None:
    buffers = filled(item(1), item(2), item(3))
    assert [each.row.id for each in buffers.take_newest("test-channel", 2)] == [2, 3]
    assert numbers(buffers, "test-channel") == [1]


def test_take_newest_takes_no_more_than_there_is() -> None:
    buffers = filled(item(1))
    assert [each.row.id for each in buffers.take_newest("test-channel", 5)] == [1]
    assert buffers.take_newest("test-channel", 5) == []
    assert "test-channel" not in buffers


def test_drop_oldest_makes_room_for_the_newest() -> None:
    buffers = filled(item(1), item(2))
    assert buffers.drop_oldest("test-channel").row.id == 1
    assert numbers(buffers, "test-channel") == [2]


def test_what_was_put_back_is_before_all_others() -> None:
    buffers = filled(item(1), item(2))
    taken = buffers.take("test-channel", now=0)
    assert taken is not None
    buffers.put_back("test-channel", taken)
    assert numbers(buffers, "test-channel") == [1, 2]


def test_two_that_are_put_back_in_any_order_stand_in_theirs() -> None:
    buffers = filled(item(1), item(2), item(3))
    taken = [buffers.take("test-channel", now=0) for _ in range(2)]
    for each in taken:
        assert each is not None
        buffers.put_back("test-channel", each)
    assert numbers(buffers, "test-channel") == [1, 2, 3]


def test_what_is_put_back_into_an_empty_buffer_is_there_again() -> None:
    buffers = Buffers(Counters())
    buffers.put_back("test-channel", item(1))
    assert numbers(buffers, "test-channel") == [1]


def test_what_was_sent_before_a_flush_is_forgotten() -> None:
    buffers = filled(item(1), item(3))
    buffers.put("another-channel", item(2))
    buffers.forget(upto=2)
    assert numbers(buffers, "test-channel") == [3]
    assert "another-channel" not in buffers
    assert not buffers


def numbers(buffers: Buffers, channel: str, now: float = 0) -> list[int]:
    """What the channel's consumer gets."""
    taken = []
    while (each := buffers.take(channel, now)) is not None:
        taken.append(each.row.id)
    return taken


CAPACITY = 3
channels = st.sampled_from(["one", "two"])


class AgainstAModel(RuleBasedStateMachine):
    """Any history of calls, beside lists that do the same in the plainest way."""

    def __init__(self) -> None:
        super().__init__()
        self.counters = Counters()
        self.buffers = Buffers(self.counters)
        self.model: dict[str, list[Item]] = defaultdict(list)
        self.taken: Item | None = None
        self.taken_from = ""
        self.now = 0
        self.sent = 0
        self.expired = 0

    @rule(channel=channels, lifetime=st.integers(0, 5))
    def put_within_the_capacity(self, channel: str, lifetime: int) -> None:
        self.sent += 1
        new = item(self.sent, self.now + lifetime)
        self.model[channel].append(new)
        assert self.buffers.put(channel, new) == len(self.model[channel])
        if len(self.model[channel]) > CAPACITY:
            assert self.buffers.drop_oldest(channel) is self.model[channel].pop(0)

    @rule(channel=channels)
    def take(self, channel: str) -> None:
        expected = None
        while expected is None and self.model[channel]:
            oldest = self.model[channel].pop(0)
            if oldest.deadline > self.now:
                expected = oldest
            else:
                self.expired += 1
        self.taken = self.buffers.take(channel, self.now)
        assert self.taken is expected
        self.taken_from = channel

    @precondition(lambda self: self.taken is not None)
    @rule()
    def put_back_what_was_taken(self) -> None:
        if self.taken is not None and len(self.model[self.taken_from]) < CAPACITY:
            self.model[self.taken_from].insert(0, self.taken)
            self.buffers.put_back(self.taken_from, self.taken)
        self.taken = None

    @rule(channel=channels, count=st.integers(0, CAPACITY + 1))
    def take_newest(self, channel: str, count: int) -> None:
        kept = max(0, len(self.model[channel]) - count)
        assert self.buffers.take_newest(channel, count) == self.model[channel][kept:]
        del self.model[channel][kept:]

    @rule()
    def expire(self) -> None:
        late = {}
        for channel, waiting in self.model.items():
            alive = [each for each in waiting if each.deadline > self.now]
            if len(alive) < len(waiting):
                late[channel] = max(each.row.id for each in waiting if each not in alive)
                self.expired += len(waiting) - len(alive)
            self.model[channel] = alive
        assert self.buffers.expire(self.now) == late

    @rule(data=st.data())
    def flush(self, data: st.DataObject) -> None:
        upto = data.draw(st.integers(0, self.sent))
        for channel, waiting in self.model.items():
            self.model[channel] = [each for each in waiting if each.row.id > upto]
        self.buffers.forget(upto)

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def they_agree(self) -> None:
        for channel in ("one", "two"):
            waiting = self.model[channel]
            assert self.buffers.count(channel) == len(waiting) <= CAPACITY
            assert (channel in self.buffers) == bool(waiting)
        assert self.counters.expired == self.expired


TestAgainstAModel = AgainstAModel.TestCase
