"""Two runs side by side: `python -m stress compare OLD.json NEW.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from stress import results, screen
from stress.measure import Ratio
from stress.results import Row, Run, Summary


@dataclass(frozen=True)
class Change:
    """One figure of one layer, then and now."""

    scenario: str
    case: str
    figure: str
    better: str
    layer: str
    old: Summary
    new: Summary

    @property
    def ratio(self) -> Ratio | None:
        """New / old, from the worst to the best pair of rounds; None if old has a zero."""
        if not (self.old.low > 0 and self.new.low > 0):
            return None
        return Ratio(
            self.new.median / self.old.median,
            self.new.low / self.old.high,
            self.new.high / self.old.low,
        )

    @property
    def verdict(self) -> str:
        """Return "better" or "worse" only if no round of one run reaches those of the other."""
        if not self.better or (self.old.low <= self.new.high and self.new.low <= self.old.high):
            return ""
        more = self.new.median > self.old.median
        return "better" if more == (self.better == "more") else "worse"


def changes(old: Run, new: Run) -> list[Change]:
    """The changes of all figures that both runs have."""

    def index(row: Row) -> tuple[str, str, str]:
        return (row.scenario, row.case, row.figure)

    before = {index(row): row for row in results.rows(old)}
    return [
        Change(row.scenario, row.case, row.figure, row.better, layer, then.layers[layer], now)
        for row in results.rows(new)
        if (then := before.get(index(row))) is not None
        for layer, now in row.layers.items()
        if layer in then.layers
    ]


def differences(old: Run, new: Run) -> list[str]:
    """The other differences between the runs, which may be the reason."""
    then = {**old.machine, **old.versions, "commit": old.commit}
    now = {**new.machine, **new.versions, "commit": new.commit}
    names = [name for name in now if name != "load" and then.get(name) != now[name]]
    loads = f"load {old.machine['load'][0]} then, {new.machine['load'][0]} now"
    return [*(f"{name}: {then.get(name)} then, {now[name]} now" for name in names), loads]


def compare(console: Console, paths: Sequence[Path]) -> None:
    old, new = (results.load(path) for path in paths)
    for line in differences(old, new):
        console.print(line, highlight=False, markup=False)
    made = screen.table(
        "new / old: medians (smallest..largest)",
        "case",
        "figure",
        "layer",
        "old",
        "new",
        "ratio",
        "",
    )
    for change in changes(old, new):
        colour = {"better": "green", "worse": "red"}.get(change.verdict, "")
        verdict = f"[{colour}]{change.verdict}[/]" if colour else ""
        ratio = change.ratio
        made.add_row(
            escape(f"{change.scenario}: {change.case}"),
            change.figure,
            change.layer,
            screen.spread(change.old),
            screen.spread(change.new),
            screen.spread(ratio) if ratio else "-",
            verdict,
        )
    console.print(made)
