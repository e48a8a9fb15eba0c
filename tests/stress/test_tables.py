"""The documents' tables: written from one committed file, and held against it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from stress import figures, tables
from stress.__main__ import write_tables
from stress.results import Measurement, Run, save
from tests.stress.test_results import PAIR, measurement, run

DOCUMENT = "before\n\n<!-- table: {} -->\nold\n<!-- end -->\n\nafter\n"


def test_the_documents_say_what_the_committed_figures_of_all_lines_say() -> None:
    found = figures.load()
    assert tables.outdated(found) == [], "python -m stress tables"
    documents = dict(tables.documents(tables.ROOT))
    assert {"design.md", "outgrowing.md"} < {path.name for path in documents}
    assert [path for path, text in documents.items() if "| not measured |" in text] == []
    users = documents[tables.ROOT / "README.md"].partition("<!-- table")[2].partition("<!-- end")[0]
    assert 5 <= len([line for line in tables.LINES if "readme" in line.tables]) <= 10
    assert "**" in users  # losses, too
    measured = {(row.scenario, row.case) for row in figures.rows(found)}
    assert {(line.scenario, line.case) for line in tables.LINES} <= measured


def few(*measurements: Measurement) -> Run:
    """A run of the case that the first line is about."""
    (line, *_) = tables.LINES
    names = {"sqlite": "sqlite:inotify"}
    made = [
        replace(m, case=line.case, layer=names.get(m.layer, m.layer)) for m in measurements or PAIR
    ]
    return replace(run(*made), layers=["sqlite:inotify", "redis"])


def cells(line: tables.Line, *runs: Run) -> list[str]:
    return tables.cells(line, figures.rows(figures.summary(runs)))


def test_a_line_has_ours_theirs_and_the_ratio_which_is_bold_where_ours_is_always_behind() -> None:
    (line, *_) = tables.LINES
    assert cells(line, few())[1:] == ["1 ms", "2 ms", "-", "0.5 / -"]
    worse = [
        *(measurement("redis", number, 1.0) for number in (1, 2)),
        *(measurement("sqlite", number, 3.0) for number in (1, 2)),
    ]
    assert cells(line, few(*worse))[-1] == "**3** / -"


def test_only_a_case_that_was_measured_has_lines_and_there_a_figure_may_not_lack() -> None:
    _, *found = tables.table("design", figures.rows(figures.summary([few()])))
    case = [line for line in tables.LINES if line.case == tables.LINES[0].case]
    assert [says for says, *_ in found] == [line.says for line in case]
    assert found[1] == [case[1].says, "not measured", "not measured", "not measured", "-"]


def test_a_rival_that_does_not_get_there_is_said_not_to() -> None:
    (line,) = (line for line in tables.LINES if line.absent != "-")
    made = [
        replace(m, scenario=line.scenario, case=line.case, figures={line.figure: 4.0})
        for m in (measurement("sqlite:inotify", 1, 1.0), measurement("redis-pubsub", 1, 1.0))
    ]
    meaning = {line.scenario: {line.figure: {"unit": "ms", "better": "less", "says": ""}}}
    layers = ["sqlite:inotify", "redis", "redis-pubsub"]
    whole = replace(run(*made), figures=meaning, layers=layers)
    assert cells(line, whole)[2] == line.absent


def test_the_file_gives_back_the_rows_it_was_made_of(tmp_path: Path) -> None:
    found = figures.summary([few()])
    figures.save(found, tmp_path / "figures.json")
    again = figures.load(tmp_path / "figures.json")
    assert again == json.loads(json.dumps(found))
    assert figures.rows(again) == figures.rows(found)


def test_of_a_case_that_two_runs_have_the_last_ones_figures_count_and_commits_do_not_mix() -> None:
    other = few(measurement("sqlite", 1, 9.0))
    (row, *_) = figures.rows(figures.summary([few(), other]))
    assert {name: each.median for name, each in row.layers.items()} == {"sqlite:inotify": 9.0}
    with pytest.raises(figures.DifferentRunsError, match="abc1234 then, def5678 now"):
        figures.merged([few(), replace(few(), commit="def5678")])


def test_a_document_that_was_changed_by_hand_is_named_and_mended(tmp_path: Path) -> None:
    found = figures.load()
    page = tmp_path / "README.md"
    page.write_text(DOCUMENT.format("readme"))
    assert tables.outdated(found, tmp_path) == [page]
    assert "old" in page.read_text()
    assert tables.outdated(found, tmp_path, mend=True) == [page]
    assert tables.outdated(found, tmp_path) == []
    text = page.read_text()
    assert text.startswith("before\n\n<!-- table: readme -->\n\n")
    assert text.endswith("\n\n<!-- end -->\n\nafter\n")
    page.write_text(re.sub(r"\d ms", "0 ms", text, count=1))
    assert tables.outdated(found, tmp_path) == [page]


def test_the_command_checks_the_documents_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(few(), tmp_path / "run.json")
    before = figures.PATH.read_bytes(), (tables.ROOT / "README.md").read_bytes()
    assert write_tables(["--check"]) == 0
    assert write_tables([str(tmp_path / "run.json"), "--check"]) == 1
    assert f"differs: {tables.ROOT / 'README.md'}" in capsys.readouterr().out
    assert (figures.PATH.read_bytes(), (tables.ROOT / "README.md").read_bytes()) == before
    with pytest.raises(SystemExit) as refused:
        write_tables([str(tmp_path / "none.json")])
    assert refused.value.code == 2
