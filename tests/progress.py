"""A pytest plugin: with several processes, a line for each file of tests when its last one is done,
and no dots, which say nothing then. Loaded with `-p` in pyproject.toml.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest


class ByFile:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tests: Counter[str] = Counter()
        self._done: Counter[str] = Counter()

    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self._tests = Counter(map(file_of, ids))  # each process has collected all of them

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: object) -> tuple[str, str, str] | None:
        if isinstance(report, pytest.TestReport) and report.when == "call" and report.passed:
            return None if hasattr(report, "wasxfail") else ("passed", "", "")
        return None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        file = file_of(nodeid)
        self._done[file] += 1
        if self._done[file] == self._tests[file]:
            reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
            share = 100 * self._done.total() // self._tests.total()
            reporter.write_line(f"{share:3}%  {file}: {self._done[file]}")


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and not config.option.verbose:
        config.pluginmanager.register(ByFile(config))
