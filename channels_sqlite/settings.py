"""What the project's settings say about our layers; read afresh each time, so that tests may
override them, and without loading the layer or the app registry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

BACKEND = "channels_sqlite.layers.SqliteChannelLayer"
DEFAULT_DATABASE = "channels"


def configured_layers() -> dict[str, Any]:
    """The CONFIG of every entry of CHANNEL_LAYERS that is ours, by the entry's name."""
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    return {
        name: layer.get("CONFIG", {})
        for name, layer in layers.items()
        if _is_ours(layer.get("BACKEND"))
    }


@cache
def _is_ours(backend: str) -> bool:
    """Whether it names our layer, or a project's subclass of it."""
    if backend == BACKEND:
        return True
    try:
        named = import_string(backend)
    except (ImportError, TypeError):  # for Channels to complain of
        return False
    return isinstance(named, type) and issubclass(named, import_string(BACKEND))


def alias_of(config: Any) -> Any:
    """The alias that a CONFIG names, as it stands there; the default of one that is no dict."""
    named = config if isinstance(config, Mapping) else {}
    return named.get("database", DEFAULT_DATABASE)


def configured_databases() -> list[str]:
    """The database aliases our layers use, each once, in the order of CHANNEL_LAYERS.

    Where no layer is ours (a test that puts the in-memory layer in its place, say), the default
    alias: the tables must not wander off to another database meanwhile.
    """
    aliases = [alias_of(config) for config in configured_layers().values()]
    # What is no alias at all is for the system checks to report, not for a router to fail on.
    named = [alias for alias in aliases if isinstance(alias, str)]
    return list(dict.fromkeys(named)) or [DEFAULT_DATABASE]
