"""The plugin that says what a run left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(("not_accepted", "status"), [("no bash here", 0), ("no Chromium here", 1)])
def test_names_what_was_left_out_in_one_line_and_fails_if_it_must_not_be(
    tmp_path: Path, not_accepted: str, status: int
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p tests.environment\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", str(tmp_path / "pytest.ini"), str(tmp_path)]
    ours = {
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # they take four times as long as all of the rest
        "TESTS_NOT_LEFT_OUT": f"no other;{not_accepted}",
    }
    environment = os.environ | ours
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert run.returncode == status
    said = [line for line in run.stdout.splitlines() if line.startswith("Left out")]
    assert said == ["Left out: 2 for no Chromium here; 1 for no redis-server here."]
