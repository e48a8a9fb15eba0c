"""The readers of this process, one for each layer that receives, for as long as they live."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Protocol

from .weak import Weak


class LocalReader(Protocol):
    """What `_receiving.receiver` is."""

    client: str

    @property
    def has_bell(self) -> bool:
        """Return True if it may be in groups."""

    def rung(
        self, inboxes: Collection[str] | None, here: asyncio.AbstractEventLoop | None
    ) -> None: ...
    def on_opened(self) -> None: ...
    def end_lapsed(self) -> None: ...
    def acknowledge_now(self) -> None:
        """Acknowledge what was taken."""

    def status(self) -> dict[str, Any]:
        """How it is, for others."""

    def depart(self) -> None: ...


class Readers(Weak[LocalReader]):
    def __init__(self) -> None:
        super().__init__(key=lambda reader: reader.client)

    def ring(self, inboxes: Collection[str] | None, here: asyncio.AbstractEventLoop | None) -> None:
        """Have all of them look at these inboxes, or at all that they read."""
        for reader in self:
            reader.rung(inboxes, here)
