"""The work of the processes of test_replaced.py; see tests/processes.py."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from channels.exceptions import ChannelFull

from channels_sqlite.exceptions import ChannelsSqliteError
from channels_sqlite.layers import SqliteChannelLayer
from tests.children import hear, main, say

INTERVAL = 0.05  # seconds between a talker's rounds
GROUP = "talkers"
REFUSALS = (ChannelsSqliteError, ChannelFull)


class Talker(logging.Handler):
    """Sends numbered messages to its peers all the time, and notes what is accepted, what comes,
    and what is logged.

    A message that is refused is noted and not sent again. An error in `receive` ends the process:
    consumers are to wait, whatever happens to the file.
    """

    def __init__(self, name: str, layer: SqliteChannelLayer) -> None:
        super().__init__(logging.WARNING)
        self.me = name
        self.layer = layer
        self.peers: Mapping[str, str] = {}
        self.sent: list[tuple[str, int]] = []
        self.got: list[tuple[str, str, int]] = []
        self.delays: list[float] = []
        self.refused: dict[str, str] = {}
        self.logged: list[str] = []
        self.number = 0

    async def talk(self) -> None:
        """Send one message to each peer, again and again."""
        while True:
            await self.send(self.peers)
            await asyncio.sleep(INTERVAL)

    async def send(self, peers: Mapping[str, str]) -> None:
        """Send one message to each peer."""
        number = self.number = self.number + 1
        for to, channel in peers.items():
            message = {"type": "test", "from": self.me, "to": to, "number": number}
            try:
                await self.layer.send(channel, {**message, "at": time.time()})
            except REFUSALS as error:
                self.refused[type(error).__name__] = str(error)
            else:
                self.sent.append((to, number))

    async def listen(self, channel: str) -> None:
        """Receive what comes to the channel, and answer questions."""
        while True:
            message = await self.layer.receive(channel)
            if reply_to := message.get("reply_to"):
                with suppress(*REFUSALS):  # the question will be asked again
                    await self.layer.send(reply_to, {"type": "test", "name": self.me})
            else:
                self.got.append((message["from"], message["to"], message["number"]))
                self.delays.append(time.time() - message["at"])

    def emit(self, record: logging.LogRecord) -> None:
        """Note what is logged."""
        error = record.exc_info[1] if record.exc_info else None
        self.logged.append(f"{record.name}: {record.getMessage()} {error or ''}")

    def report(self) -> dict[str, Any]:
        """All that was noted."""
        fields = ("sent", "got", "delays", "refused", "logged")
        return {field: getattr(self, field) for field in fields}


async def talker(name: str, **config: Any) -> None:
    """Say the name of a channel of one's own; listen there and on "anyone"; do what is ordered."""
    layer = SqliteChannelLayer(capacity=1000, **config)
    talker = Talker(name, layer)
    logging.getLogger().addHandler(talker)
    own = await layer.new_channel()
    await layer.group_add(GROUP, own)
    work = (talker.listen(own), talker.listen("anyone"), talker.talk())
    tasks = [asyncio.create_task(each) for each in work]
    say(own)
    while order := await asyncio.to_thread(hear):
        verb, *arguments = order
        if verb == "talk":
            (talker.peers,) = arguments
        elif verb == "listen":
            tasks.append(asyncio.create_task(talker.listen(*arguments)))
        elif verb == "send":
            peers, count = arguments
            for _ in range(count):
                await talker.send(peers)
        for task in tasks:
            if task.done():  # it never ends but by an error
                task.result()
        say(talker.report())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await layer.close()


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
