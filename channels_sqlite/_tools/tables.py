"""The layer's tables in one of Django's databases: make them, complete them, drop them.

Everything is made from the SQL of `_storing/schema.py`. `migrate` calls this, by the migration and
by the handlers in `apps.py`.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.utils import CursorWrapper
from django.utils.connection import ConnectionDoesNotExist

from .._options import times
from .._options.settings import configured_databases
from .._storing import forks, schema
from .._storing.files import INDEX, Files, is_gone
from ..db_routers import APP_LABEL
from ..exceptions import ChannelsSqliteError

if TYPE_CHECKING:
    from django.db.migrations.state import StateApps

logger = logging.getLogger("channels_sqlite")

MIGRATION = "0001_channels"

OF_0_1 = ("channels_sqlite_channelmessage", "channels_sqlite_channelgroup")
"""The tables of channels-sqlite 0.1, whose app label is the same."""

REFUSALS = (DatabaseError, ImproperlyConfigured, TypeError, ValueError, AttributeError)
"""What Django raises where it cannot open a database: all but the first for a key of OPTIONS."""


def databases() -> list[BaseDatabaseWrapper]:
    """Django's connections to our databases; system checks complain of those left out."""
    ours = []
    for alias in configured_databases():
        with suppress(ConnectionDoesNotExist, ImproperlyConfigured):
            ours.append(connections[alias])
    return [each for each in ours if each.vendor == "sqlite" and each.settings_dict["NAME"]]


def migrate(connection: BaseDatabaseWrapper) -> bool:
    """Apply the migration as `migrate` does, without its signals; False if it was applied."""
    from django.db.migrations.executor import MigrationExecutor  # not needed to serve

    executor = MigrationExecutor(connection)
    targets = executor.loader.graph.leaf_nodes(APP_LABEL)
    plan = executor.migration_plan(targets)
    executor.migrate(targets, plan)
    return bool(plan)


def make(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    """Make the tables; drop first what an older version has left under our names."""
    if editor.connection.vendor != "sqlite":  # a system check says that the layer cannot use it
        return
    # Write first, because that waits for the write lock: of two processes that migrate at once, the
    # second one then finds what the first has recorded, and keeps its tables. The migrations that
    # are forgotten are those whose tables are dropped here.
    editor.execute(
        f"delete from django_migrations where app = '{APP_LABEL}' and name <> '{MIGRATION}'", None
    )
    if editor.collect_sql:  # for `sqlmigrate`, which shows all of it
        drop(_apps, editor)
    elif is_recorded(editor.connection):
        return
    elif not _are_of_this_version(editor.connection):  # or those are there, and nobody has noted it
        drop(_apps, editor)
    for sql in schema.EVERYTHING.values():
        editor.execute(sql, None)


def drop(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    """Drop the tables and views, and with them their indexes and triggers."""
    if editor.connection.vendor != "sqlite":
        return
    for name in schema.VIEWS:
        editor.execute(f"drop view if exists {name}", None)
    for name in (*OF_0_1, *schema.TABLES):
        editor.execute(f"drop table if exists {name}", None)


def _are_of_this_version(connection: BaseDatabaseWrapper) -> bool:
    """Return True if all our tables are there; otherwise say which others `drop` would take."""
    with connection.cursor() as cursor:
        if not differing(cursor):
            return True
    present = connection.introspection.table_names()
    if old := [name for name in (*OF_0_1, *schema.TABLES) if name in present]:
        logger.warning(
            'Dropping the tables of %s from the database "%s", with what waits in them: %s.',
            "another version" if old[0] in schema.TABLES else "channels-sqlite 0.1",
            connection.alias,
            ", ".join(old),
        )
    return False


def differing(cursor: CursorWrapper) -> list[str]:
    """Our tables that are missing, or have other columns than the models."""
    found = []
    for model in apps.get_app_config(APP_LABEL).get_models():
        cursor.execute("select name from pragma_table_info(%s)", [model._meta.db_table])
        if {*cursor.fetchall()} != {(field.column,) for field in model._meta.concrete_fields}:
            found.append(model._meta.db_table)
    return found


def remove_stale_index(connection: BaseDatabaseWrapper) -> None:
    """Delete the log's index that is left of a deleted database, before a log is made beside it.

    A server that has not closed the deleted one keeps it in use: each process would get I/O errors.
    """
    files = Files(str(connection.settings_dict["NAME"]))
    if files.in_memory:
        return
    with suppress(ChannelsSqliteError):  # the layer says so when it opens it
        files.find()
    if is_gone(files.wal) and not is_gone(files.path + INDEX):
        with forks.no_fork(), files.opening_lock(times.TIMES.close) as alone:
            if alone:
                files.remove_stale_log()


def complete(connection: BaseDatabaseWrapper) -> None:
    """Make what is missing, unless the database was migrated back to zero.

    Tables made without migrations (`--no-migrations` in a test run) have no triggers and views.
    If the migration is recorded, there may be no tables at all: it was applied while the router did
    not allow them there, and CHANNEL_LAYERS names that database since then.
    """
    with connection.cursor() as cursor:
        cursor.execute("select name from sqlite_master")
        present = {name for (name,) in cursor.fetchall()}
    missing = {name: sql for name, sql in schema.EVERYTHING.items() if name not in present}
    recorded = recorded_migrations(connection) if missing else set()
    made_by_models = not recorded and schema.TABLES.keys() <= present
    if missing and (made_by_models or MIGRATION in recorded):
        with transaction.atomic(connection.alias), connection.cursor() as cursor:
            for sql in missing.values():
                cursor.execute(sql)


def is_recorded(connection: BaseDatabaseWrapper) -> bool:
    """Return True if `migrate` has noted our migration as applied."""
    return MIGRATION in recorded_migrations(connection)


def recorded_migrations(connection: BaseDatabaseWrapper) -> set[str]:
    """The names of our migrations that were applied, older versions' as well."""
    from django.db.migrations.recorder import MigrationRecorder  # not needed to serve

    applied = MigrationRecorder(connection).applied_migrations()
    return {name for app, name in applied if app == APP_LABEL}
