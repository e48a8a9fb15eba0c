"""How `python -m stress` begins and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir

import pytest
from rich.console import Console

from stress import machine
from stress.__main__ import conclude
from stress.results import Measurement, Run
from stress.verdict import Verdict
from tests.processes import ROOT

WHOLE = Verdict(sent=2000, accepted=2000, received=2000)
LOSING = Verdict(sent=9, accepted=9, received=8, lost=1, examples=["lost: a#1"])


def ran(**ledgers: Verdict) -> Run:
    """A run of one scenario, with these ledgers by layer."""
    here = machine.machine(Path(gettempdir()))
    run = Run("", "", here, machine.versions(), "", [*ledgers], figures={"latency": {}})
    for layer, ledger in ledgers.items():
        run.measurements.append(
            Measurement("latency", "a case", layer, 1, {}, {}, 0, ledger=ledger)
        )
    return run


@pytest.mark.parametrize(
    ("run", "status", "words"),
    [
        (
            ran(sqlite=WHOLE, redis=LOSING),
            0,
            "well: channels-sqlite in 1 measurement: 2,000 accepted, 2,000 received, 0 lost, ",
        ),
        (ran(sqlite=LOSING, redis=WHOLE), 1, "broken: latency (a case) on sqlite"),
        (ran(redis=LOSING), 0, "nothing was measured on channels-sqlite"),
    ],
    ids=["a rival's failure", "a failure of ours", "without ours"],
)
def test_a_run_ends_with_our_verdict(
    run: Run, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conclude(Console(width=160), run) == status
    assert capsys.readouterr().out.splitlines()[-1].startswith(words)


def test_without_its_packages_it_names_the_command_that_has_them(tmp_path: Path) -> None:
    code = f"import runpy, sys; sys.path.append({str(ROOT)!r}); runpy.run_module('stress.__main__')"
    without_site_packages = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(without_site_packages, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "is not installed; `nox -s stress`" in done.stderr
    assert len(done.stderr.splitlines()) == 1
