"""Our layers, as the project's settings have them.

Read afresh each time, so that tests may override them, and without loading the layer or the app
registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from difflib import SequenceMatcher
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from .conf import NAMES, Options

BACKEND = "channels_sqlite.layers.SqliteChannelLayer"
SETTING = f'CHANNEL_LAYERS = {{"default": {{"BACKEND": "{BACKEND}"}}}}'  # for hints
ALIKE = 0.9  # of two names, the part that has to be the same for one to be the other misspelt
BEGINNINGS = "channels_sqlite", "channels.layers.sqlite", "sqlitechannellayer"
"""How a BACKEND begins that means ours. Only the beginning counts, because the layers of other
packages (channels_lite) and projects may be called SqliteChannelLayer, too."""


def configured_layers() -> dict[str, Any]:
    """The CONFIG of every entry of CHANNEL_LAYERS that is ours, by the entry's name."""
    return {
        name: _options_of(entry)
        for name, entry in channel_layers().items()
        if is_ours(entry.get("BACKEND"))
    }


def _options_of(entry: Mapping[str, Any]) -> Any:
    """The CONFIG of an entry; of a subclass, which may have options of its own, what is ours."""
    config = entry.get("CONFIG", {})
    if entry["BACKEND"] == BACKEND or not isinstance(config, Mapping):
        return config
    return {name: value for name, value in config.items() if name in NAMES}


def channel_layers() -> dict[str, Mapping[str, Any]]:
    """CHANNEL_LAYERS, except what is no dict: Channels refuses that itself."""
    entries = getattr(settings, "CHANNEL_LAYERS", None)
    named = entries.items() if isinstance(entries, Mapping) else ()
    return {name: entry for name, entry in named if isinstance(entry, Mapping)}


def is_ours(backend: Any) -> bool:
    """Return True if a BACKEND names our layer, or a project's subclass of it."""
    if backend == BACKEND:
        return True
    try:
        named = import_string(backend)
    except Exception:  # whatever a module of others raises: Channels says so when it is used
        return False
    # By name, because to load our layer takes longer than all of the rest.
    ancestry = named.__mro__ if isinstance(named, type) else ()
    return BACKEND in [f"{each.__module__}.{each.__qualname__}" for each in ancestry]


def looks_like_ours(backend: str) -> bool:
    """Return True if a BACKEND seems to be ours misspelt."""
    starts = ((backend[: len(each)].lower(), each) for each in BEGINNINGS)
    if all(SequenceMatcher(None, *each).ratio() < ALIKE for each in starts):
        return False
    with suppress(Exception):
        import_string(backend)
        return backend.startswith("channels_sqlite.")
    return True


def alias_of(config: Any) -> Any:
    """The alias that a CONFIG names, as it stands there; the default one if it is no dict."""
    named = config if isinstance(config, Mapping) else {}
    return named.get("database", Options.database)


def configured_databases() -> list[str]:
    """The database aliases our layers use, each once, in the order of CHANNEL_LAYERS.

    Where no layer is ours (a test that replaces it by the in-memory layer, for example), the
    default alias: the tables must not move to another database meanwhile.
    """
    aliases = [alias_of(config) for config in configured_layers().values()]
    # The system checks report what is no alias at all; a router must not fail on it.
    named = [alias for alias in aliases if isinstance(alias, str)]
    return list(dict.fromkeys(named)) or [Options.database]
