"""Results: what is kept, what is read from it, and two runs side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stress import compare, report, results, screen
from stress.__main__ import conclude
from stress.measure import Ratio
from stress.results import Measurement, Run
from stress.verdict import ZERO, Verdict


def measurement(layer: str, number: int, delay: float, **fields: Any) -> Measurement:
    made = Measurement(
        scenario="latency",
        case="one way",
        layer=layer,
        round=number,
        arguments={"processes": 2},
        settings={},
        load=0.5,
        figures={"p50": delay, "note": 1.0},
        distributions={"delay ms": [(0.0, delay / 2), (1.0, delay * 2)]},
    )
    return replace(made, **fields)


def run(*measurements: Measurement) -> Run:
    return Run(
        command="python -m stress latency",
        started="2026-01-01T00:00:00+00:00",
        machine={**NAMES, "cores": 2, "memory": 2**34, "load": [0.1, 0.2, 0.3]},
        versions={"python": "3.12"},
        commit="abc1234",
        layers=["sqlite", "redis"],
        figures={"latency": FIGURES},
        measurements=list(measurements),
    )


NAMES = {"system": "Linux", "processor": "<b>fast</b>", "filesystem": "ext4"}
FIGURES = {
    "p50": {"unit": "ms", "better": "less", "says": ""},
    "note": {"unit": "", "better": "", "says": "neither better nor worse"},
}
PAIR = [
    *(measurement("redis", number, delay) for number, delay in ((1, 2.0), (2, 4.0), (3, 2.0))),
    *(measurement("sqlite", number, delay) for number, delay in ((1, 1.0), (2, 1.0), (3, 3.0))),
]


def test_rows_have_medians_with_their_spread_and_ratios_by_round() -> None:
    row, note = results.rows(run(*PAIR))
    assert list(row.layers) == ["sqlite", "redis"]
    sqlite = row.layers["sqlite"]
    assert (sqlite.median, sqlite.low, sqlite.high, sqlite.rounds) == (1.0, 1.0, 3.0, 3)
    assert row.ratios == {"sqlite": {"redis": Ratio(0.5, 0.25, 1.5)}}
    assert (note.figure, note.ratios) == ("note", {})  # neither better nor worse


def test_results_survive_the_file(tmp_path: Path) -> None:
    first, second = tmp_path / "run.json", tmp_path / "again.json"
    results.save(run(*PAIR, broken("sqlite", lost=1, examples=["lost: x"])), first)
    after = results.load(first)
    results.save(after, second)
    assert first.read_text() == second.read_text()
    assert after.measurements[-1].ledger.lost == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', "\x00"])
def test_a_file_that_holds_no_results_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(results.UnknownFormatError, match=r"other\.json"):
        results.load(path)


def broken(layer: str, **ledger: Any) -> Measurement:
    return measurement(layer, 1, 1.0, ledger=Verdict(**ledger))


WHOLE = "well: channels-sqlite in 1 measurement: 2,000 accepted, 2,000 received, 0 lost, "
BROKEN = "broken: latency (one way) on sqlite"


@pytest.mark.parametrize(
    ("measured", "status", "words"),
    [
        ([broken("sqlite", accepted=2000, received=2000), broken("redis", lost=1)], 0, WHOLE),
        *(([*PAIR, broken("sqlite", **{each: 1})], 1, BROKEN) for each in ZERO),
        ([measurement("sqlite", 1, 1.0, trouble="hung"), *PAIR], 1, BROKEN),
        ([broken("redis", lost=1)], 0, "nothing was measured on channels-sqlite"),
    ],
)
def test_a_run_ends_with_our_verdict_and_a_failure_of_ours_fails_it(
    measured: list[Measurement], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conclude(Console(width=160), run(*measured)) == status
    assert capsys.readouterr().out.splitlines()[-1].startswith(words)


def test_a_change_is_one_only_where_no_round_reaches_the_other_runs() -> None:
    old, faster, similar = (
        run(measurement("sqlite", 1, one), measurement("sqlite", 2, other))
        for one, other in ((1.0, 1.2), (0.5, 0.6), (0.9, 1.1))
    )
    (change, _) = compare.changes(old, faster)
    assert change.verdict == "better"
    assert change.ratio == Ratio(0.5, pytest.approx(0.5 / 1.2), 0.6)  # type: ignore[arg-type]
    assert compare.changes(faster, old)[0].verdict == "worse"
    assert compare.changes(old, similar)[0].verdict == ""
    changes = compare.changes(run(*PAIR), run(*PAIR[3:]))  # without redis
    assert {change.layer for change in changes} == {"sqlite"}


def test_what_is_excused_is_named_on_the_page_and_in_short_on_the_screen() -> None:
    excuses = [*(f"s#{number} to c: p was killed" for number in range(5)), "s#9 to d: a fault"]
    found = run(broken("sqlite", excused=6, excuses=excuses))
    assert screen.excuses(found) == [
        "latency: one way: sqlite, round 1: 5 not received, p was killed: "
        "s#0 to c, s#1 to c, s#2 to c, ...",
        "latency: one way: sqlite, round 1: 1 not received, a fault: s#9 to d",
    ]
    page = report.page(run(*found.measurements, broken("redis", lost=3, examples=["lost: y"])))
    assert all(excuse in page for excuse in [*excuses, "lost: y"])


def test_a_page_draws_all_layers_escapes_what_it_is_told_and_needs_nothing_from_anywhere() -> None:
    page = report.page(run(*PAIR, measurement("sqlite", 4, 1.0, trouble="<i>bad</i>")))
    remote = ("src=", "href=", "@import", "url(http", "<script", "<link")
    for absent in (*remote, "#0101", "<b>fast", "<i>bad"):
        assert absent not in page.replace('href="#', "")
    drawn = ('name="viewport"', "var(--layer0)", "var(--layer5)", "&lt;i&gt;bad")
    for present in ("prefers-color-scheme: dark", *drawn):
        assert present in page
    assert page.count("<svg") == 1


def test_a_page_begins_with_a_picture_of_ours_and_theirs() -> None:
    behind = [measurement("redis", 1, 1.0), measurement("sqlite", 1, 4.0)]
    page = report.page(run(*behind))
    assert page.index('class="picture"') < page.index("Ours / theirs") < page.index("Ledger")
    assert '<p class="red">4 x worse than channels_redis</p>' in page
    assert "width:calc((100% - 5rem) * 25 / 100);background:var(--layer5)" in page
    assert 'class="picture"' not in report.page(run(measurement("sqlite", 1, 4.0)))
