"""What a run is going to measure, before anything is."""

from __future__ import annotations

from collections import Counter

import pytest

from stress import screen, tables
from stress.__main__ import FIGURES, USUAL
from stress.layers import LAYERS
from stress.plan import Plan
from stress.program import Program, program
from stress.scenarios import SCENARIOS


def whole(plan: Plan, names: tuple[str, ...]) -> Program:
    return program(plan, list(SCENARIOS.values()), [LAYERS[name] for name in names])


def test_the_profile_of_figures_measures_every_line_of_the_tables() -> None:
    rounds = {(i.scenario, i.case.name): i.rounds for i in whole(Plan("figures"), FIGURES).items}
    for line in tables.LINES:
        scenario = SCENARIOS[line.scenario]
        assert line.ours in rounds[scenario, line.case], line
        assert line.figure in {figure.name for figure in scenario.figures}, line


def test_a_figure_that_others_have_is_measured_of_them_in_as_many_rounds() -> None:
    for item in whole(Plan("figures"), FIGURES).items:
        assert set(item.rounds.values()) <= {2, 3, 5}, item.case.name
        assert len(set(item.rounds.values())) <= 1, item.case.name


def test_the_profiles_last_no_longer_than_they_promise() -> None:
    assert whole(Plan("figures"), FIGURES).seconds <= 30 * 60
    assert whole(Plan("quick"), USUAL).seconds <= 3 * 60


def test_quick_leaves_out_websockets_alone_and_both_have_what_neighbours_and_deaths_cost() -> None:
    quick, figures = whole(Plan("quick"), ("sqlite",)), whole(Plan("figures"), ("sqlite",))
    left_out = {each.scenario for each in quick.skipped if "profile" in each.why}
    assert left_out == {"websockets"}
    assert not {"busy", "crowd", "killed", "foreign"} & {each.scenario for each in figures.skipped}
    shapes = [item.case.name for item in figures.items if item.scenario.name == "websockets"]
    assert len(shapes) == 4


def test_every_case_says_how_long_it_lasts() -> None:
    for profile in ("quick", "normal", "figures"):
        for item in whole(Plan(profile), FIGURES).items:
            assert item.case.lasts >= 1, item.case.name


@pytest.mark.parametrize("plan", [Plan("figures", rounds=1), Plan("figures", seconds=0.5)])
def test_rounds_and_seconds_shorten_a_profile(plan: Plan) -> None:
    assert whole(plan, FIGURES).seconds < 0.8 * whole(Plan("figures"), FIGURES).seconds


def test_in_a_round_each_layer_has_its_turn_and_another_one_begins() -> None:
    (item, *_) = whole(Plan("figures"), USUAL).items
    turns = list(item.turns())
    assert len(turns) == item.measurements == sum(item.rounds.values())
    assert set(Counter(turns).values()) == {1}
    assert [number for number, _ in turns] == sorted(number for number, _ in turns)
    beginners = [next(layer for n, layer in turns if n == number) for number in range(1, 4)]
    assert len(set(beginners)) == 3


def test_rounds_that_are_asked_for_outside_of_a_profile_are_had() -> None:
    for item in whole(Plan(rounds=7), ("sqlite", "channels-lite")).items:
        assert set(item.rounds.values()) <= {7}


def test_a_layer_is_measured_or_its_absence_explained() -> None:
    made = whole(Plan("figures"), FIGURES)
    for item in made.items:
        left_out = {s.layer for s in made.skipped if s.case == item.case.name}
        assert left_out | set(item.rounds) == set(FIGURES), item.case.name


def test_where_one_watcher_is_enough_a_profile_measures_one_of_ours() -> None:
    made = whole(Plan("figures"), FIGURES)
    (item,) = (i for i in made.items if i.case.name == "1 sender, one process")
    assert "sqlite:watchfiles" not in item.rounds
    asked = whole(Plan(), ("sqlite:inotify", "sqlite:watchfiles"))
    (item,) = (i for i in asked.items if i.case.name == "1 sender, one process")
    assert "sqlite:watchfiles" in item.rounds


def test_the_estimate_is_said_in_minutes() -> None:
    said = screen.estimate(whole(Plan("figures"), FIGURES))
    assert "measurements, about 2" in said
    assert " min " in said
