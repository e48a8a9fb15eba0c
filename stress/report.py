"""A run as one page of HTML that needs nothing else: pictures, ratios, ledger, and all figures."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from django.template import Context, Engine
from django.utils.safestring import SafeString, mark_safe

from stress import charts, pictures, screen
from stress.charts import Point
from stress.layers import LAYERS
from stress.results import Measurement, Row, Run, cases_of, rows
from stress.verdict import ZERO

T = TypeVar("T")

TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Chart:
    title: str
    svg: SafeString
    layers: list[str]  # for the legend; none if the chart names them itself


def write(run: Run, path: Path) -> None:
    path.write_text(page(run))


def page(run: Run) -> str:
    found = rows(run)
    pairs = screen.pairs_of(found)
    ledgers = screen.ledgers(run)
    columns = screen.ledger_columns(ledgers.values())
    context = {
        "run": run,
        "order": list(LAYERS),
        "header": screen.header(run).strip().splitlines(),
        "style": mark_safe("".join(f"--layer{i}:{c};" for i, c in enumerate(DAY))),
        "night": mark_safe("".join(f"--layer{i}:{c};" for i, c in enumerate(NIGHT))),
        "broken": run.broken,
        "pictures": list(pictures.pictures(run, found)),
        "pairs": pairs,
        "ratios": grouped(
            (f"{row.scenario}: {row.case}", ratio_row(row, pairs)) for row in found if row.ratios
        ),
        "columns": columns,
        "ledgers": [
            (scenario, layer, [cell(c, getattr(verdict, c)) for c in columns])
            for (scenario, layer), verdict in ledgers.items()
        ],
        "troubles": screen.troubles(run),
        "excused": list(screen.excused(run).items()),
        "skipped": screen.skipped_lines(run.skipped),
        "scenarios": [section(run, name, found) for name in run.figures],
        "settings": settings(run.measurements),
    }
    # Without localisation, which would need a project's settings.
    return Engine().from_string(TEMPLATE.read_text()).render(Context(context, use_l10n=False))


# Light and dark, in the order of LAYERS: ours are blue, in-memory is grey, Redis red and
# orange, channels-lite green.
DAY = ("#1f5fbf", "#1f5fbf", "#5b9be0", "#8fb8e8", "#777777", "#c22f2f", "#d98014", "#2f8f4e")
NIGHT = ("#7db4ff", "#7db4ff", "#4f86d0", "#9cc3f2", "#a5a5a5", "#ff7b72", "#f0b050", "#6cc787")


def grouped(pairs: Iterable[tuple[str, T]]) -> list[tuple[str, list[T]]]:
    """The rows of each case, under its name, so that a table is no wider than a phone."""
    found: dict[str, list[T]] = {}
    for name, row in pairs:
        found.setdefault(name, []).append(row)
    return list(found.items())


def ratio_row(row: Row, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    cells = []
    for ours, rival in pairs:
        ratio = row.ratios.get(ours, {}).get(rival)
        if ratio is None:
            cells.append(("", "-"))
        else:
            cells.append((screen.ahead(ratio, row.better), screen.spread(ratio)))
    return {"figure": row.figure, "better": row.better, "cells": cells}


def cell(column: str, value: int) -> tuple[str, bool]:
    """A count of the ledger, and True if it is trouble."""
    return f"{value:,}", bool(value) and column in ZERO


def section(run: Run, name: str, found: Iterable[Row]) -> dict[str, Any]:
    mine = [row for row in found if row.scenario == name]
    layers = list(dict.fromkeys(layer for row in mine for layer in row.layers))
    measurements = {
        case: made for (scenario, case), made in cases_of(run).items() if scenario == name
    }
    return {
        "name": name,
        "layers": layers,
        "cases": grouped(
            (
                row.case,
                {
                    "figure": f"{row.figure} {row.unit}",
                    "cells": [
                        screen.spread(row.layers[n]) if n in row.layers else "-" for n in layers
                    ],
                },
            )
            for row in mine
        ),
        "figures": {k: v["says"] for k, v in run.figures[name].items() if v["says"]},
        "charts": [*LINES.get(name, no_charts)(measurements), *distributions(measurements)],
    }


Cases = dict[str, list[Measurement]]


def no_charts(cases: Cases) -> list[Chart]:
    del cases
    return []


def by_layer(measurements: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    """The measurements by layer, in the order of LAYERS, which legends and bars keep."""
    found: dict[str, list[Measurement]] = {layer: [] for layer in LAYERS}
    for measurement in measurements:
        found[measurement.layer].append(measurement)
    return {layer: mine for layer, mine in found.items() if mine}


def point(x: float, measurements: Iterable[Measurement], figure: str) -> Point | None:
    values = [m.figures[figure] for m in measurements if figure in m.figures]
    return Point(x, statistics.median(values), min(values), max(values)) if values else None


def chart(title: str, svg: str, layers: Iterable[str] = ()) -> Chart:
    return Chart(title, mark_safe(svg), list(layers))


def lines(
    cases: Cases,
    figure: str,
    title: str,
    x_label: str,
    y_label: str,
    x: Callable[[Measurement], float | None],
    *,
    log: bool = True,
) -> list[Chart]:
    """One chart over all cases that have an `x`, if there are at least two."""
    every = [m for measurements in cases.values() for m in measurements]
    points: dict[str, list[Point]] = {}
    for layer, mine in by_layer(every).items():
        groups: defaultdict[float, list[Measurement]] = defaultdict(list)
        for measurement in mine:
            if (value := x(measurement)) is not None:
                groups[value].append(measurement)
        made = [point(value, group, figure) for value, group in sorted(groups.items())]
        if found := [p for p in made if p is not None]:
            points[layer] = found
    if len({p.x for found in points.values() for p in found}) < 2:
        return []
    return [chart(title, charts.lines(title, x_label, y_label, points, log=log), points)]


def fanout(cases: Cases) -> list[Chart]:
    def members(m: Measurement) -> float | None:
        return float(m.arguments["members"]) if m.arguments["processes"] == 1 else None

    def processes(m: Measurement) -> float | None:
        return float(m.arguments["processes"]) if m.arguments["members"] == 1000 else None

    return [
        *lines(
            *(cases, "deliveries", "deliveries against members, one process"),
            *("members of the group", "deliveries a second", members),
        ),
        *lines(
            *(cases, "deliveries", "deliveries against processes, 1,000 members"),
            *("processes", "deliveries a second", processes),
            log=False,
        ),
    ]


def idle(cases: Cases) -> list[Chart]:
    def members(m: Measurement) -> float:
        return float(m.arguments["members"])

    return [
        *lines(
            *(cases, "cpu", "CPU against idle consumers"),
            *("consumers", "% of a core", members),
        ),
        *lines(
            *(cases, "switches", "context switches against idle consumers"),
            *("consumers", "a second", members),
        ),
    ]


def contention(cases: Cases) -> list[Chart]:
    def writers(m: Measurement) -> float | None:
        return m.arguments["processes"] - 1.0 if "rate" not in m.arguments else None

    return lines(
        *(cases, "sends", "throughput against writing processes, flat out"),
        *("processes", "sends a second", writers),
        log=False,
    )


def soak(cases: Cases) -> list[Chart]:
    found = []
    for case, measurements in cases.items():
        first = {layer: mine[0].series for layer, mine in by_layer(measurements).items()}
        for name in dict.fromkeys(name for series in first.values() for name in series):
            series = {layer: s[name] for layer, s in first.items() if name in s}
            title = f"{name} over time, {case}"
            label = name if name in ("threads", "descriptors") else f"{name}, MiB"
            found.append(chart(title, charts.over_time(title, label, series), series))
    return found


LINES: dict[str, Callable[[Cases], list[Chart]]] = {
    "fanout": fanout,
    "idle": idle,
    "contention": contention,
    "soak": soak,
}


def distributions(cases: Cases) -> list[Chart]:
    """Charts of the cases' distributions: at each fraction the median of the rounds."""
    found = []
    for case, measurements in cases.items():
        layers = by_layer(m for m in measurements if any(m.distributions.values()))
        for name in dict.fromkeys(
            n for mine in layers.values() for m in mine for n in m.distributions
        ):
            medians = {
                layer: [
                    (points[0][0], statistics.median(value for _, value in points))
                    for points in zip(
                        *(m.distributions[name] for m in mine if m.distributions.get(name)),
                        strict=True,
                    )
                ]
                for layer, mine in layers.items()
            }
            title = f"{case}: {name}"
            found.append(chart(title, charts.cumulative(title, name, medians), medians))
    return found


def settings(measurements: Iterable[Measurement]) -> list[tuple[str, str, list[str]]]:
    """(layer, its CONFIG, the scenarios that used it)."""
    found: dict[tuple[str, str], list[str]] = {}
    for m in measurements:
        config = ", ".join(f"{k}={v!r}" for k, v in sorted(m.settings.items())) or "defaults"
        scenarios = found.setdefault((m.layer, config), [])
        if m.scenario not in scenarios:
            scenarios.append(m.scenario)
    return [(layer, config, scenarios) for (layer, config), scenarios in found.items()]
