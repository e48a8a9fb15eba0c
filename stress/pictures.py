"""The first figures of the page: one for each scenario, ours and theirs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stress import screen, tables
from stress.layers import LAYERS
from stress.measure import Ratio
from stress.results import Row, Run, is_ours

UNITS = {
    "ms": "milliseconds",
    "s": "seconds of the processor",
    "/s": "a second",
    "%": "% of a core",
}
AIMS = {"less": "shorter is better", "more": "longer is better"}


@dataclass(frozen=True)
class Bar:
    title: str
    ours: bool
    colour: int  # the number of the layer
    width: int  # %, of the longest
    value: str


@dataclass(frozen=True)
class Picture:
    scenario: str
    title: str
    aim: str
    bars: list[Bar]
    verdicts: list[tuple[str, str]]  # colour and words


def pictures(run: Run, rows: Sequence[Row]) -> Iterator[Picture]:
    """The README's first line of each scenario with rivals, otherwise the first figure."""
    for scenario in run.figures:
        mine = [row for row in rows if row.scenario == scenario and row.ratios]
        for line in sorted(tables.LINES, key=lambda line: not line.tables):
            if (row := tables.row_of(mine, line)) is not None:
                yield picture(run, row, line.says.removesuffix(", p50"), line.absent)
                break
        else:
            if mine:
                yield picture(run, mine[0], f"{scenario}: {mine[0].case}, {mine[0].figure}", "-")


def picture(run: Run, row: Row, title: str, absent: str) -> Picture:
    rivals = [name for name in run.layers if not is_ours(name)]
    never = [name for name in rivals if name not in row.layers and absent != "-"]
    # A bar that has no end is twice as long as the longest that has one.
    longest = max(each.median for each in row.layers.values()) * (2 if never else 1)
    bars = []
    for colour, (name, layer) in enumerate(LAYERS.items()):
        if name in row.layers:
            median = row.layers[name].median
            value = screen.number(median, row.unit if row.unit in ("ms", "%") else "")
            width = round(100 * median / longest) if longest else 0
            bars.append(Bar(layer.title, layer.ours, colour, width, value))
        elif name in never:
            bars.append(Bar(layer.title, layer.ours, colour, 100, absent))
    ratios = next(iter(row.ratios.values()))
    return Picture(
        row.scenario,
        title[0].upper() + title[1:],
        f"{UNITS.get(row.unit, row.unit)}: {AIMS[row.better]}",
        bars,
        [
            (screen.ahead(ratio, row.better), words(ratio, row.better, LAYERS[rival].title))
            for rival, ratio in ratios.items()
        ]
        + [("green", f"better than {LAYERS[name].title}") for name in never],
    )


def words(ratio: Ratio, better: str, rival: str) -> str:
    """The words for a ratio, such as: 1.6 x better than channels_redis."""
    colour = screen.ahead(ratio, better)
    if colour == "yellow" or not ratio.median:
        return f"much like {rival}"
    factor = screen.number(max(ratio.median, 1 / ratio.median))
    return f"{factor} x {'better' if colour == 'green' else 'worse'} than {rival}"
