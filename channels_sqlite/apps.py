"""The Django app: tables that stay whole, and system checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate, pre_migrate

from . import schema
from .files import is_in_memory
from .settings import configured_databases

if TYPE_CHECKING:
    from django.db.migrations import Migration

    Plan = list[tuple[Migration, bool]]


class ChannelsSqliteConfig(AppConfig):
    name = "channels_sqlite"
    verbose_name = "Channels on SQLite"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # it imports the models, which are loaded only now

        register(checks.check_settings, self.label)
        register(checks.check_databases, self.label, Tags.database)
        register(checks.check_deployment, self.label, deploy=True)
        pre_migrate.connect(clear_the_way, sender=self)
        post_migrate.connect(restore, sender=self)
        connection_created.connect(read_past_locks_in_memory)


def clear_the_way(
    sender: ChannelsSqliteConfig, using: str, plan: Plan | None = None, **_kwargs: Any
) -> None:
    """Drop the views if a migration of ours is about to run; `restore` brings them back.

    Django's schema editor drops an altered SQLite table and renames another into its place. SQLite
    refuses to rename anything while a trigger, as those of the views, names a table that is gone.
    """
    if not any(migration.app_label == sender.label for migration, _ in plan or ()):
        return
    connection = connections[using]
    if connection.vendor != "sqlite":
        return
    with connection.cursor() as cursor:
        for view in schema.VIEWS:
            cursor.execute(f"drop view if exists {view}")


def restore(sender: ChannelsSqliteConfig, using: str, **_kwargs: Any) -> None:
    """Create the triggers and views that `migrate` left missing, and set the journal mode.

    Django's schema editor alters an SQLite table by building it anew, and drops its triggers on
    the way; databases made without migrations (`--no-migrations` in a test run) never had them.
    """
    connection = connections[using]
    if connection.vendor != "sqlite" or not router.allow_migrate(using, sender.label):
        return
    with connection.cursor() as cursor:
        tables = set(connection.introspection.table_names(cursor))
        if not {schema.MESSAGE, schema.MEMBERSHIP, schema.SEQUENCE} <= tables:
            return  # migrated back to zero
        for sql in (schema.TRIGGERS, schema.VIEWS, schema.VIEW_TRIGGERS):
            for statement in sql.values():
                cursor.execute(statement)
        if not connection.in_atomic_block:
            # Where it is set already this is a look; several processes that open a new file at once
            # would otherwise wait for each other to set it.
            cursor.execute("pragma journal_mode = wal")


def read_past_locks_in_memory(connection: BaseDatabaseWrapper, **_kwargs: Any) -> None:
    """In a test database in memory, let Django read without locks.

    Such a database locks whole tables, and what a TestCase has read stays locked until its
    transaction ends: the layer, whose connection is another one, could send nothing more.
    """
    if connection.alias in configured_databases() and is_in_memory(
        str(connection.settings_dict["NAME"])
    ):
        with connection.cursor() as cursor:
            cursor.execute("pragma read_uncommitted = on")
