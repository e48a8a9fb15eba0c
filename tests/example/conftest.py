"""The example running for the browser tests."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.example import browser
from tests.example.browser import Window
from tests.example.servers import Project, Server


@dataclass(frozen=True)
class Chat:
    """The example as a deployment: two servers and a worker on the same project."""

    project: Project
    first: Server
    second: Server


@pytest.fixture(scope="session", autouse=True)
def direct() -> Iterator[None]:
    """Whatever proxy this machine uses, the way to its own loopback address is direct."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="session")
def migrated_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the two databases as `migrate` leaves them; to copy, not to use."""
    project = Project(tmp_path_factory.mktemp("migrated-example"), "sqlite://")
    project.migrate()
    return project.directory


@pytest.fixture(scope="session")
def chat(migrated_example: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """A deployment that tests share."""
    place = tmp_path_factory.mktemp("example") / "data"
    project = Project(Path(shutil.copytree(migrated_example, place)), "sqlite://")
    with project.daphne() as first, project.daphne() as second, project.worker("summaries"):
        yield Chat(project, first, second)


@pytest.fixture
def project(migrated_example: Path, tmp_path: Path) -> Project:
    """A project of the test's own, on our layer."""
    return Project(Path(shutil.copytree(migrated_example, tmp_path / "data")), "sqlite://")


@pytest.fixture
def room() -> str:
    """A room where no other test talks."""
    return f"room-{uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def browsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Window, Window]]:
    if browser.CHROMIUM is None or browser.CHROMEDRIVER is None:
        pytest.skip("no chromium and chromedriver here")  # the layer is tested without browsers
    # Selenium logs whole pages at DEBUG, and pytest would keep them for every failure.
    logging.getLogger("selenium").setLevel(logging.INFO)
    with ExitStack() as stack:
        first, second = (
            Window(stack.enter_context(browser.chromium(tmp_path_factory.mktemp("profile"))))
            for _ in range(2)
        )
        yield first, second


@pytest.fixture
def windows(browsers: tuple[Window, Window]) -> Iterator[tuple[Window, Window]]:
    """Two windows of two browsers; whatever a page writes to its console fails the test."""
    for window in browsers:
        window.complaints()  # of a test that failed
    yield browsers
    complaints = [complaint for window in browsers for complaint in window.complaints()]
    for window in browsers:
        window.leave()
    assert complaints == []


@pytest.fixture
def ada(windows: tuple[Window, Window], chat: Chat, room: str) -> Window:
    """Ada's window, in the room, on the first server."""
    windows[0].enter(chat.first.url, room, "Ada")
    return windows[0]


@pytest.fixture
def ben(windows: tuple[Window, Window], chat: Chat, room: str) -> Window:
    """Ben's window, in the room, on the second server."""
    windows[1].enter(chat.second.url, room, "Ben")
    return windows[1]
