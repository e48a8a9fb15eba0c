"""The WebSocket side: one consumer for each browser tab in a room."""

import json
import os
from typing import Any

from channels.db import database_sync_to_async
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from chat.forms import CatchUpForm, JoinForm, LineForm, reason
from chat.models import Line, Visit
from chat.rooms import group_name


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """One browser tab in one room.

    The page sends `join`, `say`, `catch_up` and `summarise`, and gets `welcome`, `lines`, `line`,
    `people`, `summary` and `refused`. Everything with a dot comes through the channel layer.
    """

    name = ""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        self.group = group_name(self.room)
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
            case {"type": "summarise"} if self.name:
                await self.summarise()
            case _:
                await self.refuse("The page and the server misunderstand each other. Reload?")

    # What the page asks for

    async def join(self, content: dict[str, Any]) -> None:
        form = JoinForm(content)
        if not form.is_valid():
            await self.refuse(reason(form))
            return
        self.name = form.cleaned_data["name"]
        # First into the group, then the history: a line that comes in between comes twice, and the
        # page sees that by its id. The other way round nobody would ever show it.
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.send_json({"type": "welcome", "name": self.name, "process": os.getpid()})
        await self.send_lines(after=form.cleaned_data["after"])
        await database_sync_to_async(Visit.objects.enter)(self.room, self.name, self.channel_name)
        await self.announce_people()

    async def say(self, content: dict[str, Any]) -> None:
        form = LineForm({**content, "name": self.name})
        if not form.is_valid():
            await self.refuse(reason(form), nonce=content.get("nonce"))
            return
        event = await self.post(**form.cleaned_data)
        await self.channel_layer.group_send(self.group, event)

    async def catch_up(self, content: dict[str, Any]) -> None:
        """What was said since? The page asks regularly, so this is also its sign of life."""
        form = CatchUpForm(content)
        if not form.is_valid():
            await self.refuse(reason(form))
            return
        await database_sync_to_async(Visit.objects.enter)(self.room, self.name, self.channel_name)
        await self.send_lines(after=form.cleaned_data["after"])
        names = await database_sync_to_async(Visit.objects.names)(self.room)
        await self.send_json({"type": "people", "names": names})

    async def summarise(self) -> None:
        """A job for the worker, which answers to this tab's channel."""
        job = {"type": "summarise", "room": self.room, "reply_to": self.channel_name}
        try:
            await self.channel_layer.send("summaries", job)
        except ChannelFull:
            await self.refuse("Many are waiting for a summary. Try again in a minute?")

    # What the channel layer brings

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

    async def send_lines(self, after: int | None) -> None:
        lines, more = await database_sync_to_async(Line.objects.since)(self.room, after)
        newest = await database_sync_to_async(Line.objects.newest_id)(self.room)
        await self.send_json(
            {
                "type": "lines",
                "lines": [line.as_json() for line in lines],
                "more": more,
                "newest": newest,
            }
        )

    async def announce_people(self) -> None:
        names = await database_sync_to_async(Visit.objects.names)(self.room)
        await self.channel_layer.group_send(self.group, {"type": "room.people", "names": names})

    async def refuse(self, why: str, nonce: str | None = None) -> None:
        await self.send_json({"type": "refused", "reason": why, "nonce": nonce})
