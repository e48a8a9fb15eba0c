"""A chat client without a browser: a plain WebSocket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid4, uuid5

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.example.servers import PATIENCE


class Client:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, **content: Any) -> None:
        self.connection.send(json.dumps(content))

    def receive(self, *types: str) -> dict[str, Any]:
        """The next message of one of these types; what comes before it is passed over."""
        while True:
            message: dict[str, Any] = json.loads(self.connection.recv(PATIENCE))
            if message["type"] in types:
                return message

    def join(
        self, name: str, after: int | None = None, visitor: UUID | None = None
    ) -> dict[str, Any]:
        """Join; returns the lines that the room sends to whoever comes, or why it declines.

        The same name is the same visitor, unless one is given.
        """
        visitor = visitor or uuid5(NAMESPACE_DNS, name)
        self.send(type="join", name=name, visitor=str(visitor), after=after)
        return self.receive("lines", "refused")

    def say(self, text: str, nonce: str | None = None) -> dict[str, Any]:
        """Say a line; returns what the room hears of it, or why it was declined."""
        nonce = nonce or str(uuid4())
        self.send(type="say", text=text, nonce=nonce)
        while True:
            answer = self.receive("line", "refused")
            if answer.get("line", answer)["nonce"] == nonce:
                return answer


@contextmanager
def client(server: str, room: str, origin: str | None = None) -> Iterator[Client]:
    """Connect to a room; as a page of the server itself unless another origin is given."""
    url = f"{server.replace('http', 'ws', 1)}/ws/chat/{room}"
    with connect(url, origin=Origin(origin or server), open_timeout=PATIENCE) as connection:
        yield Client(connection)
