"""What a developer has running while the project's tests run; see test_suites.py."""

from __future__ import annotations

import asyncio
import sys

from channels_sqlite.layers import SqliteChannelLayer
from tests.children import main, say


async def server(group: str, channel: str) -> None:
    """Receive as a member of the group and on the channel, and say what came where, from whom."""
    layer = SqliteChannelLayer()
    member = await layer.new_channel()
    await layer.group_add(group, member)

    async def receive(name: str, channel: str) -> None:
        while True:
            say([name, (await layer.receive(channel))["sender"]])

    receiving = [
        asyncio.create_task(receive(group, member)),
        asyncio.create_task(receive(channel, channel)),
    ]
    await asyncio.sleep(0)
    say("ready")
    await asyncio.gather(*receiving)


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
