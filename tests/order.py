"""A pytest plugin: what lasts long begins first, so that no worker is left with it at the end.

pytest-xdist's `worksteal` cuts the list into a share for each worker. A worker that is done takes
from the end of another's share. So each share begins with a folder of long tests, and servers and
browsers that the tests of a folder share are started once. Loaded with `-p` in pyproject.toml.
"""

from __future__ import annotations

import pytest

LONG = ("tests/example/", "tests/docs/", "tests/stress/", "tests/faults/")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    workers: int = getattr(config, "workerinput", {}).get("workercount", 1)
    long = [[item for item in items if item.nodeid.startswith(folder)] for folder in LONG]
    rest = [item for item in items if not item.nodeid.startswith(LONG)]
    ordered: list[pytest.Item] = []
    for number in range(workers):
        begins = [item for folder in long[number::workers] for item in folder]
        end = max(len(items) // workers - len(begins), 0)
        ordered += [*begins, *rest[:end]]
        rest = rest[end:]
    items[:] = ordered + rest
