"""The parts that both sides of a layer share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._options.codec import Codec
from .._options.conf import Options
from ..counters import DropLog
from .database import Database


@dataclass(frozen=True)
class Setup:
    """One layer, in one process and one database."""

    client: str  # the part of its channels' names that no other layer has
    database: Database
    options: Options
    codec: Codec
    drops: DropLog
    capacity_of: Callable[[str], int]  # how many messages may wait in a channel
