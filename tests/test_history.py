"""Random histories of several processes: what was accepted is received, has expired or was dropped.

Three processes work off a random part each, at the same time, on one file: they send, join and
leave groups, read slowly, or give up reading and begin again. Then the books are compared.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.processes import Child

ACTORS = range(3)
SHARED = ["shared-1", "shared-2"]  # normal channels, on which all of them receive
LOCAL = [f"{actor}.{index}" for actor in ACTORS for index in range(2)]  # their own channels
GROUPS = ["group-1", "group-2"]

groups = st.sampled_from(GROUPS)
own = st.integers(0, 1)
short = st.floats(0, 0.05)
steps = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(SHARED + LOCAL), st.sampled_from([None, 0.02])),
    st.tuples(st.just("send"), st.sampled_from(SHARED + LOCAL), st.none()),
    st.tuples(st.just("group_send"), groups),
    st.tuples(st.just("join"), groups, own),
    st.tuples(st.just("leave"), groups, own),
    st.tuples(st.just("pause"), st.sampled_from([*SHARED, "own.0", "own.1"]), short),
    st.tuples(st.just("sleep"), short),
)
parts = st.fixed_dictionaries(
    {
        "joined": st.lists(st.tuples(groups, own), max_size=3),
        "steps": st.lists(steps, max_size=30),
    }
)
configs = st.fixed_dictionaries(
    {
        "capacity": st.sampled_from([3, 20, 100]),
        "message_retention": st.sampled_from([0, 86400]),
        "watcher": st.sampled_from(["auto", "watchfiles", "polling"]),
    }
)

Receipt = tuple[int, int]
"""Who sent it, and the sender's number for it."""


class Directly(NamedTuple):
    """A message that was accepted for a channel."""

    receipt: Receipt
    channel: str
    expires: bool


class ToGroup(NamedTuple):
    """A message to a group: who surely is to get it, by inbox, and who perhaps."""

    receipt: Receipt
    sure: dict[str, set[str]]
    perhaps: set[str]


class Troupe:
    """The processes, which take part in one history after the other; new ones after a failure."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._children = ExitStack()
        self._actors: list[Child] = []

    @contextmanager
    def actors(self) -> Iterator[list[Child]]:
        if not self._actors:
            new = (Child("actor", self._database) for _ in ACTORS)
            self._actors = [self._children.enter_context(actor) for actor in new]
        try:
            yield self._actors
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._actors = []
        self._children.close()


@pytest.fixture(scope="module")
def troupe(migrated: Path) -> Iterator[Troupe]:
    with closing(Troupe(migrated)) as troupe:
        yield troupe


@pytest.fixture(scope="module")
def new_database(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("histories")
    return (Path(shutil.copy(migrated, directory / f"{number}.sqlite3")) for number in count())


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],  # two runs of one example differ: there is nothing to shrink
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(config=configs, plan=st.tuples(*[parts] * len(ACTORS)))
def test_histories(
    troupe: Troupe,
    new_database: Iterator[Path],
    config: dict[str, Any],
    plan: tuple[dict[str, Any], ...],
) -> None:
    with troupe.actors() as actors:
        play(actors, next(new_database), config, plan)


def play(
    actors: list[Child], database: Path, config: dict[str, Any], plan: tuple[dict[str, Any], ...]
) -> None:
    for name, actor in enumerate(actors):
        actor.tell({"name": name, "database": str(database), "config": config})
    names = [actor.hear() for actor in actors]
    initial = set()
    for name, (actor, part) in enumerate(zip(actors, plan, strict=True)):
        initial |= {(group, names[name][index]) for group, index in part["joined"]}
        actor.tell({"shared": SHARED, **resolve(part, names, name)})
    for actor in actors:
        assert actor.hear() == "ready"
    for actor in actors:
        actor.tell("go")
    books = Books(names, plan, initial, logs=[actor.hear() for actor in actors])
    deadline = time.monotonic() + 10
    while not books.balance(received := [status(actor) for actor in actors]):
        assert time.monotonic() < deadline, books.missing(received)
        time.sleep(0.02)
    time.sleep(0.05)  # a double would come now
    books.check([status(actor) for actor in actors])
    for actor in actors:
        actor.tell("close")
        assert actor.hear() == "closed"


def resolve(part: dict[str, Any], names: list[list[str]], name: int) -> dict[str, Any]:
    """The part with the names that channels have in this run."""
    known = {f"{actor}.{index}": names[actor][index] for actor in ACTORS for index in range(2)}
    known |= {f"own.{index}": names[name][index] for index in range(2)}
    steps = [
        [known.get(word, word) if isinstance(word, str) else word for word in step]
        for step in part["steps"]
    ]
    return {"joined": part["joined"], "steps": steps}


def status(actor: Child) -> dict[str, Any]:
    actor.tell("status")
    said: dict[str, Any] = actor.hear()
    return said


class Books:
    """What was sent, and who had to get it."""

    def __init__(
        self,
        names: list[list[str]],
        plan: tuple[dict[str, Any], ...],
        initial: set[tuple[str, str]],
        logs: list[list[dict[str, Any]]],
    ) -> None:
        self.owner = {channel: actor for actor in ACTORS for channel in names[actor]}
        touched = {
            (step[1], names[actor][step[2]])
            for actor in ACTORS
            for step in plan[actor]["steps"]
            if step[0] in ("join", "leave")
        }
        # A message that expires unread may take its channel out of all groups.
        doubtful = {each["channel"] for log in logs for each in log if each.get("expires")}
        self.directly: list[Directly] = []
        self.to_groups: list[ToGroup] = []
        for actor, log in enumerate(logs):
            for entry in log:
                receipt = (actor, entry["number"])
                if "channel" in entry:
                    self.directly.append(Directly(receipt, entry["channel"], entry["expires"]))
                    continue
                # Of its own channels a sender knows whether they are members. Others are known if
                # they joined before the beginning and were left alone.
                group = entry["group"]
                others = {channel for name, channel in initial - touched if name == group}
                members = {*entry["own_members"]} | others
                perhaps = {
                    channel
                    for name, channel in initial | touched
                    if name == group and self.owner[channel] != actor
                }
                sure = self.by_inbox(members - doubtful)
                self.to_groups.append(ToGroup(receipt, sure, perhaps | members))

    def by_inbox(self, channels: set[str]) -> dict[str, set[str]]:
        inboxes = defaultdict(set)
        for channel in channels:
            inboxes[channel.split("!")[0]].add(channel)
        return inboxes

    def receipts(self, received: list[dict[str, Any]]) -> dict[str, list[Receipt]]:
        """What came on each channel; on a normal one, to anybody."""
        together: dict[str, list[Receipt]] = defaultdict(list)
        for each in received:
            for channel, receipts in each["receipts"].items():
                together[channel] += [(actor, number) for actor, number in receipts]
        return together

    def missing(self, received: list[dict[str, Any]]) -> list[tuple[str, Receipt]]:
        """What has not come, and has no right to be late: of an inbox without room, one entry."""
        got = {channel: {*each} for channel, each in self.receipts(received).items()}
        missing = [
            (channel, receipt)
            for receipt, channel, expires in self.directly
            if not expires and receipt not in got[channel]
        ]
        for receipt, sure, _ in self.to_groups:
            for inbox, channels in sure.items():
                lacking = [channel for channel in channels if receipt not in got[channel]]
                nobody_has_it = len(lacking) == len(channels)
                missing += [(inbox, receipt)] if nobody_has_it else [(c, receipt) for c in lacking]
        return missing

    def balance(self, received: list[dict[str, Any]]) -> bool:
        """Whether all has come that was not counted as dropped."""
        dropped: int = sum(each["dropped"] for each in received)
        return len(self.missing(received)) <= dropped

    def check(self, received: list[dict[str, Any]]) -> None:
        assert self.balance(received)
        entitled: dict[str, set[Receipt]] = defaultdict(set)
        for receipt, channel, _ in self.directly:
            entitled[channel].add(receipt)
        for receipt, _, perhaps in self.to_groups:
            for channel in perhaps:
                entitled[channel].add(receipt)
        for channel, receipts in self.receipts(received).items():
            assert max(Counter(receipts).values(), default=1) == 1, "nothing twice"
            assert {*receipts} <= entitled[channel], "nothing to others"
            if channel in self.owner:
                for actor in ACTORS:
                    numbers = [number for sender, number in receipts if sender == actor]
                    assert numbers == sorted(numbers), "in the sender's order"
