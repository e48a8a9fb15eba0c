"""The plugin that says what a run left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

TESTS = """
import pytest

@pytest.mark.parametrize("window", [1, 2])
def test_in_a_browser(window):
    pytest.skip("no Chromium here")

@pytest.mark.skipif(True, reason="no redis-server here")
def test_beside_redis():
    ...

def test_anywhere():
    ...
"""


def left_out(tests: str, directory: Path) -> list[str]:
    """What a pytest of its own says to have left out of `tests`."""
    (directory / "pytest.ini").write_text("[pytest]\naddopts = -p tests.environment\n")
    (directory / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-c", str(directory / "pytest.ini"), str(directory)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in run.stdout.splitlines() if line.startswith("Left out")]


def test_names_what_was_left_out_in_one_line(tmp_path: Path) -> None:
    assert left_out(TESTS, tmp_path) == [
        "Left out: 2 for no Chromium here; 1 for no redis-server here."
    ]


def test_says_nothing_when_nothing_was_left_out(tmp_path: Path) -> None:
    assert left_out("def test_anywhere():\n    ...\n", tmp_path) == []
