"""Real processes, seen from the harness: started, spoken to, and always ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from stress.child import LINE
from stress.roles import Worker

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 5.0  # seconds a child may take to end by itself


class ChildError(RuntimeError):
    """A child ended, or raised, while something was asked of it."""


def reference(role: Callable[..., Any]) -> str:
    return f"{role.__module__}:{role.__qualname__}"


class Child:
    """One process of `stress.child`. Its standard error is kept beside its ledger."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.ledger = directory / f"{name}.ledger"
        self.errors = directory / f"{name}.stderr"
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count(1)
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None]

    async def start(
        self, settings: dict[str, Any], *, durable: bool, wrapper: tuple[str, ...] = ()
    ) -> None:
        """`wrapper` is a command that runs the child: `unshare ...`, say."""
        with self.errors.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *wrapper,
                *(sys.executable, "-m", "stress.child", self.name, str(self.ledger)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=LINE,
                start_new_session=True,  # a Ctrl-C is the harness's to handle
                cwd=Path(__file__).parent.parent,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._reader = asyncio.create_task(self._read())
        self._write({"settings": settings, "durable": durable})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def _write(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            reply = json.loads(line)
            future = self._calls.pop(reply["id"])
            if future.done():  # whoever asked has gone
                continue
            if "error" in reply:
                future.set_exception(ChildError(f"{self.name}: {reply['error']}"))
            else:
                future.set_result(reply["result"])
        code = await self._process.wait()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ChildError(f"{self.name} ended ({code}): {self.complaint()}"))
        self._calls.clear()

    async def call(
        self,
        role: Callable[Concatenate[Worker, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `role` in the child and return what it returns, as JSON brings it over."""
        assert not args, "roles are called with keywords"
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
        self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9, as the system would."""
        self._process.kill()
        await self._process.wait()
        await self._reader

    async def end(self) -> None:
        """Ask it to end, and see to it that it does."""
        assert self._process.stdin is not None
        if self.alive:
            self._process.send_signal(signal.SIGCONT)  # it may have been stopped
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), PATIENCE)
            except asyncio.TimeoutError:
                self._process.kill()
            finally:
                if self.alive:
                    self._process.kill()
        await self._process.wait()
        await self._reader
