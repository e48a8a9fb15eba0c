"""The window by which a sender keeps in step with its receivers, in any process.

Each receiving process tells the sender over UDP on the loopback how far it has come. The sender
goes on while the slowest is at most a window behind. The layer under test carries none of this.
"""

from __future__ import annotations

import asyncio
import json
import socket


class Window:
    """The sender's side: at most `size` messages that not all `parts` have received."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.begun = 0
        self.progress: dict[str, int] = {}
        self._told = asyncio.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def _hear(self) -> None:
        part, count = json.loads(self._socket.recv(200))
        self.progress[part] = count
        self._told.set()

    @property
    def outstanding(self) -> int:
        heard = min(self.progress.values()) if len(self.progress) == self.parts else 0
        return self.begun - heard

    async def enter(self, size: int, patience: float) -> bool:
        """Wait for room for one more message, and take it. Return False if nothing moves."""
        while self.outstanding >= size:
            self._told.clear()
            try:
                await asyncio.wait_for(self._told.wait(), patience)
            except TimeoutError:
                return False
        self.begun += 1
        return True


class Gauge:
    """A receiver's side: tells the sender whenever all `members` here have one more message."""

    def __init__(self, part: str, members: int, port: int) -> None:
        self.part = part
        self.members = members
        self.arrived = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))

    def arrive(self) -> None:
        self.arrived += 1
        whole, rest = divmod(self.arrived, self.members)
        if not rest:
            self._socket.send(json.dumps([self.part, whole]).encode())
