"""Real WebSocket servers: the harness starts them, waits for them, and always ends them.

Each worker is a server of one process on a port of its own, as behind a proxy, so that the harness
decides which worker a socket is connected to.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SITE = "stress.chat:application"
# Environment variables, as the site reads them.
SETTINGS = "STRESS_SETTINGS"
COUNTS = "STRESS_COUNTS"
BIRTH = 60.0  # seconds a server may take to come up, on a machine that is busy
PATIENCE = 10.0  # seconds a server may take to end by itself
UVICORN = ("uvicorn", "--host", "127.0.0.1", "--log-level", "warning")


@dataclass(frozen=True)
class Kind:
    """A server program: its command, which takes a `--port`, and the modules that it needs."""

    says: str
    command: tuple[str, ...]
    modules: tuple[str, ...]

    def missing(self) -> str:
        """Return why this server cannot be measured here, or ""."""
        for module in (*self.modules, "websockets"):
            if find_spec(module) is None:
                return f"{module} is not installed"
        return ""


KINDS: dict[str, Kind] = {
    "uvicorn-uvloop": Kind(
        "uvicorn on uvloop", (*UVICORN, "--loop", "uvloop"), ("uvicorn", "uvloop")
    ),
    "uvicorn-asyncio": Kind(
        "uvicorn on asyncio's own loop", (*UVICORN, "--loop", "asyncio"), ("uvicorn",)
    ),
    "daphne": Kind("daphne", ("daphne", "--bind", "127.0.0.1", "--verbosity", "0"), ("daphne",)),
}


class ServerError(RuntimeError):
    """An error: a server ended, or an exception was raised in it."""


class Server:
    """One process. Files keep its standard error, and in the end its layer's own counts."""

    def __init__(
        self, process: asyncio.subprocess.Process, port: int, errors: Path, counted: Path
    ) -> None:
        self.process = process
        self.port = port
        self.errors = errors
        self.counted = counted

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def complaint(self) -> str:
        """The end of what it wrote to standard error."""
        return self.errors.read_text(errors="replace").strip()[-2000:]

    def counts(self) -> dict[str, int]:
        """The counts of its layer when it ended; none if it did not end by itself."""
        if not self.counted.exists():
            return {}
        counts: dict[str, int] = json.loads(self.counted.read_text())
        return counts

    def check(self) -> None:
        """Raise if the server has ended, or has reported an exception."""
        complaint = self.complaint()
        if self.process.returncode is not None:
            raise ServerError(f"a server ended ({self.process.returncode}): {complaint}")
        if "Traceback" in complaint:
            raise ServerError(f"a server complained: {complaint}")

    async def answers(self) -> None:
        deadline = asyncio.get_running_loop().time() + BIRTH
        while True:
            self.check()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    def collect_garbage(self) -> None:
        """Make the server collect all of Python's garbage."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    async def end(self) -> None:
        """Ask the server to end, and kill it if it does not."""
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.process.wait(), PATIENCE)
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def free_ports(many: int) -> list[int]:
    """So many ports that are free, each another one."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(many)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


async def start(kind: Kind, port: int, directory: Path, settings: Mapping[str, Any]) -> Server:
    """A server of the site in `stress.chat`, with these Django settings."""
    errors, counted = directory / f"server-{port}.stderr", directory / f"server-{port}.counts"
    with errors.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *kind.command, "--port", str(port), SITE),
            stdin=asyncio.subprocess.PIPE,  # a byte is an order; its end ends the process
            stdout=output,
            stderr=output,
            start_new_session=True,  # the harness handles Ctrl-C
            cwd=Path(__file__).parent.parent,
            env={**os.environ, SETTINGS: json.dumps(settings), COUNTS: str(counted)},
        )
    return Server(process, port, errors, counted)


@asynccontextmanager
async def serving(
    kind: Kind, many: int, directory: Path, settings: Mapping[str, Any]
) -> AsyncIterator[list[Server]]:
    """Start so many servers, wait until they answer, and end them afterwards."""
    starts = [start(kind, port, directory, settings) for port in free_ports(many)]
    births = [asyncio.create_task(each) for each in starts]
    try:
        servers = await asyncio.gather(*births)
        await asyncio.gather(*(server.answers() for server in servers))
        yield servers
    finally:
        await asyncio.shield(end_all(births))


async def end_all(births: list[asyncio.Task[Server]]) -> None:
    """End all servers that have started, even if some starts were cancelled."""
    born = await asyncio.gather(*births, return_exceptions=True)
    await asyncio.gather(*(server.end() for server in born if isinstance(server, Server)))
