"""The channel layer: Channels' rules, names and errors, on a sender and a receiver."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, ClassVar
from weakref import WeakSet

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from . import inspection, roll_call, serializers, store
from .codec import Codec
from .conf import Options, database_settings
from .counters import Counters, DropLog
from .database import Database
from .databases import database_for
from .exceptions import ForeignChannel, MessageTooLarge
from .messages import GroupMessage, Outgoing
from .receiver import Receiver
from .roll_call import Reader
from .sender import Sender
from .serializers import Message
from .trimmer import Trimmer
from .wakes.listener import HEARTBEAT

ANSWERS_TAKE = HEARTBEAT + 0.5  # seconds
NAMES = 16_384  # of channels that were used of late, and need not be checked again


class _Ends:
    """What a layer works with, made at its first use: a test runner changes the database's NAME
    before that.
    """

    def __init__(self, layer: SqliteChannelLayer) -> None:
        options = layer.options
        self.database: Database = database_for(
            database_settings(options.database), options.database
        )
        capacity_of, counters = layer.get_capacity, layer.counters
        drops = DropLog(counters)
        trimmer = Trimmer(self.database, options)
        self.sender = Sender(self.database, trimmer, options, capacity_of, counters, drops)
        self.receiver = Receiver(
            self.database, trimmer, options, capacity_of, layer.codec, counters, drops
        )


class SqliteChannelLayer(BaseChannelLayer):
    """A channel layer on one SQLite file. CONFIG's keys are the fields of `conf.Options`.

    A message is delivered once, to one consumer, in the order in which its sender sent it; or it
    expires; or it is dropped for want of room, which is counted in `counters`. A process that is
    killed takes what it had read with it. The layer may be used from any number of threads and
    event loops.
    """

    extensions: ClassVar = ["groups", "flush"]
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(self, **config: Any) -> None:
        self.options = Options.from_config(config)
        # types-channels is narrower than Channels: seconds may be fractions, and what
        # compile_capacities returns is for channel_capacity.
        super().__init__(expiry=self.options.expiry, capacity=self.options.capacity)  # type: ignore[arg-type]
        compiled: Any = self.compile_capacities(dict(self.options.channel_capacity))
        self.channel_capacity = compiled
        self.group_expiry = self.options.group_expiry
        self.codec = Codec(
            serializers.create(self.options.serializer_format),
            self.options.symmetric_encryption_keys,
        )
        self.begin_anew()
        _layers.add(self)

    def begin_anew(self) -> None:
        """Forget connections, buffers and the process's name, without closing anything: a fork's
        child must.
        """
        self.counters = Counters()
        self.client_prefix = secrets.token_urlsafe(9)
        self._lock = threading.Lock()
        self._made: _Ends | None = None
        # A name is as good as it was the last time; to look at it costs as much as to decode.
        self._inbox_of = lru_cache(NAMES)(self._check)
        self._own_inbox = lru_cache(NAMES)(self._check_own)

    @property
    def _ends(self) -> _Ends:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = _Ends(self)
        return self._made

    # Messages

    async def send(self, channel: str, message: Message, *, expiry: float | None = None) -> None:
        """Send a dict to a channel, to expire `expiry` seconds from now (by default the layer's).

        Raises ChannelFull when the channel, or the process that it is local to, has no room;
        TypeError for a bad name, or for a message that cannot be serialised, with the path of the
        offending key; DatabaseUnavailable when SQLite cannot write it. In all these cases nothing
        was written.
        """
        if not isinstance(channel, str):  # it may have no hash
            self.require_valid_channel_name(channel)
        inbox = self._inbox_of(channel)
        if expiry is None:
            expiry = self.expiry
        elif not 0 < expiry < float("inf"):
            raise ValueError(f"expiry is {expiry!r}; allowed is a number of seconds above 0.")
        accepted = await self._ends.sender.send(
            Outgoing(
                inbox=inbox,
                channel=channel,
                body=self._encode(message, channel),
                expires_at=time.time() + expiry,
                capacity=self.get_capacity(channel),
            )
        )
        if not accepted:
            raise ChannelFull(f"{channel} has {self.get_capacity(channel)} messages waiting.")

    def _encode(self, message: Message, channel: str, group: str | None = None) -> bytes:
        body = self.codec.encode(message, channel, group)
        if len(body) > store.LARGEST_BODY:
            raise MessageTooLarge(
                f"A message of {len(body)} bytes is too large: SQLite keeps {store.LARGEST_BODY} "
                "in a row. Send where to find it instead."
            )
        return body

    async def receive(self, channel: str) -> Message:
        """Wait for the next message of a channel. To cancel it loses nothing.

        Raises ForeignChannel for the process-local name of another process or layer: two readers of
        one inbox would both get everything.
        """
        if not isinstance(channel, str):  # it may have no hash
            self.require_valid_channel_name(channel)
        return await self._ends.receiver.receive(channel, self._own_inbox(channel))

    def _check(self, channel: str) -> str:
        """The inbox of a channel."""
        self.require_valid_channel_name(channel)
        inbox: str = self.non_local_name(channel)
        return inbox

    def _check_own(self, channel: str) -> str | None:
        """The inbox of a process-local channel of ours, None for a normal one."""
        inbox = self._check(channel)
        if "!" not in channel:
            return None
        if not inbox.endswith(f".{self.client_prefix}!"):
            raise ForeignChannel(
                f"{channel} was not made by new_channel() of this layer in this process, "
                "so that only the process that made it can receive on it."
            )
        return inbox

    async def new_channel(self, prefix: str = "specific") -> str:
        """A name that only this process can receive on, and that nobody else has."""
        channel = f"{prefix}.{self.client_prefix}!{secrets.token_urlsafe(9)}"
        self.require_valid_channel_name(channel)
        return channel

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group, for `group_expiry` seconds from the latest call."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        now = time.time()
        await self._ends.database.run(
            partial(
                store.group_add,
                group=group,
                inbox=self.non_local_name(channel),
                channel=channel,
                now=now,
                expires_at=now + self.group_expiry,
            ),
            quick=True,
        )

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; one that is no member is removed as well."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        inbox = self.non_local_name(channel)
        if inbox.endswith(f".{self.client_prefix}!"):
            # Members are looked up when a group's message is read: read what was sent before this.
            await self._ends.receiver.catch_up(inbox)
        await self._ends.database.run(
            partial(store.group_discard, group=group, channel=channel), quick=True
        )

    async def group_send(self, group: str, message: Message) -> None:
        """Send a dict to every channel in a group.

        Never raises ChannelFull: a process, or a normal channel, that has no room misses the
        message, which is counted and logged.
        """
        self.require_valid_group_name(group)
        body = self._encode(message, "", group)
        now = time.time()
        await self._ends.sender.group_send(GroupMessage(group, body, now, now + self.expiry))

    # Beyond the specification

    async def stats(self) -> inspection.Stats:
        """Counts by inbox and group, ages and sizes. It reads all that is kept; nobody waits."""
        return await inspection.stats(self._ends.database)

    async def readers(self) -> list[Reader]:
        """The processes that receive from the file, by their process id, each with what wakes it
        and what it has counted.

        They are asked, and answer with their next heartbeat: this takes a second and a half. Who
        has not answered by then is gone, or its event loop stands still.
        """
        channel, found = await self.new_channel(), []
        await roll_call.ask(self._ends.database, self.codec, channel)
        end = time.monotonic() + ANSWERS_TAKE
        try:
            while (left := end - time.monotonic()) > 0:
                with suppress(asyncio.TimeoutError):
                    answer = await asyncio.wait_for(self.receive(channel), left)
                    found.append(roll_call.reader_in(answer))
        finally:
            await roll_call.forget(self._ends.database, channel)
        return sorted(found, key=lambda each: each.pid)

    async def group_channels(self, group: str) -> list[str]:
        """The channels in a group, by name."""
        self.require_valid_group_name(group)
        question = partial(inspection.group_channels, group=group, now=time.time())
        return await self._ends.database.run(question)

    async def group_count(self, group: str) -> int:
        """How many channels are in a group."""
        self.require_valid_group_name(group)
        question = partial(inspection.group_count, group=group, now=time.time())
        return await self._ends.database.run(question)

    # Life

    async def flush(self) -> None:
        """Delete all messages and memberships; other processes drop what they have in memory when
        they next look.
        """
        await self._ends.database.run(store.flush, ring=True)
        self._ends.database.nudge()

    async def close(self) -> None:
        """Stop listening on this event loop and close this process's connections; the next use
        opens them again.

        Nobody has to call it: connections and threads do not keep the interpreter from exiting.
        """
        if self._made is not None:
            await self._made.receiver.close()
            await self._made.database.close()


_layers: WeakSet[SqliteChannelLayer] = WeakSet()


def _begin_anew_in_child() -> None:
    for layer in list(_layers):
        layer.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
