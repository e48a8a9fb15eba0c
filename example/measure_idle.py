"""Measure the cost of runserver with three open tabs in which nobody types, and how soon it stops.

    python measure_idle.py                                        our watchers, and the floor
    python measure_idle.py --layer redis://127.0.0.1:6379/0       another layer
    python measure_idle.py --seconds 60 --repeat 3

Prints Markdown tables. The tabs are plain WebSockets that say what chat.js says, in its rhythm. The
sources and the databases are copies in a temporary directory, so nothing of yours is touched.
Linux only: the figures are the kernel's own, per thread, from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

HERE = Path(__file__).resolve().parent
LAYERS = (
    "memory://",
    "sqlite://?watcher=inotify",
    "sqlite://?watcher=watchfiles",
    "sqlite://?watcher=polling",
)
TABS = 3
HEARTBEAT = 25.0  # seconds, as in chat.js
SETTLE = 5.0  # seconds: what wakes up at the start and after traffic has gone to sleep again
PATIENCE = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layer", action="append", dest="layers", metavar="URL")
    parser.add_argument("--seconds", type=float, default=30, help="idle time, each time")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of idling")
    parser.add_argument("--stops", type=int, default=10, help="rounds of reload and Ctrl-C")
    options = parser.parse_args()
    # A shell makes its background jobs ignore Ctrl-C, and the servers inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    layers = options.layers or LAYERS
    figures = {layer: Figures() for layer in layers}
    with TemporaryDirectory() as place:
        source = prepare(Path(place))
        # Round by round and not layer by layer, so that a busy minute hits all of them.
        for _ in range(options.repeat):
            for layer in layers:
                with runserver(source, layer, "--noreload") as server:
                    figures[layer].alone.append(idle(server, options.seconds))
                with runserver(source, layer) as server:
                    figures[layer].reloading.append(idle(server, options.seconds))
        for _ in range(options.stops):
            for layer in layers:
                with runserver(source, layer) as server:
                    figures[layer].reload.append(reload(server, source))
                    figures[layer].interrupt.append(interrupt(server))
    report(figures)


@dataclass
class Idle:
    cpu: float  # percent of one core
    switches: float  # voluntary context switches a second, that is: wakeups


@dataclass
class Figures:
    alone: list[Idle] = field(default_factory=list)
    reloading: list[Idle] = field(default_factory=list)
    reload: list[float] = field(default_factory=list)  # seconds
    interrupt: list[float] = field(default_factory=list)  # seconds


def prepare(place: Path) -> Path:
    """A copy of the example with databases of its own."""
    ignored = shutil.ignore_patterns(".venv", "*.sqlite3*", "__pycache__", "screenshots")
    source = Path(shutil.copytree(HERE, place / "example", ignore=ignored))
    for database in ("default", "channels"):
        command = [sys.executable, "manage.py", "migrate", f"--database={database}"]
        subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL)
    return source


# The server, and the tabs


class Server:
    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.address = f"127.0.0.1:{port}"
        self.output: list[tuple[float, str]] = []
        threading.Thread(target=self.read_output).start()

    def read_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.output.append((time.monotonic(), line))

    def noticed(self, touched: Path) -> float | None:
        """Return when runserver said that this file had changed. Django looks once a second."""
        return next((when for when, line in self.output if line.startswith(str(touched))), None)

    def serves(self) -> int | None:
        """The process that would serve a tab that opens now, if any does."""
        try:
            with open_tab(self) as tab:
                return tab.process
        except (OSError, InvalidHandshake, ConnectionClosed):
            return None

    def words(self) -> str:
        return "".join(line for _, line in self.output)

    def wait(self, until: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(self.words())
            time.sleep(0.005)


@contextmanager
def runserver(source: Path, layer: str, *options: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runserver", f"127.0.0.1:{port}", *options],
        cwd=source,
        env=os.environ | {"CHANNEL_LAYER_URL": layer, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    server = Server(process, port)
    try:
        server.wait(server.serves)
        yield server
    except ConnectionClosed as error:
        raise RuntimeError(server.words()) from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(PATIENCE)


@dataclass
class Tab:
    connection: ClientConnection
    process: int  # the server process that answers

    def heartbeat(self) -> None:
        self.connection.send(json.dumps({"type": "catch_up", "after": 0}))
        receive(self.connection, "people")


@contextmanager
def open_tab(server: Server) -> Iterator[Tab]:
    url, origin = f"ws://{server.address}/ws/chat/lobby", Origin(f"http://{server.address}")
    with connect(url, origin=origin, proxy=None) as connection:
        # One visitor: the tabs share the name, and keep it when the server has been killed.
        join = {"type": "join", "name": "Nobody", "visitor": "0" * 32}
        connection.send(json.dumps(join))
        yield Tab(connection, receive(connection, "welcome")["process"])


def receive(connection: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = json.loads(connection.recv(PATIENCE))
        if message["type"] == kind:
            return message


@contextmanager
def open_tabs(server: Server) -> Iterator[list[Tab]]:
    with ExitStack() as stack:
        yield [stack.enter_context(open_tab(server)) for _ in range(TABS)]


# The measurements


def idle(server: Server, seconds: float) -> Idle:
    with open_tabs(server) as tabs:
        time.sleep(SETTLE)
        process = tabs[0].process
        begun, cpu, switches = time.monotonic(), cpu_seconds(process), voluntary_switches(process)
        while (left := begun + seconds - time.monotonic()) > 0:
            time.sleep(min(HEARTBEAT, left))
            if left > HEARTBEAT:
                for tab in tabs:
                    tab.heartbeat()
        took = time.monotonic() - begun
        return Idle(
            cpu=100 * (cpu_seconds(process) - cpu) / took,
            switches=(voluntary_switches(process) - switches) / took,
        )


def cpu_seconds(process: int) -> float:
    """CPU time of all threads, in the scheduler's nanoseconds rather than in ticks of 10 ms."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def voluntary_switches(process: int) -> int:
    total = 0
    for task in Path(f"/proc/{process}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "voluntary_ctxt_switches":
                total += int(value)
    return total


def reload(server: Server, source: Path) -> float:
    """Seconds from runserver's notice that a file changed until a tab is served again."""
    touched = source / "chat" / "rooms.py"
    with open_tabs(server) as tabs:
        before = tabs[0].process
        time.sleep(2)  # its first look at the files is the one it compares with
        os.utime(touched)
        server.wait(lambda: server.noticed(touched))
        server.wait(lambda: server.serves() not in {None, before})
        now = time.monotonic()
    noticed = server.noticed(touched)
    assert noticed is not None
    return now - noticed


def interrupt(server: Server) -> float:
    """Seconds from Ctrl-C until the prompt is back."""
    with open_tabs(server):
        begun = time.monotonic()
        os.killpg(server.process.pid, signal.SIGINT)
        while server.process.poll() is None:  # finer than wait(), which looks every 50 ms
            if time.monotonic() > begun + PATIENCE:
                raise RuntimeError(server.words())
            time.sleep(0.002)
        return time.monotonic() - begun


def report(figures: dict[str, Figures]) -> None:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"\n{os.cpu_count()} cores, load {load}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}; medians (lowest - highest).\n"
    )
    print(
        "| layer | CPU, % of a core | wakeups/s | CPU with autoreload, % | wakeups/s "
        "| reload, s | Ctrl-C, s |\n|---|---|---|---|---|---|---|"
    )
    for layer, found in figures.items():
        cells = [f"`{layer}`"]
        for idles in (found.alone, found.reloading):
            cells.append(spread([each.cpu for each in idles], 2))
            cells.append(spread([each.switches for each in idles], 1))
        cells += [spread(found.reload, 2), spread(found.interrupt, 2)]
        print(f"| {' | '.join(cells)} |")


def spread(values: list[float], digits: int) -> str:
    if not values:
        return ""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} - {high:.{digits}f})"


if __name__ == "__main__":
    main()
