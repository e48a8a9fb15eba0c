"""The measurements of a run, their order and number, and about how long they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stress.layers import Layer
from stress.plan import Case, Plan, Scenario
from stress.results import Skipped

# Seconds to start a measurement's processes, to end them, and to read their ledgers.
START_UP = 0.6


@dataclass(frozen=True)
class Item:
    """A case, the layers that are measured in it, and how many rounds each of them has."""

    scenario: Scenario
    case: Case
    rounds: dict[str, int]

    @property
    def measurements(self) -> int:
        return sum(self.rounds.values())

    @property
    def seconds(self) -> float:
        return self.measurements * (START_UP + self.case.lasts)

    def turns(self) -> Iterator[tuple[int, str]]:
        """The turns, round by round: another layer begins each, because rivals leave traces."""
        for number in range(1, max(self.rounds.values(), default=0) + 1):
            able = [layer for layer, rounds in self.rounds.items() if number <= rounds]
            first = number % len(able)
            for layer in able[first:] + able[:first]:
                yield number, layer


@dataclass(frozen=True)
class Program:
    items: list[Item]
    skipped: list[Skipped]

    @property
    def measurements(self) -> int:
        return sum(item.measurements for item in self.items)

    @property
    def seconds(self) -> float:
        return sum(item.seconds for item in self.items)


def program(plan: Plan, scenarios: Sequence[Scenario], layers: Sequence[Layer]) -> Program:
    """The whole run, with the names of all that is left out."""
    items: list[Item] = []
    skipped: list[Skipped] = []
    for scenario in scenarios:
        for case in scenario.cases(plan):
            rounds = {}
            for layer in layers:
                if why := left_out(plan, scenario, case, layer, layers):
                    skipped.append(Skipped(layer.name, scenario.name, case.name, why))
                else:
                    rounds[layer.name] = rounds_of(plan, scenario, case)
            items.append(Item(scenario, case, rounds))
    return Program(items, skipped)


def rounds_of(plan: Plan, scenario: Scenario, case: Case) -> int:
    """The number of rounds asked for; the profile `figures` has fewer of steady figures."""
    quick, normal, figures = scenario.rounds
    rounds = plan.rounds or plan.choose(quick=quick, normal=normal, figures=figures)
    return min(rounds, case.rounds or rounds) if plan.profile == "figures" else rounds


def left_out(
    plan: Plan, scenario: Scenario, case: Case, layer: Layer, layers: Sequence[Layer]
) -> str:
    """Return why this layer is not measured in this case, or ""."""
    if plan.profile not in ("normal", *scenario.profiles):
        return f"not in the profile {plan.profile}"
    if plan.profile == "quick" and not (layer.ours or scenario.rivals):
        return "not in the profile quick"
    if plan.profile != "normal" and layer.ours and not case.watched:
        first = next(each for each in layers if each.ours)
        if layer is not first:
            return f"as {first.name}: one watcher is enough"
    return case.excludes(layer)
