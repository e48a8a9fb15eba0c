"""The process that forks most of the tests' processes: see processes.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from importlib import import_module

PRELOADED = ("django.db.backends.sqlite3.base", "psutil", "tests.children", "watchfiles")


def main() -> None:
    """Fork for each order that comes on stdin: the length of what the new process finds in its
    stdin, and its descriptors. The last one is told its pid, and its status when it has ended.
    """
    for module in PRELOADED:
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    orders = socket.socket(fileno=0)
    while (order := socket.recv_fds(orders, 16, 4))[0]:
        if os.fork() == 0:
            orders.detach()
            keep(int(order[0]), *order[1])
            return
        for descriptor in order[1]:
            os.close(descriptor)


def keep(size: int, *descriptors: int) -> None:
    """Fork the process that works, and wait for its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, ended = descriptors
    if pid := os.fork():
        os.setpgid(pid, pid)
        for descriptor in (0, *standard):
            os.close(descriptor)
        os.write(ended, b"%d\n" % pid)
        os.write(ended, b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    environment, (module, name, arguments) = json.loads(os.read(0, size))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, name, arguments]
    functions = vars(import_module(module))
    functions["main"](functions, name, arguments)


if __name__ == "__main__":
    main()
