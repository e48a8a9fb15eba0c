"""A run's results: the JSON, and the medians and ratios that are read from it.

The JSON is this module's dataclasses, field by field. README.md explains each. `FORMAT` rises
when a field changes its meaning or goes away. New fields may come without that.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stress.measure import Ratio, ratio
from stress.verdict import Verdict

FORMAT = 1
KEEP_EVERY = 10.0  # seconds


@dataclass
class Measurement:
    """One case, of one layer, in one round."""

    scenario: str
    case: str
    layer: str
    round: int
    arguments: dict[str, Any]  # of the case: seconds, members, rate, size, processes ...
    settings: dict[str, Any]  # the CONFIG of the layer
    load: float  # the machine's load average (1 minute) when it began
    seconds: float = 0.0  # that it took, starting and ending the processes included
    figures: dict[str, float] = field(default_factory=dict)
    distributions: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    ledger: Verdict = field(default_factory=Verdict)
    errors: dict[str, int] = field(default_factory=dict)  # the errors of sends
    counters: dict[str, int] = field(default_factory=dict)  # the layer's own, of all processes
    trouble: str = ""  # the error that ended the measurement early


@dataclass
class Skipped:
    """A case that was asked for and not measured, and why."""

    layer: str
    scenario: str  # "" when the layer was left out of the whole run
    case: str
    why: str


@dataclass
class Run:
    command: str
    started: str  # ISO 8601, UTC
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    layers: list[str]  # in the order they were asked for
    seconds: float = 0.0
    interrupted: bool = False  # it has not, or not yet, come to its end
    # The figures' meaning: {"scenario": {"figure": {"unit": ..., "better": ..., "says": ...}}}
    figures: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    format: int = FORMAT

    @property
    def broken(self) -> list[Measurement]:
        """Measurements of ours whose ledger does not balance, or that did not come to their end."""
        return [m for m in self.measurements if is_ours(m.layer) and (m.ledger.broken or m.trouble)]


@dataclass(frozen=True)
class Summary:
    """The median of the rounds, and the smallest and largest of them."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Row:
    """One figure of one case, of all layers; and ours beside each rival."""

    scenario: str
    case: str
    figure: str
    unit: str
    better: str
    layers: dict[str, Summary]
    ratios: dict[str, dict[str, Ratio]]  # ours -> rival -> ours / theirs


def is_ours(layer: str) -> bool:
    return layer.startswith("sqlite")


def rounds_of(measurements: Iterable[Measurement], figure: str) -> dict[str, dict[int, float]]:
    """layer -> round -> value."""
    found: dict[str, dict[int, float]] = {}
    for measurement in measurements:
        if figure in measurement.figures:
            values = found.setdefault(measurement.layer, {})
            values[measurement.round] = measurement.figures[figure]
    return found


def cases_of(run: Run) -> dict[tuple[str, str], list[Measurement]]:
    """(scenario, case) -> its measurements, in the order they were made."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in run.measurements:
        found.setdefault((measurement.scenario, measurement.case), []).append(measurement)
    return found


def rows(run: Run) -> list[Row]:
    found = []
    for (scenario, case), measurements in cases_of(run).items():
        for figure, meaning in run.figures[scenario].items():
            measured = rounds_of(measurements, figure)
            values = {name: measured[name] for name in run.layers if name in measured}
            if values:
                found.append(
                    Row(
                        scenario=scenario,
                        case=case,
                        figure=figure,
                        unit=meaning["unit"],
                        better=meaning["better"],
                        layers={name: summary(rounds) for name, rounds in values.items()},
                        ratios=ratios(values) if meaning["better"] else {},
                    )
                )
    return found


def summary(rounds: Mapping[int, float]) -> Summary:
    values = list(rounds.values())
    return Summary(statistics.median(values), min(values), max(values), len(values))


def ratios(values: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, Ratio]]:
    """Ours / theirs, of each of ours that has a rival here."""
    rivals = {name: rounds for name, rounds in values.items() if not is_ours(name)}
    pairs: dict[str, dict[str, Ratio]] = {}
    for ours in filter(is_ours, values):
        for rival, theirs in rivals.items():
            if (found := ratio(values[ours], theirs)) is not None:
                pairs.setdefault(ours, {})[rival] = found
    return pairs


def save(run: Run, path: Path) -> None:
    """Save in one step: a process that is ended meanwhile leaves the old file or the new one."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(asdict(run), indent=1) + "\n")
    unfinished.replace(path)


class Keeper:
    """The keeper of a run: it saves the results meanwhile, in case the run is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._due = 0.0  # time.monotonic()

    def keep(self, run: Run) -> None:
        """Save at once the first time, then every few seconds: a long run takes long to write."""
        if time.monotonic() >= self._due:
            save(run, self.path)
            self._due = time.monotonic() + KEEP_EVERY


class UnknownFormatError(ValueError):
    """A file that is no result of ours, or of another format."""


def load(path: Path) -> Run:
    try:
        data = json.loads(path.read_text())
        form = data["format"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UnknownFormatError(f"{path} holds no results of `python -m stress --json`") from error
    if form != FORMAT:
        raise UnknownFormatError(f"{path} is of format {form}; this is for format {FORMAT}")
    measurements = [
        Measurement(**{**measurement, "ledger": Verdict(**measurement["ledger"])})
        for measurement in data["measurements"]
    ]
    skipped = [Skipped(**item) for item in data["skipped"]]
    return Run(**{**data, "measurements": measurements, "skipped": skipped})
