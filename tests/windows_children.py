"""Processes that lack what Windows lacks; see tests/processes.py."""

from __future__ import annotations

import os
import sys
from typing import Any

LACKING = ("chown", "fchmod", "fchown", "geteuid", "getuid", "pread", "pwrite")


def take_away() -> None:
    """Before anything of ours is imported."""
    sys.modules["fcntl"] = None  # type: ignore[assignment]
    for name in LACKING:
        delattr(os, name)
    utime = os.utime

    def without_links(path: Any, times: Any = None, *, follow_symlinks: bool = True) -> None:
        if not follow_symlinks:
            raise NotImplementedError("utime: follow_symlinks unavailable on this platform")
        utime(path, times)

    os.supports_follow_symlinks.discard(utime)
    os.utime = without_links  # type: ignore[assignment]


take_away()

from channels_sqlite._sending.trimmer import Trimmer  # noqa: E402
from channels_sqlite.layers import SqliteChannelLayer  # noqa: E402
from tests.children import hear, main, say  # noqa: E402


async def talks() -> None:
    """Answer each message of one's own channel, of a group and of a normal channel."""
    layer = SqliteChannelLayer(watcher="watchfiles")
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    say(channel)
    for _ in range(2):
        message = await layer.receive(channel)
        await layer.send(message["reply_to"], {"type": "answer", "number": message["number"]})
    await layer.close()


async def asks() -> None:
    """Ask another process by its channel, and by a group; say what it answers. Then, when told to,
    say which readers live, and trim.
    """
    layer = SqliteChannelLayer(watcher="watchfiles")
    theirs, mine = hear(), await layer.new_channel()
    await layer.send(theirs, {"type": "question", "number": 1, "reply_to": mine})
    say((await layer.receive(mine))["number"])
    await layer.group_send("group", {"type": "question", "number": 2, "reply_to": "answers"})
    say((await layer.receive("answers"))["number"])
    await layer.flush()
    say(await layer.group_count("group"))
    hear()
    say(await layer.readers())
    say(vars(await Trimmer(layer.database, layer.options, layer.counters).trim()))
    await layer.close()


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
