"""CONFIG of CHANNEL_LAYERS, checked once, by name.

`manage.py check` and the layer's constructor use the same rules and the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from django.db import connections

from ..exceptions import InvalidOption

WATCHERS = ("auto", "inotify", "watchfiles", "polling")
KEYS = "symmetric_encryption_keys"  # whose value no message shows


@dataclass(frozen=True, kw_only=True)
class Options:
    """The layer's settings; durations in seconds. Names and defaults are those of channels_redis
    where it has them.
    """

    database: str = "channels"
    polling_interval: float = 0.05
    message_retention: float = 86400
    capacity: int = 100
    channel_capacity: Mapping[str | re.Pattern[str], int] = field(default_factory=dict)
    expiry: float = 60
    group_expiry: float = 86400
    trim_batch_size: int = 100
    auto_trim: bool = True
    watcher: str = "auto"
    serializer_format: str = "msgpack"
    symmetric_encryption_keys: tuple[str | bytes, ...] = field(default=(), repr=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Options:
        """The checked options of a CONFIG dict; raises `InvalidOption` for the first one that is
        wrong.
        """
        for problem in problems_of(config):
            raise InvalidOption(problem)
        return cls(**config)


def problems_of(config: Any) -> Iterator[str]:
    """The faults of a CONFIG, key by key."""
    if not isinstance(config, Mapping):
        yield f"CHANNEL_LAYERS CONFIG is of type {type(config).__name__}; allowed is a dict."
        return
    for name, value in config.items():
        if name not in _RULES:
            unknown = f"CHANNEL_LAYERS CONFIG has no key {name!r}. {_meant_by(name)}"
            yield f"{unknown}It may have: {', '.join(_RULES)}."
            continue
        valid, allowed = _RULES[name]
        if not valid(value):
            shown = "not shown here" if name == KEYS else repr(value)
            yield f"CHANNEL_LAYERS CONFIG key {name!r} is {shown}; allowed is {allowed}."


def _meant_by(name: object) -> str:
    """A sentence that guesses what an unknown key was to be; empty if nothing is like it."""
    if name in ("hosts", "prefix"):
        return "It is channels_redis' own; here DATABASES names the file. "
    near = get_close_matches(str(name), _RULES, n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def database_settings(alias: str) -> dict[str, Any]:
    """Django's settings for the database `alias`.

    Asked at first use and not at import: a test runner changes NAME in place. And not of
    `connections[alias]`, which would load the ORM.
    """
    settings: dict[str, dict[str, Any]] = connections.settings
    if alias not in settings:
        raise InvalidOption(
            f"CHANNEL_LAYERS CONFIG key 'database' is {alias!r}, which DATABASES does not have: "
            f'add "{alias}": {{"ENGINE": "django.db.backends.sqlite3", '
            f'"NAME": BASE_DIR / "{alias}.sqlite3"}}.'
        )
    return settings[alias]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_duration(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1e300


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**63


def _are_capacities(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(getattr(pattern, "pattern", pattern), str) and _is_count(capacity)
        for pattern, capacity in value.items()
    )


def _are_keys(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(key, (str, bytes)) and key for key in value
    )


SECONDS = "a number of seconds above 0 and below 1e300"

_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "database": (lambda value: isinstance(value, str) and value != "", "an alias of DATABASES"),
    "polling_interval": (
        lambda value: _is_number(value) and 0.001 <= value <= 60,
        "a number of seconds from 0.001 to 60",
    ),
    "message_retention": (
        lambda value: _is_number(value) and 0 <= value < 1e300,
        "a number of seconds, 0 to delete messages on delivery",
    ),
    "capacity": (_is_count, "a whole number of messages from 1 to 2**63 - 1"),
    "channel_capacity": (
        _are_capacities,
        "a dict of globs or compiled regular expressions to whole numbers from 1 to 2**63 - 1",
    ),
    "expiry": (is_duration, SECONDS),
    "group_expiry": (is_duration, SECONDS),
    "trim_batch_size": (
        lambda value: _is_count(value) and value <= 10**9,
        "a whole number of rows from 1 to 10**9",
    ),
    "auto_trim": (lambda value: isinstance(value, bool), "True or False"),
    "watcher": (lambda value: value in WATCHERS, f"one of {', '.join(WATCHERS)}"),
    "serializer_format": (
        lambda value: isinstance(value, str) and value != "",
        "a serializer's name",
    ),
    KEYS: (_are_keys, "a list of secret strings or bytes"),
}
NAMES = frozenset(_RULES)
