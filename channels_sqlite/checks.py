"""System checks: what would go wrong later, said by `manage.py check`, with a remedy to copy.

`check` says what the settings show; `check --database channels`, and `migrate --database channels`,
also open the database; `check --deploy` adds what matters in production only. What the layer
refuses is decided in conf.py and connection.py, and only reported here.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from . import schema, serializers
from .codec import Codec
from .conf import Options
from .database import OLDEST_SQLITE, WAL_LIMIT, Database
from .db_routers import APP_LABEL, ChannelsRouter
from .exceptions import InvalidOption
from .models import Message
from .settings import configured_databases, configured_layers
from .wakes.watchers import is_installed

ENGINE = "django.db.backends.sqlite3"
ROUTER = "channels_sqlite.db_routers.ChannelsRouter"

LONG_LOG = 8 * WAL_LIMIT
"""Bytes of a write-ahead log that a long read keeps from being reset."""

MOUNTS = Path("/proc/mounts")  # Linux only; elsewhere nothing is said about file systems

# The WAL wants all processes on one host, for they share memory (https://www.sqlite.org/wal.html).
# A folder that a virtual machine or a container shares with its host has two hosts as well.
NETWORK_FILE_SYSTEMS = {
    *("afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
    *("fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    *("9p", "fakeowner", "fuse.grpcfuse", "prl_fs", "vboxsf", "virtiofs"),
}


def check_settings(**_kwargs: Any) -> list[checks.CheckMessage]:
    """What the settings show by themselves."""
    return [
        *_sqlite_version(),
        *(each for name, config in configured_layers().items() for each in _layer(name, config)),
        *(each for alias in configured_databases() for each in _database(alias)),
        *_routing(),
    ]


def check_databases(
    databases: Sequence[str] | None = None, **_kwargs: Any
) -> list[checks.CheckMessage]:
    """What our databases hold; only of those in `databases`, for each is opened.

    What `migrate` mends must not be an Error: `migrate` runs these checks first, and stops at one.
    """
    return [
        each
        for alias in _sqlite_databases()
        if databases is not None and alias in databases  # None from Django before 6.1: open none
        for each in _contents(connections[alias])
    ]


def check_deployment(**_kwargs: Any) -> list[checks.CheckMessage]:
    """What is no matter on a developer's machine."""
    return [
        *_wal_reset_bug(),
        *(each for alias in _sqlite_databases() for each in _readable_by_others(alias)),
        *(each for alias in _sqlite_databases() for each in _long_log(alias)),
    ]


# The layers


def _layer(name: str, config: Any) -> Iterator[checks.CheckMessage]:
    try:
        options = Options.from_config(config)
        Codec(serializers.create(options.serializer_format), options.symmetric_encryption_keys)
    except InvalidOption as error:
        yield checks.Error(
            str(error),
            hint=f'Change or remove it in CHANNEL_LAYERS["{name}"]["CONFIG"].',
            id="channels_sqlite.E005",
        )
        return
    if options.watcher != "auto" and not is_installed(options.watcher):
        package = "channels-sqlite[inotify]" if options.watcher == "inotify" else options.watcher
        yield checks.Error(
            f'CHANNEL_LAYERS["{name}"] names the watcher "{options.watcher}", '
            "whose package is not installed here.",
            hint=f'Install it: pip install "{package}" (inotify is for Linux only)\n'
            'or let the layer choose: "watcher": "auto".',
            id="channels_sqlite.E006",
        )


# The settings of a database


def _sqlite_databases() -> list[str]:
    """Those of our databases that can be looked at; the others are errors of check_settings."""
    return [
        alias
        for alias in configured_databases()
        if alias in connections and connections[alias].settings_dict["ENGINE"] == ENGINE
    ]


def _entry(alias: str) -> str:
    return (
        f'DATABASES["{alias}"] = {{\n'
        f'    "ENGINE": "{ENGINE}",\n'
        f'    "NAME": BASE_DIR / "{alias}.sqlite3",\n'
        "}"
    )


ENTRY_OF_ITS_OWN = f"""\
Give the layer a file of its own:
{_entry("channels")}
and "database": "channels" in the CONFIG of CHANNEL_LAYERS."""


def _database(alias: str) -> Iterator[checks.CheckMessage]:
    if alias not in connections:
        yield checks.Error(
            f'CHANNEL_LAYERS uses the database "{alias}", which DATABASES does not have.',
            hint=f"Add it to the settings:\n{_entry(alias)}",
            id="channels_sqlite.E001",
        )
        return
    database = connections[alias].settings_dict
    if database["ENGINE"] != ENGINE:
        yield checks.Error(
            f'CHANNEL_LAYERS uses the database "{alias}", whose ENGINE is "{database["ENGINE"]}".',
            hint=ENTRY_OF_ITS_OWN,
            id="channels_sqlite.E002",
        )
        return
    if alias == DEFAULT_DB_ALIAS:
        yield checks.Warning(
            "The layer shares the default database. SQLite has one writer at a time: messages "
            "wait for your transactions, and your transactions for messages.",
            hint=f"{ENTRY_OF_ITS_OWN}\n"
            'To keep it as it is: SILENCED_SYSTEM_CHECKS = ["channels_sqlite.W001"]',
            id="channels_sqlite.W001",
        )
    yield from _beside_options(alias)
    yield from _place(alias)


def _beside_options(alias: str) -> Iterator[checks.CheckMessage]:
    database = connections[alias].settings_dict
    beside = {key: database[key] for key in ("init_command", "transaction_mode") if key in database}
    if beside:
        yield checks.Warning(
            f'DATABASES["{alias}"] has {" and ".join(beside)} beside "OPTIONS", '
            f"where Django ignores {'it' if len(beside) == 1 else 'them'}.",
            hint=f'Move it inside:\n"OPTIONS": {database["OPTIONS"] | beside!r}',
            id="channels_sqlite.W002",
        )


def _place(alias: str) -> Iterator[checks.CheckMessage]:
    database = Database(connections[alias].settings_dict, alias)
    if database.in_memory:
        # Django's test runner puts a database of this name in place of the configured one.
        if not database.name.startswith(f"file:memorydb_{alias}"):
            yield checks.Error(
                f'DATABASES["{alias}"] is in memory, where no other process can see it.',
                hint=f"Give it a file:\n{_entry(alias)}",
                id="channels_sqlite.E007",
            )
        return
    path = Path(database.path)
    file_system = _file_system(path.parent)
    if file_system in NETWORK_FILE_SYSTEMS:
        yield checks.Warning(
            f"{path} is on a network or shared file system ({file_system}): SQLite's write-ahead "
            "log does not work there between hosts, and file watching may see nothing.",
            hint="Put it on a local disk:\n"
            f'DATABASES["{alias}"]["NAME"] = "/var/lib/your-project/{path.name}"',
            id="channels_sqlite.W003",
        )


def _file_system(directory: Path) -> str | None:
    """The type of the file system that holds `directory`; None where it cannot be told."""
    if not MOUNTS.exists():
        return None
    mounts = {}
    for line in MOUNTS.read_text().splitlines():
        _, mount_point, file_system, *_ = line.split(" ")
        mounts[Path(mount_point.replace(r"\040", " "))] = file_system  # the last one is on top
    above = (directory, *directory.parents)
    return next((mounts[each] for each in above if each in mounts), None)


# The routers


def _routing() -> Iterator[checks.CheckMessage]:
    aliases = configured_databases()
    if (
        router.db_for_read(Message) == aliases[0]
        and router.db_for_write(Message) == aliases[0]
        and all(router.allow_migrate_model(alias, Message) for alias in aliases)
    ):
        return
    others = [each for each in settings.DATABASE_ROUTERS if each != ROUTER]
    remedy = f"DATABASE_ROUTERS = {[ROUTER, *others]!r}"
    if any(isinstance(each, ChannelsRouter) for each in router.routers):
        yield checks.Error(
            f'A router before ChannelsRouter keeps the layer\'s tables from "{aliases[0]}".',
            hint=f"Let ours be the first; it has no opinion on other apps:\n{remedy}",
            id="channels_sqlite.E004",
        )
    else:
        yield checks.Error(
            f'No router sends the layer\'s tables to the database "{aliases[0]}".',
            hint=remedy,
            id="channels_sqlite.E003",
        )


# The contents of a database


def _contents(connection: BaseDatabaseWrapper) -> Iterator[checks.CheckMessage]:
    try:
        with connection.cursor() as cursor:
            differing = _differing_tables(cursor)
            cursor.execute("select name from sqlite_master where type = 'trigger'")
            triggers = {name for (name,) in cursor.fetchall()}
            never_migrated = not connection.introspection.table_names(cursor)
            cursor.execute("pragma journal_mode")
            (journal_mode,) = cursor.fetchone()
    except DatabaseError as error:
        directory = Path(connection.settings_dict["NAME"]).parent
        yield checks.Error(
            f'The database "{connection.alias}" cannot be read: {error}.',
            hint="The file must be an SQLite database or not exist, and its directory must exist "
            f"and be writable: mkdir -p {shlex.quote(str(directory))}",
            id="channels_sqlite.E008",
        )
        return
    if never_migrated:
        # `migrate` runs these checks before it makes the tables; it need not tell itself to.
        return
    if differing:
        yield checks.Warning(
            f'The database "{connection.alias}" does not have the tables of this version: '
            f"{', '.join(differing)}.",
            hint=f"Run: python manage.py migrate {APP_LABEL} --database={connection.alias}",
            id="channels_sqlite.W004",
        )
        return
    wanted = schema.TRIGGERS.keys() | schema.VIEW_TRIGGERS.keys()
    if missing := sorted(wanted - triggers):
        yield checks.Warning(
            f'The database "{connection.alias}" has lost the trigger {", ".join(missing)}, '
            "without which no reader wakes.",
            hint=f"Run: python manage.py migrate {APP_LABEL} --database={connection.alias}",
            id="channels_sqlite.W005",
        )
    if journal_mode not in {"wal", "memory"}:
        yield checks.Warning(
            f'The journal mode of the database "{connection.alias}" is "{journal_mode}", not '
            '"wal": readers and writers wait for each other, and there is no log to watch.',
            hint="The layer sets it when it opens the file. To set it now:\n"
            f"python manage.py dbshell --database={connection.alias} "
            '-- "pragma journal_mode = wal"',
            id="channels_sqlite.W006",
        )


def _differing_tables(cursor: CursorWrapper) -> list[str]:
    """Our tables that are missing, or have other columns than the models."""
    return [
        model._meta.db_table
        for model in apps.get_app_config(APP_LABEL).get_models()
        if _columns(cursor, model._meta.db_table)
        != {field.column for field in model._meta.concrete_fields}
    ]


def _columns(cursor: CursorWrapper, table: str) -> set[str]:
    """The table's columns; none where there is no such table."""
    cursor.execute("select name from pragma_table_info(%s)", [table])
    return {name for (name,) in cursor.fetchall()}


# SQLite itself, and the file


def _sqlite_version() -> Iterator[checks.CheckMessage]:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        yield checks.Error(
            f"SQLite {sqlite3.sqlite_version} is too old: the layer needs "
            f"{'.'.join(map(str, OLDEST_SQLITE))} or newer.",
            hint="Use a Python that has it; to see what one has:\n"
            'python -c "import sqlite3; print(sqlite3.sqlite_version)"',
            id="channels_sqlite.E009",
        )


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


def _readable_by_others(alias: str) -> Iterator[checks.CheckMessage]:
    database = Database(connections[alias].settings_dict, alias)
    path = Path(database.path)
    if os.name != "posix" or not path.exists():
        return
    # SQLite gives the -wal and -shm files the mode of the database file.
    open_to_all = path.stat().st_mode & stat.S_IROTH
    if open_to_all and all(each.stat().st_mode & stat.S_IXOTH for each in path.parents):
        yield checks.Warning(
            f"Every user of this machine may read {path}, and so the messages.",
            hint=f"Run: chmod o-rwx {shlex.quote(str(path))}*",
            id="channels_sqlite.W007",
        )


def _long_log(alias: str) -> Iterator[checks.CheckMessage]:
    database = Database(connections[alias].settings_dict, alias)
    wal = Path(database.wal)
    size = wal.stat().st_size if wal.exists() else 0
    if size > LONG_LOG:
        yield checks.Warning(
            f"{wal} has grown to {size // 10**6} MB: somebody has been reading the database for "
            "long, which keeps SQLite from writing its log from the beginning.",
            hint="Find who holds a transaction open, an idle shell or a backup perhaps:\n"
            f"lsof {shlex.quote(database.path)}",
            id="channels_sqlite.W008",
        )
