"""The program of a run, before anything is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stress import screen, tables
from stress.__main__ import FIGURES, USUAL
from stress.layers import LAYERS
from stress.plan import Plan
from stress.program import Item, Program, program
from stress.scenarios import SCENARIOS


def whole(plan: Plan, names: Sequence[str] = FIGURES) -> Program:
    return program(plan, list(SCENARIOS.values()), [LAYERS[name] for name in names])


def one_sender(made: Program) -> Item:
    (item,) = (item for item in made.items if item.case.name == "1 sender, one process")
    return item


def test_the_profile_of_figures_measures_every_line_of_the_tables() -> None:
    rounds = {(i.scenario, i.case.name): i.rounds for i in whole(Plan("figures")).items}
    for line in tables.LINES:
        scenario = SCENARIOS[line.scenario]
        assert line.ours in rounds[scenario, line.case], line
        assert line.figure in {figure.name for figure in scenario.figures}, line


def test_a_layer_is_measured_in_as_many_rounds_as_the_others_or_its_absence_explained() -> None:
    made = whole(Plan("figures"))
    for item in made.items:
        assert set(item.rounds.values()) <= {3, 5}, item.case.name
        assert len(set(item.rounds.values())) <= 1, item.case.name
        left_out = {s.layer for s in made.skipped if s.case == item.case.name}
        assert left_out | set(item.rounds) == set(FIGURES), item.case.name


def test_the_profiles_last_no_longer_than_they_promise() -> None:
    figures = whole(Plan("figures"))
    assert figures.seconds <= 33 * 60
    assert whole(Plan("quick"), USUAL).seconds <= 3 * 60
    for plan in (Plan("figures", rounds=1), Plan("figures", seconds=0.5)):
        assert whole(plan).seconds < 0.8 * figures.seconds
    for plan in (Plan("quick"), Plan("normal"), Plan("figures")):
        assert [item for item in whole(plan).items if item.case.lasts < 1] == []
    said = screen.estimate(figures)
    assert "measurements, about 3" in said
    assert " min " in said


def test_quick_leaves_out_websockets_alone_and_both_have_what_neighbours_and_deaths_cost() -> None:
    quick, figures = whole(Plan("quick"), ["sqlite"]), whole(Plan("figures"), ["sqlite"])
    left_out = {each.scenario for each in quick.skipped if "profile" in each.why}
    assert left_out == {"websockets"}
    assert not {"busy", "crowd", "killed", "foreign"} & {each.scenario for each in figures.skipped}
    shapes = [item.case.name for item in figures.items if item.scenario.name == "websockets"]
    assert len(shapes) == 4


def test_in_a_round_each_layer_has_its_turn_and_another_one_begins() -> None:
    (item, *_) = whole(Plan("figures"), USUAL).items
    turns = list(item.turns())
    assert len(turns) == item.measurements == sum(item.rounds.values())
    assert set(Counter(turns).values()) == {1}
    assert [number for number, _ in turns] == sorted(number for number, _ in turns)
    beginners = [next(layer for n, layer in turns if n == number) for number in range(1, 4)]
    assert len(set(beginners)) == 3


def test_what_is_asked_for_outside_of_a_profile_is_had() -> None:
    """Rounds, and each watcher of ours; where one is enough a profile measures the first."""
    for item in whole(Plan(rounds=7), ["sqlite", "channels-lite"]).items:
        assert set(item.rounds.values()) <= {7}
    watchers = ("sqlite:inotify", "sqlite:watchfiles")
    assert one_sender(whole(Plan(), watchers)).rounds.keys() == {*watchers}
    assert "sqlite:watchfiles" not in one_sender(whole(Plan("figures"))).rounds
