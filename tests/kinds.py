"""The layers that a test runs on, as marks: what is given to conftest.py's fixture `kind`."""

import pytest

from tests.conftest import RIVALS, TEST_DATABASE, WATCHERS


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, indirect=True)


by_default = on("auto")
"""Our layer as most projects have it, because the process is alone or its watcher does not matter.
"""
ours = on("auto", TEST_DATABASE)
by_each_watcher = on(*WATCHERS)
"""Where a message crosses from one process to another, which has to wake."""
everybody = on("auto", TEST_DATABASE, *RIVALS)
