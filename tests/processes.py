"""Real child processes: a test starts a function of tests/children.py, and they talk in JSON."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PATIENCE = 30.0  # seconds, of which only a hang takes so many


class ChildEnded(Exception):
    """The child ended instead of saying something; holds what it wrote to stderr."""


class Child:
    """A Python process that runs `function` of tests/children.py, with warnings as errors.

    Or of another module, where `function` is its full name. `by` is a command that runs it, such as
    `unshare` in another namespace; it uses the database `on`, if given. At the end of the `with` it
    is killed, if it has not ended before, with all that it has forked.
    """

    def __init__(
        self,
        function: str,
        database: Path,
        /,
        *,
        by: Sequence[str] = (),
        on: Path | None = None,
        **arguments: Any,
    ) -> None:
        module, _, name = function.rpartition(".")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        self._process: subprocess.Popen[str] | Forked
        env = environment(on or database)
        work = [module or "tests.children", name, json.dumps(arguments)]
        if by or module in OF_THEIR_OWN or not hasattr(os, "fork"):
            self._process = subprocess.Popen(
                [*by, sys.executable, "-W", "error", "-m", *work],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                cwd=ROOT,
                env=env,
                process_group=0 if hasattr(os, "fork") else None,
            )
        else:
            self._process = Forked(work, env, self._errors.fileno())
        self._heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self, patience: float = PATIENCE) -> Any:
        """Its next words; raises ChildEnded, or queue.Empty after `patience` seconds."""
        line = self._heard.get(timeout=patience)
        if line is None:
            raise self._ended()
        return json.loads(line)

    def tell(self, value: Any) -> None:
        """Say something to the child."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def rest(self) -> list[Any]:
        """All that the child still says before it ends."""
        said = []
        while (line := self._heard.get(timeout=PATIENCE)) is not None:
            said.append(json.loads(line))
        return said

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as kill -9 does, and wait until it is gone."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for it to end by itself; its exit status."""
        return self._process.wait(patience)

    def finish(self, patience: float = PATIENCE) -> None:
        """Wait for it to end by itself, with nothing to complain of."""
        if self.wait(patience) or self.errors():
            raise self._ended()

    def errors(self) -> str:
        """Its stderr so far."""
        self._errors.seek(0)
        return self._errors.read()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if hasattr(os, "fork"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._listener.join(PATIENCE)
        with contextlib.suppress(BrokenPipeError):  # told what it did not live to hear
            self._process.stdin.close()
        self._process.stdout.close()
        sys.stderr.write(self.errors())
        self._errors.close()

    def _ended(self) -> ChildEnded:
        return ChildEnded(f"status {self.wait()}: {self.errors()}")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._heard.put(line)
        self._heard.put(None)


OF_THEIR_OWN = ("tests.gevent_children", "tests.windows_children")
"""Modules that change Python before anything of ours is imported."""


class Forked:
    """A process forked by one that has imported Django and the layer; as subprocess.Popen.

    It starts in a hundredth of the second that an interpreter needs. See forking.py.
    """

    def __init__(self, work: list[str], environment: dict[str, str], errors: int) -> None:
        order = json.dumps([environment, work]).encode()
        (theirs, into), (out_of, said), (status, ended) = [os.pipe() for _ in range(3)]
        os.write(into, order)  # less than a pipe holds
        socket.send_fds(forker()[0], [b"%d" % len(order)], [theirs, said, errors, ended])
        for each in (theirs, said, ended):
            os.close(each)
        self.stdin, self.stdout = open(into, "w"), open(out_of)  # noqa: SIM115
        self._status = open(status)  # noqa: SIM115
        self.pid = int(self._status.readline())
        self._code: int | None = None

    def wait(self, timeout: float) -> int:
        if self._code is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self._code = int(self._status.read())
            self._status.close()
        return self._code

    def kill(self) -> None:
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


@cache
def forker() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The process that forks, and its socket; it ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-W", "error", "-m", "tests.forking"]
        return ours, subprocess.Popen(command, stdin=theirs.fileno(), cwd=ROOT)


def environment(database: Path) -> dict[str, str]:
    """The environment of a process whose DATABASES["channels"] is the file."""
    ours = {
        "CHANNELS_DATABASE": str(database),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": str(ROOT),
    }
    environment = {**os.environ, **ours}
    # Where it is set, each process would compile all of Django anew: seconds instead of tenths.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


@cache
def succeeds(*command: str) -> bool:
    """Return True if this machine has such a program, and it ends well."""
    if shutil.which(command[0]) is None:
        return False
    return not subprocess.run(command, capture_output=True).returncode


def has_node_sqlite() -> bool:
    return succeeds("node", "-e", "require('node:sqlite')")


def has_namespaces() -> bool:
    """Return True if a process may have mounts and limits of its own: not without Linux."""
    return succeeds("unshare", "-Urm", "true")


def in_namespace(script: str) -> Sequence[str]:
    """The command that runs another one after `script`, with mounts and limits of its own."""
    return ("unshare", "-Urm", "sh", "-ec", f'{script}; exec "$@"', "sh")
