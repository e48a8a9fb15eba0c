"""Real processes, as the harness sees them: it starts them, calls them, and always ends them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from stress.child import LINE
from stress.roles import Worker

P = ParamSpec("P")
T = TypeVar("T")

PYTHON = (sys.executable, "-m")
BIRTH = 60.0  # seconds a child may take to come up, on a machine that is busy
PATIENCE = 5.0  # seconds a child may take to end by itself

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter, int]  # of a child, and its pid


class ChildError(RuntimeError):
    """An error: a child ended, or raised an exception, during a call."""


def reference(role: Callable[..., Any]) -> str:
    return f"{role.__module__}:{role.__qualname__}"


class Children:
    """The children of a run, and the socket to which they connect."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "harness.socket"
        self._expected: dict[str, asyncio.Future[Connection]] = {}
        self._nursery: asyncio.subprocess.Process
        self._spawned: list[asyncio.subprocess.Process] = []
        self._server: asyncio.Server

    async def __aenter__(self) -> Children:
        self._server = await asyncio.start_unix_server(self._met, self.socket, limit=LINE)
        self._nursery = await self._spawn(*PYTHON, "stress.nursery", stdin=subprocess.PIPE)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for process in self._spawned:
            with suppress(ProcessLookupError):  # it has ended
                process.kill()
            await process.wait()

    async def _spawn(self, *command: str, stdin: int) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            start_new_session=True,  # the harness handles Ctrl-C
            cwd=Path(__file__).parent.parent,
        )
        self._spawned.append(process)
        return process

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = json.loads(await reader.readline())
        self._expected.pop(hello["ledger"]).set_result((reader, writer, hello["pid"]))

    async def start(
        self,
        name: str,
        directory: Path,
        settings: dict[str, Any],
        *,
        durable: bool,
        prepare: Callable[[Path], None] | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> Child:
        """Start a child named `name`. `wrapper` is a command to run it with, like `unshare ...`."""
        ledger, errors = directory / f"{name}.ledger", directory / f"{name}.stderr"
        paths = {"socket": str(self.socket), "ledger": str(ledger), "errors": str(errors)}
        met = asyncio.get_running_loop().create_future()
        self._expected[str(ledger)] = met
        if wrapper:
            command = (*wrapper, *PYTHON, "stress.child", *paths.values())
            await self._spawn(*command, stdin=subprocess.DEVNULL)
        else:
            assert self._nursery.stdin is not None
            self._nursery.stdin.write(json.dumps(paths).encode() + b"\n")
        reader, writer, pid = await asyncio.wait_for(met, BIRTH)
        hello = {
            "settings": settings,
            "durable": durable,
            "prepare": reference(prepare) if prepare else "",
        }
        return Child(name, pid, reader, writer, errors, hello)


class Child:
    """One process of `stress.child`. Its standard error is kept beside its ledger."""

    def __init__(
        self,
        name: str,
        pid: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        errors: Path,
        hello: dict[str, Any],
    ) -> None:
        self.name = name
        self.pid = pid
        self.errors = errors
        self._writer = writer
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count(1)
        self._write(hello)
        self._life = asyncio.create_task(self._read(reader))

    @property
    def alive(self) -> bool:
        return not self._life.done()

    def _write(self, line: dict[str, Any]) -> None:
        self._writer.write(json.dumps(line).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Read answers until the connection ends, and with it the process."""
        try:
            while line := await reader.readline():
                reply = json.loads(line)
                future = self._calls.pop(reply["id"])
                if future.done():  # the caller was cancelled
                    continue
                if "error" in reply:
                    future.set_exception(ChildError(f"{self.name}: {reply['error']}"))
                else:
                    future.set_result(reply["result"])
        except ConnectionResetError:
            pass  # killed
        finally:
            self._writer.close()
            for future in self._calls.values():
                if not future.done():
                    future.set_exception(ChildError(f"{self.name} ended: {self.complaint()}"))
            self._calls.clear()

    async def call(
        self,
        role: Callable[Concatenate[Worker, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `role` in the child and return its result, which travels as JSON."""
        assert not args, "roles are called with keywords"
        if not self.alive:
            raise ChildError(f"{self.name} has ended: {self.complaint()}")
        number = next(self._numbers)
        future = self._calls[number] = asyncio.get_running_loop().create_future()
        arguments = {
            name: f"role:{reference(value)}" if callable(value) else value
            for name, value in kwargs.items()
        }
        self._write({"id": number, "role": reference(role), "with": arguments})
        result: T = await future
        return result

    def complaint(self) -> str:
        """The end of what it wrote to standard error."""
        return self.errors.read_text(errors="replace").strip()[-2000:]

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def kill(self) -> None:
        """Kill the child with kill -9, as the system would."""
        self.signal(signal.SIGKILL)
        # A process that it forked may still hold the connection open.
        await self._ended()

    async def end(self) -> None:
        """Ask the child to end, and kill it if it does not."""
        if not self.alive:
            return
        self.signal(signal.SIGCONT)  # it may have been stopped
        with suppress(ConnectionError):
            self._writer.write_eof()
        await self._ended()
        self.signal(signal.SIGKILL)

    async def _ended(self) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._life, PATIENCE)
