"""A redis-server of the harness's own, for the rivals: a free loopback port, nothing kept on disk.

It has no persistence, and so is as fast as it can be. Our layer writes its file meanwhile.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EXECUTABLE = shutil.which("redis-server")


@dataclass(frozen=True)
class RedisServer:
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Empty the server between two measurements."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            client.sendall(b"FLUSHALL SYNC\r\n")
            answer = client.recv(64)
        if not answer.startswith(b"+OK"):
            raise RuntimeError(f"redis-server would not be emptied: {answer!r}")


@contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    if EXECUTABLE is None:
        raise FileNotFoundError("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(EXECUTABLE, "--bind", "127.0.0.1", "--port", str(port)),
            *("--save", "", "--appendonly", "no", "--dir", str(directory)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # the harness handles Ctrl-C
    )
    try:
        _wait_for(port, process)
        yield RedisServer(port, process.pid)
    finally:
        process.kill()
        process.wait(timeout=10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
