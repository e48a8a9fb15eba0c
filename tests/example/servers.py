"""The example project as real processes: servers, a worker, commands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

EXAMPLE = Path(__file__).resolve().parents[2] / "example"
PATIENCE = 90.0  # seconds; a guard against hanging, nothing is measured here


class CommandFailed(Exception):
    """A management command failed; carries what it wrote to stderr."""


@dataclass(frozen=True)
class Project:
    """The example on databases and a channel layer of its own."""

    directory: Path
    layer_url: str
    source: Path = EXAMPLE

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DJANGO_")}
        return kept | {
            "CHANNEL_LAYER_URL": self.layer_url,
            "CHAT_DATA_DIR": str(self.directory),
            "PYTHONUNBUFFERED": "1",
        }

    def migrate(self) -> None:
        self.manage("migrate", "--verbosity=0")
        self.manage("migrate", "--database=channels", "--verbosity=0")

    def manage(self, *arguments: str) -> str:
        """Run a management command to its end; returns what it said."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.source,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise CommandFailed(done.stderr)
        return done.stdout

    def daphne(self, port: int | None = None) -> Server:
        port = port or free_port()
        command = ["daphne", "-b", "127.0.0.1", "-p", str(port), "config.asgi:application"]
        return Server(self, port, command)

    def uvicorn(self, workers: int) -> Server:
        port = free_port()
        command = ["uvicorn", "--port", str(port), "--workers", str(workers)]
        return Server(self, port, [*command, "config.asgi:application"])

    def runserver(self, *options: str) -> Server:
        port = free_port()
        # manage.py rather than -m django, for autoreload starts the very same command again.
        return Server(self, port, ["manage.py", "runserver", f"127.0.0.1:{port}", *options])

    @contextmanager
    def worker(self, *channels: str) -> Iterator[None]:
        process = self.start(["manage.py", "runworker", *channels], "worker")
        try:
            yield
        finally:
            stop(process)

    def start(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        """Start `python command`, in a process group of its own, as a terminal would."""
        program = command if command[0].endswith(".py") else ["-m", *command]
        return self.run([sys.executable, *program], name, self.source)

    def run(self, program: list[str], name: str, where: Path) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                program,
                cwd=where,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=heed_ctrl_c,
            )


class Server:
    """A server of the project on one port; a context manager, and it can be started again."""

    def __init__(self, project: Project, port: int, command: list[str]) -> None:
        self.project = project
        self.port = port
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.project.directory / f"server-{self.port}.log"

    def start(self) -> None:
        self.process = self.project.start(self.command, self.log.stem)
        self.wait()

    def wait(self) -> None:
        """Wait until the server answers."""
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE
        while not answers(f"{self.url}/chat"):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)
            self.process = None

    def interrupt(self) -> int:
        """Ctrl-C: what a terminal sends, to the whole process group. Returns the exit code."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def heed_ctrl_c() -> None:
    """Undo what a shell does to its background jobs, and with them to the processes of a test."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask, as a supervisor does; kill what does not listen, and fail the test for it."""
    process.terminate()
    try:
        process.wait(PATIENCE / 2)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=PATIENCE):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
