"""A user's project: its own tests, with Django's runner and its database in memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "order", [[], ["--reverse"], ["--shuffle"]], ids=lambda each: "".join(each)
)
def test_its_tests_pass(order: list[str]) -> None:
    command = [sys.executable, "-W", "error", "-m", "django", "test", "tests.project", *order]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.project.settings"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 8 tests" in done.stderr
