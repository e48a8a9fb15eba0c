"""The output: a live table with a progress bar, or plain lines if there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stress.layers import Layer
from stress.measure import Ratio
from stress.plan import Case, Scenario
from stress.program import Program
from stress.results import Measurement, Row, Run, Skipped, Summary, is_ours, rows
from stress.verdict import ZERO, Verdict

RECENT = 12  # lines of the live table
NAMED = 3  # messages of each excuse


def number(value: float, unit: str = "") -> str:
    """Three significant digits, and the unit."""
    if value == 0:
        text = "0"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return f"{text} {unit}".strip() if unit != "%" else f"{text} %"


def spread(value: Summary | Ratio, unit: str = "") -> str:
    if value.low == value.high:
        return number(value.median, unit)
    return f"{number(value.median, unit)} ({number(value.low)}..{number(value.high)})"


LEVEL = 0.02  # a ratio so near to 1 is neither ahead nor behind


def ahead(ratio: Ratio, better: str) -> str:
    """The colour of a ratio: green only if every round was ahead, red if every one was behind."""
    above, below = ratio.low >= 1 + LEVEL, ratio.high <= 1 - LEVEL
    if better == "less":
        above, below = below, above
    return "green" if above else "red" if below else "yellow"


def balance(verdict: Verdict) -> str:
    if verdict.broken:
        return ", ".join(f"{name} {n}" for name in ZERO if (n := getattr(verdict, name)))
    return "balances"


def brief(trouble: str) -> str:
    """The last line of a traceback; the JSON has all of it."""
    return trouble.splitlines()[-1]


class Screen:
    """An observer that shows each measurement."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.recent: list[tuple[str, ...]] = []
        self.progress = Progress(
            BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
        )
        self.task = self.progress.add_task("", total=None)
        self.live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def _render(self) -> Group:
        table = Table("scenario", "case", "layer", "round", "measured", "ledger", box=None)
        for row in self.recent[-RECENT:]:
            table.add_row(*map(escape, row))
        return Group(table, self.progress)

    def begins_run(self, whole: Program, skipped: Sequence[Skipped]) -> None:
        for line in (*skipped_lines(skipped), estimate(whole)):
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self.progress.update(self.task, total=whole.measurements)

    def begins(self, scenario: Scenario, case: Case, layer: Layer, number: int) -> None:
        description = f"{scenario.name}: {case.name}: {layer.name}, round {number}"
        self.progress.update(self.task, description=escape(description))

    def measured(self, scenario: Scenario, measurement: Measurement) -> None:
        figures = ", ".join(
            f"{figure.name} {number(measurement.figures[figure.name], figure.unit)}"
            for figure in scenario.figures
            if figure.name in measurement.figures
        )
        row = (
            measurement.scenario,
            measurement.case,
            measurement.layer,
            str(measurement.round),
            brief(measurement.trouble) if measurement.trouble else figures,
            "-" if measurement.trouble else balance(measurement.ledger),
        )
        self.recent.append(row)
        self.progress.advance(self.task)
        if not self.console.is_terminal:
            self.console.print(" | ".join(row), highlight=False, markup=False, soft_wrap=True)


def estimate(whole: Program) -> str:
    """The number of measurements, and about how long they take on a quiet machine."""
    minutes, seconds = divmod(round(whole.seconds), 60)
    lasts = f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
    many = "1 measurement" if whole.measurements == 1 else f"{whole.measurements} measurements"
    return f"{many}, about {lasts} on a quiet machine (--rounds and --seconds shorten it)"


def skipped_lines(skipped: Sequence[Skipped]) -> list[str]:
    """A line for each layer and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in skipped:
        what = f"{one.scenario} ({one.case})" if one.scenario else "everything"
        found.setdefault((one.layer, one.why), []).append(what)
    return [f"skipped: {layer} {why}: {', '.join(cases)}" for (layer, why), cases in found.items()]


def report(console: Console, run: Run) -> None:
    """Print a whole run: the machine, the figures, the ratios, the ledger."""
    console.print(header(run), highlight=False, markup=False, soft_wrap=True)
    found = rows(run)
    for scenario in dict.fromkeys(row.scenario for row in found):
        console.print(figures_table(scenario, [row for row in found if row.scenario == scenario]))
    if any(row.ratios for row in found):
        console.print(ratio_table(found))
    console.print(ledger_table(run))
    for line in (*excuses(run), *troubles(run)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def header(run: Run) -> str:
    machine, versions = run.machine, run.versions
    load = ", ".join(map(str, machine["load"]))
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"\n{run.command}\n{run.started}, commit {run.commit or 'unknown'}, {run.seconds:.0f} s"
        f"{', interrupted' if run.interrupted else ''}\n"
        f"{machine['cores']} cores of {machine['processor']}, {machine['system']}, "
        f"{machine['memory'] / 2**30:.0f} GiB, {machine['filesystem']}, load {load}\n{software}\n"
    )


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < 2 else "right", overflow="fold")
    return made


def figures_table(scenario: str, found: list[Row]) -> Table:
    layers = list(dict.fromkeys(name for row in found for name in row.layers))
    made = table(f"{scenario}: medians (smallest..largest of the rounds)", "case", "", *layers)
    last = ""
    for row in found:
        made.add_row(
            row.case if row.case != last else "",
            f"{row.figure} {row.unit}",
            *(spread(row.layers[name]) if name in row.layers else "-" for name in layers),
        )
        last = row.case
    return made


def ratio_table(found: list[Row]) -> Table:
    pairs = pairs_of(found)
    columns = (f"{ours} / {rival}" for ours, rival in pairs)
    made = table("ours / theirs: median (smallest..largest of the rounds)", "case", "", *columns)
    for row in found:
        if not row.ratios:
            continue
        cells = []
        for ours, rival in pairs:
            ratio = row.ratios.get(ours, {}).get(rival)
            colour = ahead(ratio, row.better) if ratio else ""
            cells.append(f"[{colour}]{spread(ratio)}[/]" if ratio else "-")
        aim = f"{row.figure}, {row.better} is better"
        made.add_row(escape(f"{row.scenario}: {row.case}"), aim, *cells)
    return made


def pairs_of(found: Iterable[Row]) -> list[tuple[str, str]]:
    """Ours and rival, each pair that any row has."""
    pairs = (
        (ours, rival) for row in found for ours, rivals in row.ratios.items() for rival in rivals
    )
    return list(dict.fromkeys(pairs))


ALWAYS = ("sent", "accepted", "received")
SOMETIMES = ("refused", "failed", "unknown", "dropped", "expired", "excused")


def ledgers(run: Run) -> dict[tuple[str, str], Verdict]:
    """(scenario, layer) -> the sum of its ledgers, and ("all", layer) -> the sum of those."""
    found: dict[tuple[str, str], Verdict] = {}
    total: dict[tuple[str, str], Verdict] = {}
    for m in run.measurements:
        found[m.scenario, m.layer] = found.get((m.scenario, m.layer), Verdict()) + m.ledger
        total["all", m.layer] = total.get(("all", m.layer), Verdict()) + m.ledger
    return found | total if len({scenario for scenario, _ in found}) > 1 else found


def ledger_columns(found: Iterable[Verdict]) -> list[str]:
    """The columns to show: without those that are zero everywhere, unless they must be zero."""
    verdicts = list(found)
    used = (name for name in SOMETIMES if any(getattr(verdict, name) for verdict in verdicts))
    return [*ALWAYS, *used, *ZERO]


def ledger_table(run: Run) -> Table:
    found = ledgers(run)
    columns = ledger_columns(found.values())
    made = table("ledger: the last five must be zero", "scenario", "layer", *columns)
    last = ""
    for (scenario, layer), verdict in found.items():
        if last and scenario != last:
            made.add_section()
        values = {name: getattr(verdict, name) for name in columns}
        cells = (f"[red]{n:,}[/]" if name in ZERO and n else f"{n:,}" for name, n in values.items())
        made.add_row(scenario if scenario != last else "", layer, *cells)
        last = scenario
    return made


def excuses(run: Run) -> list[str]:
    """A line for each reason why something of ours was excused, or expired early, with a few names.

    The JSON and the page have all of them.
    """
    lines = []
    for where, names in excused(run).items():
        reasons: dict[str, list[str]] = {}
        for excuse in names:
            name, _, reason = excuse.rpartition(": ")
            reasons.setdefault(reason, []).append(name)
        for reason, found in reasons.items():
            few = ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")
            lines.append(f"{where}: {len(found)} not received, {reason}: {few}")
    return lines


def excused(run: Run) -> dict[str, list[str]]:
    """Place -> every delivery of ours that is missing because of something the harness did."""
    return {
        place(measurement): measurement.ledger.excuses
        for measurement in run.measurements
        if is_ours(measurement.layer) and measurement.ledger.excuses
    }


def place(measurement: Measurement) -> str:
    return (
        f"{measurement.scenario}: {measurement.case}: {measurement.layer}, "
        f"round {measurement.round}"
    )


def troubles(run: Run) -> list[str]:
    """A line for each thing that went wrong, ours first."""
    lines = []
    for measurement in sorted(run.measurements, key=lambda m: not is_ours(m.layer)):
        where = place(measurement)
        if measurement.trouble:
            lines.append(f"{where}: {brief(measurement.trouble)}")
        if measurement.ledger.broken:
            examples = "; ".join(measurement.ledger.examples[:2])
            lines.append(f"{where}: {balance(measurement.ledger)}: {examples}")
    return lines
