"""What a run is going to measure, before anything is."""

from __future__ import annotations

from collections import Counter

import pytest

from stress import screen
from stress.__main__ import EVERY, USUAL
from stress.layers import LAYERS
from stress.plan import Plan
from stress.program import Program, program
from stress.scenarios import SCENARIOS

# A case of the full profile for each goal that compares us with somebody, or with ourselves.
GOALS = (
    "latency: one way, warm",
    "latency: one way, after 2 s of silence",
    "busy: others exchange 100 messages a second",
    "busy: others exchange 500 messages a second",
    "throughput: 1 sender, one process",
    "throughput: 20 senders, one process",
    "fanout: 100 members, one process",
    "fanout: 1,000 members, one process",
    "fanout: 10,000 members, one process",
    "fanout: 1,000 members, 4 processes",
    "churn: group_add and group_discard, one after the other",
    "idle: 10,000 consumers",
    "bystander: others exchange 500 messages a second",
    "crowd: 8 wait, others exchange 500 messages a second",
    "contention: 4 writers, 100 messages a second each",
    "contention: 8 writers, flat out",
    "contention: 1 writer, flat out",
    "growth: latency: one way, warm",
    "growth: fanout: 1,000 members, one process",
    "soak: trimming and not, 20 senders",
)


def whole(plan: Plan, names: tuple[str, ...]) -> Program:
    return program(plan, list(SCENARIOS.values()), [LAYERS[name] for name in names])


def test_the_full_profile_measures_every_goal_in_five_rounds() -> None:
    rounds = {
        f"{item.scenario.name}: {item.case.name}": item.rounds
        for item in whole(Plan("full"), EVERY).items
    }
    for goal in GOALS:
        assert rounds[goal]["sqlite:inotify"] >= 5, goal
    for goal in GOALS[:16]:
        assert rounds[goal]["redis"] >= 5, goal


def test_the_profiles_last_no_longer_than_they_promise() -> None:
    assert whole(Plan("full"), EVERY).seconds <= 55 * 60
    assert whole(Plan("quick"), USUAL).seconds <= 3 * 60


def test_every_case_says_how_long_it_lasts() -> None:
    for profile in ("quick", "normal", "full"):
        for item in whole(Plan(profile), EVERY).items:  # type: ignore[arg-type]
            assert item.case.lasts >= 1, item.case.name


@pytest.mark.parametrize("plan", [Plan("full", rounds=1), Plan("full", seconds=0.5)])
def test_rounds_and_seconds_shorten_a_profile(plan: Plan) -> None:
    assert whole(plan, EVERY).seconds < 0.8 * whole(Plan("full"), EVERY).seconds


def test_in_a_round_each_layer_has_its_turn_and_another_one_begins() -> None:
    (item, *_) = whole(Plan("full"), USUAL).items
    turns = list(item.turns())
    assert len(turns) == item.measurements == sum(item.rounds.values())
    assert set(Counter(turns).values()) == {1}
    assert [number for number, _ in turns] == sorted(number for number, _ in turns)
    beginners = [next(layer for n, layer in turns if n == number) for number in range(1, 4)]
    assert len(set(beginners)) == 3


def test_whoever_is_measured_in_fewer_rounds_is_in_the_first_of_them() -> None:
    (item, *_) = whole(Plan("full"), EVERY).items
    assert [number for number, layer in item.turns() if layer == "channels-lite"] == [1]


def test_rounds_that_are_asked_for_outside_of_a_profile_are_had() -> None:
    for item in whole(Plan(rounds=7), ("sqlite", "channels-lite")).items:
        assert set(item.rounds.values()) <= {7}


def test_a_layer_is_measured_or_its_absence_explained() -> None:
    made = whole(Plan("full"), EVERY)
    for item in made.items:
        left_out = {s.layer for s in made.skipped if s.case == item.case.name}
        assert left_out | set(item.rounds) == set(EVERY), item.case.name


def test_where_no_watcher_has_a_part_a_profile_measures_one_of_ours() -> None:
    made = whole(Plan("full"), EVERY)
    (item,) = (i for i in made.items if i.case.name == "1 sender, one process")
    assert "sqlite:watchfiles" not in item.rounds
    asked = whole(Plan(), ("sqlite:inotify", "sqlite:watchfiles"))
    (item,) = (i for i in asked.items if i.case.name == "1 sender, one process")
    assert "sqlite:watchfiles" in item.rounds


def test_the_estimate_is_said_in_minutes() -> None:
    said = screen.estimate(whole(Plan("full"), EVERY))
    assert "measurements, about 5" in said
    assert " min " in said
