"""The readers of this process, as a database knows them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Protocol


class LocalReader(Protocol):
    """A reader of this process, one for each layer that receives: `_receiving.receiver`."""

    client: str

    @property
    def has_bell(self) -> bool: ...
    def rung(
        self, inboxes: Collection[str] | None, running: asyncio.AbstractEventLoop | None
    ) -> None: ...
    def on_opened(self) -> None: ...
    def end_lapsed(self) -> None: ...
    def acknowledge_now(self) -> None: ...
    def status(self) -> dict[str, Any]: ...
    def depart(self) -> None: ...
