"""The tutorial's blocks, run as they stand on the page, make a chat."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.docs.blocks import TUTORIAL, Block, blocks
from tests.docs.project import PATIENCE, Project, needs_bash

pytestmark = needs_bash

# The other runner, which imports the file before it makes its environment.
PYTEST = "python -m pytest --ds=config.settings chat/tests.py"


@pytest.mark.timeout(300)  # a dozen commands and two servers, on a machine that may be busy
def test_the_tutorial_ends_in_a_chat_between_two_servers(tmp_path: Path) -> None:
    with Project(tmp_path / "reader") as project, ExitStack() as tabs:
        visitors: list[ClientConnection] = []
        for block in blocks(TUTORIAL):
            project.run(block)
            if block.kind == "server":
                port = list(project.ports.values())[-1]
                with urlopen(f"http://127.0.0.1:{port}/lobby/", timeout=PATIENCE) as page:
                    assert "Say something" in page.read().decode()
                visitors.append(tabs.enter_context(visitor(port)))
                for each in visitors:
                    each.send('{"text": "hello"}')
        project.import_files()
        project.run(Block(TUTORIAL, 0, "sh", {}, PYTEST))
        one, other = (heard(each) for each in visitors)
        assert one == ["hello", "hello", "hello", "From a shell", "From SQL"]
        assert other == ["hello", "hello", "From a shell", "From SQL"]


def test_the_page_connects_as_it_came_because_browsers_refuse_ws_behind_https() -> None:
    (page,) = (block.code for block in blocks(TUTORIAL) if (block.file or "").endswith(".html"))
    assert '= location.protocol === "https:" ? "wss:" : "ws:";' in page
    assert "new WebSocket(`${scheme}//${location.host}" in page


def heard(visitor: ClientConnection) -> list[str]:
    """All that the visitor was sent, up to what the page sends last."""
    texts = []
    while "From SQL" not in texts:
        texts.append(json.loads(visitor.recv(PATIENCE))["text"])
    return texts


def visitor(port: str) -> ClientConnection:
    return connect(
        f"ws://127.0.0.1:{port}/ws/chat/lobby/",
        origin=Origin(f"http://127.0.0.1:{port}"),
        open_timeout=PATIENCE,
    )
