"""The channel layer: Channels' rules, names and errors, on a sender and a receiver."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from functools import lru_cache, partial
from math import inf
from typing import Any, ClassVar, NamedTuple

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from . import serializers, stats
from ._options.codec import Codec
from ._options.conf import SECONDS, Options, database_settings, is_duration
from ._receiving.receiver import Receiver, Retired
from ._sending.sender import Sender
from ._sending.trimmer import Trimmer
from ._storing import forks, groups, private, sql
from ._storing.database import Database
from ._storing.messages import GroupMessage, Outgoing
from ._storing.registry import database_for
from ._storing.setup import Setup
from ._waking import bells
from .counters import Counters, DropLog
from .exceptions import ForeignChannel, MessageTooLarge
from .serializers import Message
from .stats import Reader

IN_A_ROW = 8  # messages that one task receives, at most, before others have their turn
NAMES = 16_384  # of channels that were used lately, and need not be checked again


class _Parts(NamedTuple):
    """The parts of a layer, for one NAME of its database."""

    name: str
    database: Database
    sender: Sender
    receiver: Receiver
    abandon: weakref.finalize[[], SqliteChannelLayer]
    """Has the event loops stop the receiver, which they hold, when the layer is collected."""


class SqliteChannelLayer(BaseChannelLayer, forks.Forkable):
    """A channel layer on one SQLite file. The keys of CONFIG are the fields of `Options`, in the
    reference's page on settings.

    A message is delivered once, to one consumer, in the order in which its sender sent it; or it
    expires; or it is dropped because there was no room, which is counted in `counters`. If a
    process is killed, messages that it had read and not yet delivered are lost. The layer may be
    used from any number of threads and event loops.
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
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self.counters = Counters()
        self._drops = DropLog(self.counters)
        self.client_prefix = secrets.token_urlsafe(9)
        self._lock = threading.Lock()
        self._receiving_task = self._in_a_row = 0
        self._made: _Parts | None = None
        # Cached, because to check a name costs as much as to decode a message.
        self._inbox_of = lru_cache(NAMES)(self._check)

    @property
    def _parts(self) -> _Parts:
        """The parts to use at this moment: a test runner changes the database's NAME."""
        forks.notice()
        settings = database_settings(self.options.database)
        name = private.name_of(self.options.database, str(settings["NAME"] or ""))
        made = self._made
        if made is None or made.name != name:
            with self._lock:
                made = self._made
                if made is None or made.name != name:
                    before, made = made, self._make(name, settings)
                    self._made = made
                    if before is not None:
                        before.receiver.retire()
                        before.abandon.detach()
        return made

    @property
    def database(self) -> Database:
        """The database that is used at this moment, for the package's own tools."""
        return self._parts.database

    def _make(self, name: str, settings: dict[str, Any]) -> _Parts:
        setup = Setup(
            client=self.client_prefix,
            database=database_for(self.options.database, name, settings),
            options=self.options,
            codec=self.codec,
            drops=self._drops,
            capacity_of=_capacity_of(self),
        )
        trimmer = Trimmer(setup.database, self.options, self.counters)
        receiver = Receiver(setup, trimmer)
        abandon = weakref.finalize(self, receiver.abandon)
        abandon.atexit = False
        return _Parts(name, setup.database, Sender(setup, trimmer), receiver, abandon)

    # Messages

    async def send(self, channel: str, message: Message, *, expiry: float | None = None) -> None:
        """Send a dict to a channel, to expire `expiry` seconds from now (by default the layer's).

        Raises ChannelFull when the channel, or the process that it is local to, has no room;
        TypeError for a bad name, or for a message that cannot be serialised, with the path of the
        offending key; MessageTooLarge; ValueError for a bad `expiry`; NotMigrated, or
        DatabaseUnavailable, when it cannot be written. In all these cases nothing was written.
        """
        if not isinstance(channel, str):  # it may have no hash
            self.require_valid_channel_name(channel)
        inbox = self._inbox_of(channel)
        if expiry is None:
            expiry = self.expiry
        elif not is_duration(expiry):
            raise ValueError(f"expiry is {expiry!r}; allowed is {SECONDS}.")
        body, capacity = self.codec.encode(message, channel), self.get_capacity(channel)
        # SQLite compares it, for all the messages of a batch.
        if not isinstance(capacity, (int, float)) or (abs(capacity) >= 2**63 and capacity != inf):
            raise TypeError(f"get_capacity({channel!r}) is {capacity!r}, not a number of messages.")
        outgoing = Outgoing(inbox, channel, body, time.time() + expiry, capacity)
        if not await self._parts.sender.send(outgoing):
            full = channel if inbox == channel else f"The inbox of {channel}"
            raise ChannelFull(
                f"{full} has {capacity} messages waiting, as many as `capacity` allows."
            )

    async def receive(self, channel: str) -> Message:
        """Wait for the next message of a channel. To cancel it loses nothing.

        Raises ForeignChannel for the process-local name of another process or layer: two readers of
        one inbox would both get everything.
        """
        if not isinstance(channel, str):  # it may have no hash
            self.require_valid_channel_name(channel)
        parts = self._parts  # first: it notices a fork, after which the channel is the parent's
        inbox = self._own_inbox(channel)
        if (task := id(asyncio.current_task())) != self._receiving_task:
            self._receiving_task, self._in_a_row = task, 0
        self._in_a_row += 1
        if self._in_a_row % IN_A_ROW == 0:  # a task that only receives must not starve the others
            await asyncio.sleep(0)
        while True:
            try:
                return await parts.receiver.receive(channel, inbox)
            except Retired:  # a test runner has changed NAME
                parts = self._parts

    def _check(self, channel: str) -> str:
        """The inbox of a channel."""
        self.require_valid_channel_name(channel)
        inbox: str = self.non_local_name(channel)
        return inbox

    def _own_inbox(self, channel: str) -> str | None:
        """The inbox of a process-local channel of ours, None for a normal one."""
        inbox = self._inbox_of(channel)
        if not inbox.endswith("!"):
            return None
        if not inbox.endswith(f".{self.client_prefix}!"):
            raise ForeignChannel(
                f"{channel} belongs to another process or layer: it was not made by new_channel()"
                " of this layer in this process. Only the layer that made it can receive on it."
            )
        return inbox

    async def new_channel(self, prefix: str = "specific") -> str:
        """A name that only this process can receive on, and that nobody else has."""
        forks.notice()
        channel = f"{prefix}.{self.client_prefix}!{secrets.token_urlsafe(9)}"
        self.require_valid_channel_name(channel)
        return channel

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group, for `group_expiry` seconds from the latest call."""
        self.require_valid_group_name(group)
        inbox, parts, clock = self._check(channel), self._parts, time.time
        if inbox.endswith(f".{self.client_prefix}!"):
            clock = await parts.receiver.prepare_to_join()
        await parts.database.write(  # by the clock at each try: it may be set meanwhile
            lambda each: groups.add(each, group, inbox, channel, clock(), self.group_expiry)
        )
        await asyncio.sleep(0)  # a task that does nothing but join must not starve the others

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; it is no error if it is not a member. It still gets
        messages that were sent to the group before.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        await self._parts.database.write(partial(groups.discard, group=group, channel=channel))
        await asyncio.sleep(0)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a dict to every channel in a group.

        Never raises ChannelFull: a process, or a normal channel, that has no room misses the
        message, which is counted and logged.
        """
        self.require_valid_group_name(group)
        body = self.codec.encode(message, "", group)
        now = time.time()
        await self._parts.sender.group_send(GroupMessage(group, body, now, now + self.expiry))

    # Beyond the specification

    async def stats(self) -> stats.Stats:
        """Counts by inbox and group, ages and sizes. It reads all rows, which takes seconds where
        there are millions; senders and readers do not wait for it.
        """
        database = self._parts.database
        return await database.read_on_own_thread(lambda each: stats.read(each, database.path))

    async def readers(self) -> list[Reader]:
        """The processes that receive from the file and live, by their process id, each with what
        wakes it and what it has counted.
        """
        database = self._parts.database
        await database.ready()
        return stats.readers(database)

    async def group_channels(self, group: str) -> list[str]:
        """The channels in a group, by name."""
        self.require_valid_group_name(group)
        now = time.time()
        return await self._parts.database.read(lambda each: groups.channels(each, group, now))

    async def group_count(self, group: str) -> int:
        """How many channels are in a group."""
        self.require_valid_group_name(group)
        now = time.time()
        return await self._parts.database.read(lambda each: groups.count(each, group, now))

    # Life

    async def flush(self) -> None:
        """Delete all messages and memberships, and wake all readers, which then forget what they
        have in memory.
        """
        database = self._parts.database
        await database.write(sql.flush, then=lambda _: bells.ring_all(database))

    async def close(self) -> None:
        """Stop listening on this event loop, and close this process's connections. The next use of
        the layer opens them again; a receive() that was waiting then goes on.

        You need not call it: connections and threads do not keep the interpreter from exiting.
        """
        forks.notice()
        if (made := self._made) is not None:
            await made.receiver.close()
            await made.database.close()

    close_pools = close  # as channels_redis calls it

    def after_fork_in_child(self) -> None:
        """Begin with nothing: another client, no memberships, no buffers."""
        forks.register(self)
        self._drops.forget()
        self._begin()


def _capacity_of(layer: SqliteChannelLayer) -> Callable[[str], int]:
    """The layer's `get_capacity` of the moment, without holding the layer."""
    reference, otherwise = weakref.ref(layer), layer.options.capacity

    def capacity_of(channel: str) -> int:
        layer = reference()
        return otherwise if layer is None else layer.get_capacity(channel)

    return capacity_of
