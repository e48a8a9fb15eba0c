"""The WebSocket side: one consumer for each browser tab in a room."""

import json
import os
from typing import Any
from uuid import uuid4

from channels.db import database_sync_to_async
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from chat.forms import CatchUpForm, EarlierForm, JoinForm, LineForm, reason
from chat.models import Line, Visit
from chat.rooms import group_name


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """One browser tab in one room.

    The page sends `join`, `say`, `catch_up`, `earlier` and `summarise`. It gets `welcome`, `lines`,
    `earlier`, `line`, `people`, `summary` and `refused`. Everything with a dot comes through the
    channel layer.
    """

    name = ""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        self.group = group_name(self.room)
        self.visitor = uuid4()  # until the page says which browser it is in
        await self.accept()

    async def disconnect(self, code: int) -> None:
        if self.name:
            await self.channel_layer.group_discard(self.group, self.channel_name)
            await database_sync_to_async(Visit.objects.leave)(self.channel_name)
            await self.announce_people()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        try:
            content = json.loads(text_data or "")
        except ValueError:
            content = None
        match content:
            case {"type": "join"}:
                await self.join(content)
            case {"type": "say"} if self.name:
                await self.say(content)
            case {"type": "catch_up"} if self.name:
                await self.catch_up(content)
            case {"type": "earlier"} if self.name:
                await self.earlier(content)
            case {"type": "summarise"} if self.name:
                await self.summarise()
            case _:
                await self.refuse("The page and the server misunderstand each other. Reload?")

    # Requests of the page

    async def join(self, content: dict[str, Any]) -> None:
        form = JoinForm(content)
        if not form.is_valid():
            await self.refuse(reason(form), about="name")
            return
        self.visitor = form.cleaned_data["visitor"] or self.visitor
        if not await self.enter(form.cleaned_data["name"]):
            return
        # Join the group first, then read the history: a line that comes in between comes twice, and
        # the page sees that by its id. In the other order, the page would miss that line.
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.send_json({"type": "welcome", "name": self.name, "process": os.getpid()})
        await self.send_lines(after=form.cleaned_data["after"])
        await self.announce_people()

    async def say(self, content: dict[str, Any]) -> None:
        form = LineForm({**content, "name": self.name})
        if not form.is_valid():
            await self.refuse(reason(form), nonce=content.get("nonce"))
            return
        event = await self.post(**form.cleaned_data)
        await self.channel_layer.group_send(self.group, event)

    async def catch_up(self, content: dict[str, Any]) -> None:
        """Send what was said since. The page asks regularly, so this is also its sign of life."""
        form = CatchUpForm(content)
        if not form.is_valid():
            await self.refuse(reason(form))
            return
        if not await self.enter(self.name):
            return
        await self.send_lines(after=form.cleaned_data["after"])
        names = await database_sync_to_async(Visit.objects.names)(self.room)
        await self.send_json({"type": "people", "names": names})

    async def earlier(self, content: dict[str, Any]) -> None:
        """Send what was said before the lines that the page shows."""
        form = EarlierForm(content)
        if not form.is_valid():
            await self.refuse(reason(form))
            return
        lines, more = await database_sync_to_async(Line.objects.last)(
            self.room, form.cleaned_data["before"]
        )
        await self.send_json(
            {"type": "earlier", "lines": [line.as_json() for line in lines], "more": more}
        )

    async def summarise(self) -> None:
        """Send a job to the worker, which answers to this tab's channel."""
        job = {"type": "summarise", "room": self.room, "reply_to": self.channel_name}
        try:
            await self.channel_layer.send("summaries", job)
        except ChannelFull:
            await self.refuse("Many are waiting for a summary. Try again in a minute?")

    # Messages of the channel layer

    async def room_line(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "line", "line": event["line"], "previous": event["previous"]})

    async def room_people(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "people", "names": event["names"]})

    async def summary_ready(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "summary", "summary": event["summary"]})

    # Steps

    @database_sync_to_async
    def post(self, **line: Any) -> dict[str, Any]:
        return Line.objects.post(self.room, **line).as_event()

    async def enter(self, name: str) -> bool:
        """Take the name in this room, or keep it. Refuse it if another visitor has it."""
        enter = database_sync_to_async(Visit.objects.enter)
        free = await enter(self.room, name, self.channel_name, self.visitor)
        if free:
            self.name = name
        else:
            why = f"The name {name} is taken in this room. Please choose another name."
            await self.refuse(why, about="name")
        return free

    async def send_lines(self, after: int | None) -> None:
        """Send what came after that line, or the last few lines if there is none yet."""
        more = earlier = False
        if after is None:
            lines, earlier = await database_sync_to_async(Line.objects.last)(self.room)
        else:
            lines, more = await database_sync_to_async(Line.objects.since)(self.room, after)
        newest = await database_sync_to_async(Line.objects.newest_id)(self.room)
        await self.send_json(
            {
                "type": "lines",
                "lines": [line.as_json() for line in lines],
                "more": more,
                "earlier": earlier,
                "newest": newest,
            }
        )

    async def announce_people(self) -> None:
        names = await database_sync_to_async(Visit.objects.names)(self.room)
        await self.channel_layer.group_send(self.group, {"type": "room.people", "names": names})

    async def refuse(self, why: str, nonce: str | None = None, about: str = "") -> None:
        """Refuse, in words: a line by its nonce, or what the page should ask for again."""
        await self.send_json({"type": "refused", "reason": why, "nonce": nonce, "about": about})
