"""The figures that the documents show: one committed file, made of runs of one commit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stress import compare, results
from stress.layers import LAYERS
from stress.measure import Ratio
from stress.results import Measurement, Row, Run, Summary, is_ours
from stress.verdict import ZERO, Verdict

PATH = Path(__file__).with_name("results") / "figures.json"


class DifferentRunsError(ValueError):
    """Runs whose figures must not stand in one table."""


def merged(runs: Sequence[Run]) -> Run:
    """Merge several runs into one. If more than one has measured a case, the last one counts."""
    first = runs[0]
    cases: dict[tuple[str, str], list[Measurement]] = {}
    for run in runs:
        if found := compare.differences(first, run)[:-1]:  # the last one is the load
            raise DifferentRunsError(f"{run.command} is not of the same code: {'; '.join(found)}")
        cases |= results.cases_of(run)
    return replace(
        first,
        layers=[name for name in LAYERS if any(name in run.layers for run in runs)],
        figures={name: meanings for run in runs for name, meanings in run.figures.items()},
        measurements=[each for made in cases.values() for each in made],
    )


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The contents of the file."""
    whole = merged(runs)
    ours = sum((m.ledger for m in whole.measurements if is_ours(m.layer)), Verdict())
    return {
        "commit": whole.commit,
        "date": whole.started[:10],
        "runs": [
            {
                "command": re.sub(r" --(json|report)[ =]\S+", "", run.command),
                "load": run.machine["load"][0],
                "seconds": round(run.seconds),
            }
            for run in runs
        ],
        "machine": {name: value for name, value in whole.machine.items() if name != "load"},
        "versions": whole.versions,
        "ledger": {name: getattr(ours, name) for name in ("sent", "received", *ZERO)},
        "rows": [
            kept(row) for row in sorted(results.rows(whole), key=lambda r: (r.scenario, r.case))
        ],
    }


def kept(row: Row) -> dict[str, Any]:
    """A row of the file: medians, smallest and largest by layer, and ratios by ours and rival."""
    return {
        "scenario": row.scenario,
        "case": row.case,
        "figure": row.figure,
        "unit": row.unit,
        "better": row.better,
        "rounds": max(each.rounds for each in row.layers.values()),
        "layers": {name: spread(each) for name, each in row.layers.items()},
        "ratios": {
            ours: {rival: spread(each) for rival, each in rivals.items()}
            for ours, rivals in row.ratios.items()
        },
    }


def spread(value: Summary | Ratio) -> list[float]:
    return [float(f"{each:.4g}") for each in (value.median, value.low, value.high)]


def rows(found: Mapping[str, Any]) -> list[Row]:
    """Read the rows: the inverse of `kept`."""
    made = []
    for row in found["rows"]:
        fields = dict(row)
        rounds = fields.pop("rounds")
        fields["layers"] = {name: Summary(*[*v, rounds]) for name, v in row["layers"].items()}
        fields["ratios"] = {
            ours: {rival: Ratio(*v) for rival, v in rivals.items()}
            for ours, rivals in row["ratios"].items()
        }
        made.append(Row(**fields))
    return made


def save(found: Mapping[str, Any], path: Path = PATH) -> None:
    """Write JSON with a line for each row, so that a diff can be read."""
    head = (f" {json.dumps(k)}: {json.dumps(v)},\n" for k, v in found.items() if k != "rows")
    lines = ",\n".join(f"  {json.dumps(row)}" for row in found["rows"])
    path.write_text("{\n" + "".join(head) + ' "rows": [\n' + lines + "\n ]\n}\n")


def load(path: Path = PATH) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
