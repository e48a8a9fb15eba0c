"""`python -m stress`, as one runs it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import psutil
import pytest

from stress import results, screen
from stress.__main__ import main, run_parser
from stress.layers import LAYERS
from stress.scenarios import SCENARIOS
from stress.verdict import ZERO
from tests.processes import ROOT
from tests.waiting import wait_until

ENDLESS = ("throughput", "--layer", "memory", "--seconds", "0.2", "--rounds", "1000")
SMALL = ("--layer", "memory", "--seconds", "0.2", "--members", "5", "--rounds", "2")


def begun(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "stress", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, **options)


def in_place(path: Path) -> dict[str, str]:
    """The environment of a run whose files are there: one that is killed cannot clear up."""
    return {**os.environ, "TMPDIR": str(path)}


Tell = Callable[..., int]
"""Runs the command in this process; its exit status."""


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Tell:
    def tell_(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["stress", *arguments])
        return main()

    return tell_


def test_the_list_explains_every_scenario_and_layer(
    tell: Tell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell("--list") == 0
    said = capsys.readouterr().out
    assert [name for name in (*SCENARIOS, *LAYERS) if name not in said] == []


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ([], "latency"),
        (["latancy"], "latency"),
        (["latency", "--layer", "rabbit"], "redis-pubsub"),
        (["latency", "--rounds", "1.5"], "a whole number"),
        (["latency", "--seconds", "nan"], "above 0"),
        (["latency", "--profile", "slow"], "quick"),
        (["latency", "--json", "/no/such/place/x.json"], "a directory that exists"),
        (["compare", "only-one.json"], "FILE.json"),
        (["compare", "no.json", "such.json"], "no.json"),
    ],
)
def test_bad_arguments_get_one_line_that_says_what_is_allowed(
    arguments: list[str], allowed: str, tell: Tell, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tell(*arguments)
    said = capsys.readouterr()
    assert (ended.value.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert allowed in said.err


def test_a_small_run_measures_prints_and_keeps(
    tmp_path: Path, tell: Tell, capsys: pytest.CaptureFixture[str]
) -> None:
    """And names what a layer cannot do."""
    kept, page = tmp_path / "run.json", tmp_path / "run.html"
    process = begun("fanout", "crowd", *SMALL, "--json", str(kept), "--report", str(page))
    said, complaints = process.communicate(timeout=100)
    assert (process.returncode, complaints) == (0, "")
    assert "5 members, one process | memory | 1 | deliveries " in said
    assert "skipped: memory joins no other process: crowd" in said
    run = results.load(kept)
    assert [each.trouble for each in run.measurements] == ["", ""]
    assert all(each.ledger.sent > 0 == each.ledger.lost for each in run.measurements)
    assert run.machine["cores"] > 0
    assert run.versions["channels"]
    assert "<svg" in page.read_text()
    assert tell("compare", str(kept), str(kept)) == 0
    assert "fanout: " in capsys.readouterr().out


def test_an_interrupted_run_ends_its_children_and_prints_what_it_has(tmp_path: Path) -> None:
    """Also where it is asked again, by a supervisor and by Ctrl-C."""
    process = begun(*ENDLESS, "--json", f"{tmp_path}/run.json", "--report", f"{tmp_path}/run.html")
    assert process.stdout is not None
    estimate, first = process.stdout.readline(), process.stdout.readline()
    family = psutil.Process(process.pid).children(recursive=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    said, complaints = process.communicate(timeout=60)
    assert estimate.startswith("2000 measurements, about ")
    assert first.startswith("throughput | 1 sender, one process | memory | 1 | messages")
    assert (process.returncode, complaints) == (130, "")
    assert "interrupted" in said
    assert "ledger: the last five must be zero" in said
    kept = results.load(tmp_path / "run.json")
    assert kept.interrupted
    assert kept.measurements
    assert "interrupted" in (tmp_path / "run.html").read_text()
    assert family
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_an_interrupted_troupe_goes_without_a_word(tmp_path: Path) -> None:
    """Its children end in the middle of what they say."""
    process = begun("chaos", "--layer", "sqlite", "--seconds", "60", env=in_place(tmp_path))
    wait_until(lambda: list(tmp_path.glob("stress-*/lab*/writer*.ledger")), 30)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (130, "")
    assert "interrupted" in said
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_has_kept_what_it_had_measured_and_its_children_go(tmp_path: Path) -> None:
    kept = tmp_path / "run.json"
    process = begun(*ENDLESS, "--json", str(kept), env=in_place(tmp_path))
    assert process.stdout is not None
    for _ in range(3):  # the estimate, and the first two measurements
        process.stdout.readline()
    parent = psutil.Process(process.pid)
    wait_until(lambda: len(parent.children(recursive=True)) > 1)  # a child, born in the nursery
    family = parent.children(recursive=True)
    process.kill()
    process.communicate()
    run = results.load(kept)
    assert run.interrupted
    assert run.measurements[0].ledger.sent > 0
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


def test_the_commands_in_the_readme_are_commands() -> None:
    text = (ROOT / "stress" / "README.md").read_text()
    commands = re.findall(r"python -m stress ([^`#\n]*)", text)
    commands = [command.replace(" R", " --rounds 5 --layer sqlite redis") for command in commands]
    assert len(commands) > 15
    for command in commands:
        words = shlex.split(command)
        if words[0] in ("compare", "tables"):
            continue
        options = run_parser().parse_args(words)
        assert set(options.scenarios) <= set(SCENARIOS)
        assert set(options.layer or ()) <= set(LAYERS)


def test_every_field_of_the_json_and_column_of_the_ledger_is_documented() -> None:
    text = (ROOT / "stress" / "README.md").read_text()
    fields = [field for shape in (results.Run, results.Measurement) for field in fields_of(shape)]
    names = [*(f"`{field.name}`" for field in fields), *screen.ALWAYS, *screen.SOMETIMES, *ZERO]
    assert [name for name in names if name not in text] == []


def test_without_its_packages_it_names_the_command_that_has_them(tmp_path: Path) -> None:
    code = f"import runpy, sys; sys.path.append({str(ROOT)!r}); runpy.run_module('stress.__main__')"
    without_site_packages = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(without_site_packages, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "is not installed; `nox -s stress`" in done.stderr
    assert len(done.stderr.splitlines()) == 1
