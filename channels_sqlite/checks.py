"""System checks: what would go wrong later, reported by `manage.py check`, with a remedy to copy.

`check` reports what the settings show; with `--database`, as `migrate` does, it also opens the
database; with `--deploy` it adds what matters in production only. Files are checked in
file_checks.py. `_options/conf.py` and `_storing/refusals.py` decide what the layer refuses.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from django.conf import settings
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.utils.functional import Promise

from . import serializers
from ._options.codec import Codec
from ._options.conf import KEYS, NAMES, Options, problems_of
from ._options.settings import (
    BACKEND,
    SETTING,
    channel_layers,
    configured_databases,
    configured_layers,
    is_ours,
    looks_like_ours,
)
from ._storing.registry import is_sqlite
from ._tools import file_checks, tables
from ._waking.watchers import is_installed
from .db_routers import ChannelsRouter
from .exceptions import InvalidOption
from .models import LayerMessage

ROUTER = "channels_sqlite.db_routers.ChannelsRouter"

READ_BY_CHANNELS = {"BACKEND", "CONFIG", "TEST_CONFIG"}  # the keys of an entry of CHANNEL_LAYERS
SLOW_POLLING = 1.0  # seconds


def check_settings(**_kwargs: Any) -> list[checks.CheckMessage]:
    """Check the settings; those of databases only if a layer is ours."""
    ours = configured_layers()
    return [
        *_backends(),
        *(each for name, config in ours.items() for each in _layer(name, config)),
        *(each for alias in configured_databases() if ours for each in _database(alias)),
        *(each for each in _routing() if ours),
    ]


def check_databases(
    databases: Sequence[str] | None = None, **_kwargs: Any
) -> list[checks.CheckMessage]:
    """Check what our databases hold, of those in `databases`, because each is opened.

    A fault that `migrate` repairs must not be an Error: `migrate` runs these checks first, and
    stops at one. Warnings are left out then, because their hint is to run `migrate`.
    """
    is_migrating = sys.argv[1:2] == ["migrate"]  # `call_command` runs no checks unless told to
    return [
        each
        for alias in _aliases()
        if alias in (databases or ())  # None from Django before 6.1: open none
        for each in file_checks.contents(alias)
        if each.is_serious() or not is_migrating
    ]


def check_deployment(
    databases: Sequence[str] | None = None, **_kwargs: Any
) -> list[checks.CheckMessage]:
    """Check what does not matter on a developer's machine."""
    opened = databases or ()
    ours = [each for each in _aliases() if each not in opened or file_checks.can_be_read(each)]
    return [
        *_wal_reset_bug(),
        *(each for alias in ours for each in file_checks.readable_by_others(alias)),
        *(each for alias in ours for each in file_checks.long_log(alias)),
    ]


def _aliases() -> list[str]:
    """Our databases that can be opened; none if no layer is ours."""
    return [each.alias for each in tables.databases()] if configured_layers() else []


# The layers


def _backends() -> Iterator[checks.CheckMessage]:
    layers = getattr(settings, "CHANNEL_LAYERS", None) or {}
    if not layers:
        yield checks.Warning(
            "The setting CHANNEL_LAYERS is missing or empty: there is no channel layer.",
            hint=f"Add to the settings, or correct the name that it has there:\n{SETTING}",
            id="channels_sqlite.W012",
        )
    for problem, hint in _misshapen(layers):
        yield checks.Error(f"CHANNEL_LAYERS{problem}.", hint=hint, id="channels_sqlite.E010")


def _misshapen(layers: Any) -> Iterator[tuple[str, str]]:
    """The faults of CHANNEL_LAYERS and its entries, each with a hint."""
    if not isinstance(layers, Mapping):
        yield f" is {_kind(layers)}, where Channels needs a dict", f"Make it:\n{SETTING}"
        return
    if isinstance(layers.get("BACKEND"), str) and "default" not in layers:
        layers = {"BACKEND": layers["BACKEND"]}  # what is beside it is no entry either
    ours = f'The layer of this package is: "BACKEND": "{BACKEND}"'
    for name, entry in layers.items():
        match entry:
            case {"BACKEND": str(backend)} if not is_ours(backend) and looks_like_ours(backend):
                yield f'["{name}"] has the BACKEND "{backend}", which is no channel layer', ours
            case {"BACKEND": str() | Promise()}:
                pass
            case {"BACKEND": backend}:
                yield f'["{name}"] has a BACKEND that is {_kind(backend)}, and not a name', ours
            case _ if name in READ_BY_CHANNELS and len(layers) > 1:
                yield f'["{name}"] stands beside the entries', f"Put it into one of them.\n{ours}"
            case str():
                key = "default" if name == "BACKEND" else name
                entry = f'"{key}": {{"BACKEND": "{BACKEND if looks_like_ours(entry) else entry}"}}'
                problem = f'["{name}"] is a string, where Channels needs the dict of an entry'
                yield problem, f"Make it a dict, with its CONFIG inside:\n{entry}"
            case Mapping():
                yield f'["{name}"] has no BACKEND ("No BACKEND specified for {name}")', ours
            case _:
                yield f'["{name}"] is {_kind(entry)}, where Channels needs a dict', ours


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"  # and not what it holds, which may be secret


def _layer(name: str, config: Any) -> Iterator[checks.CheckMessage]:
    yield from _beside_config(name, config)
    hint = f'Change or remove it in CHANNEL_LAYERS["{name}"]["CONFIG"].'
    if problems := list(problems_of(config)):
        yield from (checks.Error(each, hint, id="channels_sqlite.E005") for each in problems)
        return
    options = Options.from_config(config)
    try:
        Codec(serializers.create(options.serializer_format), options.symmetric_encryption_keys)
    except InvalidOption as error:
        if isinstance(error.__cause__, ImportError):
            hint = f"Install what it needs:\npython -m pip install cryptography\nor: {hint}"
        yield checks.Error(str(error), hint, id="channels_sqlite.E005")
        return
    yield from _watching(name, options)


def _beside_config(name: str, config: Any) -> Iterator[checks.CheckMessage]:
    entry = channel_layers()[name]
    beside = {key: entry[key] for key in entry if key not in READ_BY_CHANNELS}
    if beside and isinstance(config, Mapping):
        options = {key: value for key, value in beside.items() if key in NAMES}
        for key, value in beside.items():  # OPTIONS as in CACHES, or CONFIG in lower case
            if str(key).upper() in {"OPTIONS", "CONFIG"} and isinstance(value, Mapping):
                options |= {each: value[each] for each in value if each in NAMES}
        options |= config
        if KEYS in options:
            options[KEYS] = "not shown here"
        yield checks.Warning(
            f'CHANNEL_LAYERS["{name}"] has {" and ".join(map(str, beside))} beside "CONFIG", '
            f"where Channels ignores {_them(beside)}.",
            hint=f"Remove {_them(beside)}, and give the layer its options inside:\n"
            f'"CONFIG": {options!r}',
            id="channels_sqlite.W009",
        )


def _watching(name: str, options: Options) -> Iterator[checks.CheckMessage]:
    if options.watcher != "auto" and not is_installed(options.watcher):
        is_package = options.watcher == "watchfiles"
        why = "whose package is not installed here" if is_package else "which works on Linux only"
        install = "Install it:\npython -m pip install watchfiles\nor: " if is_package else ""
        yield checks.Error(
            f'CHANNEL_LAYERS["{name}"] names the watcher "{options.watcher}", {why}.',
            hint=f'{install}"watcher": "auto"',
            id="channels_sqlite.E006",
        )
    interval, expiry = options.polling_interval, options.expiry
    if options.watcher != "inotify" and interval >= min(SLOW_POLLING, expiry):
        yield checks.Warning(
            f'CHANNEL_LAYERS["{name}"] has a polling_interval of {interval} s and an expiry of '
            f"{expiry} s: a reader that polls is late by the first, and messages older than the "
            "second are not delivered.",
            hint="It is in seconds. The default is:\n"
            f'"polling_interval": {Options().polling_interval}',
            id="channels_sqlite.W011",
        )


def _them(keys: Mapping[str, object]) -> str:
    return "it" if len(keys) == 1 else "them"


# The settings of a database


def _entry(alias: str) -> str:
    return (
        f'DATABASES["{alias}"] = {{\n'
        '    "ENGINE": "django.db.backends.sqlite3",\n'
        f'    "NAME": BASE_DIR / "{alias}.sqlite3",\n'
        "}"
    )


ENTRY_OF_ITS_OWN = f"""\
Give the layer a file of its own:
{_entry("channels")}
and "database": "channels" in the CONFIG of CHANNEL_LAYERS."""


def _database(alias: str) -> Iterator[checks.CheckMessage]:
    if alias not in connections:
        hint = f"Add it to the settings:\n{_entry(alias)}"
        if near := get_close_matches(alias, connections.settings, n=1):
            meant = f'If "{near[0]}" is meant, write in the CONFIG of CHANNEL_LAYERS:'
            hint = f'{meant} "database": "{near[0]}"\nOr: {hint}'
        yield checks.Error(
            f'CHANNEL_LAYERS uses the database "{alias}", which DATABASES does not have.',
            hint=hint,
            id="channels_sqlite.E001",
        )
        return
    engine = connections.settings[alias]["ENGINE"]
    if not is_sqlite(engine):
        yield checks.Error(
            f'CHANNEL_LAYERS uses the database "{alias}", whose ENGINE is "{engine}".',
            hint=ENTRY_OF_ITS_OWN,
            id="channels_sqlite.E002",
        )
        return
    if alias == DEFAULT_DB_ALIAS:
        yield checks.Warning(
            "The layer shares the default database. SQLite has one writer at a time: messages "
            "wait for your transactions, and your transactions for messages. A send inside this "
            "thread's own transaction, that of ATOMIC_REQUESTS or of a post_delete handler for "
            "example, waits in vain.",
            hint=f"{ENTRY_OF_ITS_OWN}\n"
            "Or send after a transaction, with transaction.on_commit(), or in it, with "
            "channels_sqlite.models.GroupSend, and keep it as it is:\n"
            'SILENCED_SYSTEM_CHECKS = ["channels_sqlite.W001"]',
            id="channels_sqlite.W001",
        )
    yield from _beside_options(alias)
    yield from file_checks.place(alias, _entry(alias))


def _beside_options(alias: str) -> Iterator[checks.CheckMessage]:
    database = connections[alias].settings_dict
    ignored = ("init_command", "transaction_mode", "timeout")
    beside: dict[str, Any] = {key: database[key] for key in ignored if key in database}
    if beside:
        yield checks.Warning(
            f'DATABASES["{alias}"] has {" and ".join(beside)} beside "OPTIONS", '
            f"where Django ignores {_them(beside)}.",
            hint=f"Remove {_them(beside)}, which changes nothing. Put what is to have an effect"
            ' into "OPTIONS".',
            id="channels_sqlite.W002",
        )


# The routers


def _routing() -> Iterator[checks.CheckMessage]:
    aliases = configured_databases()
    first, asked = aliases[0], (router.db_for_read, router.db_for_write)
    if all(ask(LayerMessage) == first for ask in asked) and all(
        router.allow_migrate_model(alias, LayerMessage) for alias in aliases
    ):
        return
    others = [each for each in map(_name_of, settings.DATABASE_ROUTERS) if each != ROUTER]
    remedy = f"DATABASE_ROUTERS = {[ROUTER, *others]!r}"
    if any(isinstance(each, ChannelsRouter) for each in router.routers):
        yield checks.Error(
            f'A router before ChannelsRouter keeps the layer\'s tables from "{first}".',
            hint=f"Let ours be the first:\n{remedy}",
            id="channels_sqlite.E004",
        )
    else:
        yield checks.Error(
            f'No router sends the layer\'s tables to the database "{first}".',
            hint=remedy,
            id="channels_sqlite.E003",
        )


def _name_of(router: object) -> str:
    kind = type(router)
    return router if isinstance(router, str) else f"{kind.__module__}.{kind.__qualname__}"


# SQLite itself


def _wal_reset_bug() -> Iterator[checks.CheckMessage]:
    # https://www.sqlite.org/wal.html#walresetbug; two older branches have the fix as well.
    version = sqlite3.sqlite_version_info
    fixed = (3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51)
    if (3, 7) <= version < (3, 51, 3) and not fixed:
        yield checks.Info(
            f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug, which, very rarely, damages "
            "a database that several connections write. The layer makes that rarer: it has the "
            "log copied back seldom, and by one connection of each process.",
            hint="Use a Python with SQLite 3.51.3 or newer, unless your distribution has patched "
            "this one. See https://www.sqlite.org/wal.html#walresetbug",
            id="channels_sqlite.I001",
        )
