"""A process that makes children quickly: it has imported what they need, and forks.

A child is a process like any other, except that it saves the half second in which Python reads
Django and the layers' modules. The nursery has one thread, no event loop, no settings and no
connection, so that a fork inherits only code. The nursery reads lines of JSON, the arguments of
`child.live`, and ends when its input ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import traceback

from stress import child

# Modules that are not installed are skipped. A child itself imports all others that it needs.
IMPORTED = (
    "channels.layers",
    "channels_redis.core",
    "channels_redis.pubsub",
    "channels_sqlite.layers",
    "django.contrib.contenttypes.apps",
    "django.core.management",
    "django.db.backends.sqlite3.base",
    "stress.scenarios",
)


def main() -> None:
    for module in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child must not copy the pages it shares
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no wait() is needed: the socket tells
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            status = 1
            try:
                child.live(**json.loads(line))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)


if __name__ == "__main__":
    main()
