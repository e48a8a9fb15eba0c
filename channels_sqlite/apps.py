"""The Django app: tables that stay whole, and system checks."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate, pre_migrate

from ._options.settings import configured_databases
from ._storing import forks, private
from ._storing.files import is_in_memory
from ._storing.handle import text
from ._tools import clones, tables
from ._tools.orm_forks import OrmConnections

if TYPE_CHECKING:
    from django.db.migrations import Migration

    Plan = list[tuple[Migration, bool]]


_orm_connections = OrmConnections()


class ChannelsSqliteConfig(AppConfig):
    name = "channels_sqlite"
    verbose_name = "Channels on SQLite"

    def ready(self) -> None:
        from . import checks  # it imports the models, which are loaded only now

        private.note_names()
        forks.register(_orm_connections)
        register(checks.check_settings, self.label)
        register(checks.check_databases, self.label, Tags.database)
        register(checks.check_deployment, self.label, deploy=True)
        pre_migrate.connect(migrate_layers_first, sender=self)
        post_migrate.connect(complete, sender=self)
        post_migrate.connect(write_log_back)
        connection_created.connect(prepare)


def migrate_layers_first(
    sender: ChannelsSqliteConfig,
    using: str,
    plan: Plan | None = None,
    verbosity: int = 0,
    stdout: Any = None,
    **_kwargs: Any,
) -> None:
    """Make the layers' tables when another database is migrated, if their own is empty, or if our
    migration is in that plan, where it makes nothing.

    The default database is migrated first, as a rule, and a project's handlers of `post_migrate`
    may send something already then. A process that runs tests leaves the project's own files alone.
    """
    steps = plan or ()
    if any(backwards for _, backwards in steps) or router.allow_migrate(using, sender.label):
        return
    is_planned = any(migration.app_label == sender.label for migration, _ in steps)
    for connection in tables.databases():
        name = str(connection.settings_dict["NAME"])
        if private.name_of(connection.alias, name) != name:
            continue
        alias, said = connection.alias, ""
        try:
            is_new = not connection.introspection.table_names()
            if (is_planned or is_new) and tables.migrate(connection):
                said = f'Made the layer\'s tables in the database "{alias}".\n'
            complete(sender, alias)
        except tables.REFUSALS as error:
            said = (
                f'Did not make the layer\'s tables in the database "{alias}": {error}.'
                f" To see more, run: python manage.py check --database={alias}\n"
            )
        if said and verbosity > 0:
            (stdout or sys.stdout).write(said)


def complete(sender: ChannelsSqliteConfig, using: str, **_kwargs: Any) -> None:
    """Make the tables, triggers and views that `migrate` left missing, and set the journal mode."""
    connection = connections[using]
    if connection.vendor != "sqlite" or not router.allow_migrate(using, sender.label):
        return
    tables.complete(connection)
    if not connection.in_atomic_block:
        tables.remove_stale_index(connection)
        with connection.cursor() as cursor:
            # If it is set already, this only reads. Several processes that open a new file at once
            # would otherwise wait for each other to set it.
            cursor.execute("pragma journal_mode = wal")
    clones.remove_old_logs(connection)


def write_log_back(using: str, **_kwargs: Any) -> None:
    """Copy the log into the file, after each app's handlers have written what they write."""
    if using in configured_databases():
        clones.write_log_back(connections[using])


def prepare(connection: BaseDatabaseWrapper, **_kwargs: Any) -> None:
    """Prepare a connection that Django has opened, if it is to a database of our layers."""
    if connection.vendor != "sqlite" or connection.alias not in configured_databases():
        return
    private.opened_by[connection] = os.getpid()
    if connection.alias != DEFAULT_DB_ALIAS:
        # Others may write anything. A name that is not UTF-8 would be an error otherwise, and end
        # every list of the admin.
        connection.connection.text_factory = text
    if is_in_memory(str(connection.settings_dict["NAME"])):
        # Such a database locks whole tables, and what a TestCase has read stays locked until its
        # transaction ends: the layer, whose connection is another one, could send nothing more.
        with connection.cursor() as cursor:
            cursor.execute("pragma read_uncommitted = on")
