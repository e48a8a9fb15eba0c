"""The readers that are in this process: one for each layer that receives."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from typing import Any, Protocol
from weakref import WeakValueDictionary


class LocalReader(Protocol):
    """A reader in this process."""

    client: str

    @property
    def has_bell(self) -> bool:
        """Return True if it may be in groups."""

    @property
    def listens(self) -> bool:
        """Return True if it looks after its own memberships, at every heartbeat."""

    def rung(self, inboxes: Collection[str] | None, here: asyncio.AbstractEventLoop | None) -> None:
        """Look: something was written to these inboxes, or to any."""

    def opened(self) -> None:
        """The database was opened, perhaps again."""

    def acknowledge_now(self) -> None:
        """Acknowledge what was taken."""

    def status(self) -> dict[str, Any]:
        """How it is, for others."""

    def leave(self) -> None:
        """The interpreter ends: give up the memberships and the bell."""


class Readers:
    """This process's own, by their clients, for as long as they live."""

    def __init__(self) -> None:
        self._readers: WeakValueDictionary[str, LocalReader] = WeakValueDictionary()

    def __iter__(self) -> Iterator[LocalReader]:
        # At one go, because other threads make layers; `values()` is a loop of Python's.
        references = self._readers.valuerefs()
        return iter([reader for each in references if (reader := each()) is not None])

    def get(self, client: str) -> LocalReader | None:
        """The reader of this client; None if it is in another process, or nowhere."""
        return self._readers.get(client)

    def add(self, reader: LocalReader) -> None:
        """Tell it of everything from now on."""
        self._readers[reader.client] = reader

    def discard(self, reader: LocalReader) -> None:
        """Tell it of nothing any more."""
        self._readers.pop(reader.client, None)

    def ring(self, inboxes: Collection[str] | None, here: asyncio.AbstractEventLoop | None) -> None:
        """Have all of them look at these inboxes, or at all that they read."""
        for reader in self:
            reader.rung(inboxes, here)
