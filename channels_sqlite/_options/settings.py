"""Our layers, as the project's settings have them.

Read afresh each time, so that tests may override them, and without loading the layer or the app
registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

BACKEND = "channels_sqlite.layers.SqliteChannelLayer"
DEFAULT_DATABASE = "channels"


def configured_layers() -> dict[str, Any]:
    """The CONFIG of every entry of CHANNEL_LAYERS that is ours, by the entry's name."""
    return {
        name: entry.get("CONFIG", {})
        for name, entry in channel_layers().items()
        if is_ours(entry.get("BACKEND"))
    }


def channel_layers() -> dict[str, Mapping[str, Any]]:
    """CHANNEL_LAYERS, except entries that are no dict: Channels refuses these itself."""
    entries = getattr(settings, "CHANNEL_LAYERS", None) or {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, Mapping)}


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


def alias_of(config: Any) -> Any:
    """The alias that a CONFIG names, as it stands there; the default one if it is no dict."""
    named = config if isinstance(config, Mapping) else {}
    return named.get("database", DEFAULT_DATABASE)


def configured_databases() -> list[str]:
    """The database aliases our layers use, each once, in the order of CHANNEL_LAYERS.

    Where no layer is ours (a test that replaces it by the in-memory layer, for example), the
    default alias: the tables must not move to another database meanwhile.
    """
    aliases = [alias_of(config) for config in configured_layers().values()]
    # The system checks report what is no alias at all; a router must not fail on it.
    named = [alias for alias in aliases if isinstance(alias, str)]
    return list(dict.fromkeys(named)) or [DEFAULT_DATABASE]
