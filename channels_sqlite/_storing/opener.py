"""Opening a connection: what is refused, and how SQLite is set up."""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import ExitStack
from typing import Any

from django.apps import apps

from .._options import times
from ..exceptions import LOCKED, DatabaseUnavailable, NotMigrated, code_of
from . import forks
from .connections import Connections
from .files import Files, without_uri
from .handle import Busy, connect
from .private import is_private
from .schema import EVERYTHING, INDEXES, MEMBERSHIP, MESSAGE, SEQUENCE, TRIGGERS
from .worker import Worker

WAL_PAGES = 4000
"""Pages in the log at which the thread copies them into the database, with an fsync of both. Four
times SQLite's default: fewer stalls, and fewer chances for the WAL-reset bug of SQLite 3.7.0 to
3.51.2."""
WAL_LIMIT = WAL_PAGES * 4096  # bytes that the log is cut back to when a long read has let it grow


class Opener:
    """Opens connections to what NAME means, as the project's OPTIONS have it."""

    def __init__(self, alias: str, files: Files, options: dict[str, Any], worker: Worker) -> None:
        self._alias = alias
        self._files = files
        self._worker = worker
        self._name = without_uri(files.target)
        self._private = is_private(files.target)
        self._anchor: sqlite3.Connection | None = None
        """Keeps a private database while no other connection to it is open."""
        self._init_command = options.get("init_command")

    def open(self) -> Connections:
        """Both connections, on the thread. Raises Busy, or what keeps the file from being used."""
        files = self._files
        if files.in_memory:
            return Connections(self.connect, files, self._worker)
        if not files.find():
            raise self._not_migrated("does not exist")
        self._refuse_inherited()
        with ExitStack() as locks:
            locks.enter_context(files.opening_lock(times.TIMES.close))
            if not files.remove_stale_log():  # SQLite would play it into the file
                raise Busy from sqlite3.OperationalError(
                    "the file was replaced, while another process opens or closes the one before"
                )
            self._refuse_another_log()
            if not (os.path.exists(files.wal) or locks.enter_context(files.checkpointing())):
                raise Busy from sqlite3.OperationalError(
                    "the log was deleted, while another process copies it into the database"
                )
            connections = Connections(self.connect, files, self._worker)
            try:
                files.note_opened()
            except BaseException:  # whatever it is: nobody else would close them
                connections.close()
                raise
        return connections

    def _refuse_inherited(self) -> None:
        if forks.is_tainted(self._files.identity):
            raise DatabaseUnavailable(
                f"{self._files.path} was already open when this process was forked from its parent,"
                " and the fork was not made by os.fork(), or came during a statement, or while"
                " another thread had one of Django's connections to it. SQLite's locks do not work"
                " in this process. Have each worker load the project itself (uWSGI: lazy-apps ="
                " true), or do not use the layer before the fork."
            )

    def _refuse_another_log(self) -> None:
        """Refuse a file that this process keeps open with another log: SQLite would use the index
        of that one here, and no other process would.
        """
        files = self._files
        if forks.leaked_logs(files.identity) not in (None, files.logs(opened=False)):
            raise DatabaseUnavailable(
                f"{files.path} was replaced and then put back, or lost its log after it had been"
                " moved away and back. This process still has the old log, which Python before 3.12"
                " cannot close: restart it."
            )

    def connect(self) -> sqlite3.Connection:
        """A connection that is ready to use. Raises Busy, NotMigrated, or sqlite3's error."""
        raw = connect(self._files, timeout=0, cached_statements=256)
        try:
            self._check(raw)
            self._configure(raw)
        except BaseException as error:  # whatever it is: nobody else would close it
            raw.close()
            if code_of(error) in LOCKED:
                raise Busy from error
            raise
        return raw

    def close(self) -> None:
        """The interpreter ends, and a private database with it."""
        if self._anchor is not None:
            self._anchor.close()

    def _check(self, connection: sqlite3.Connection) -> None:
        """Refuse a file without our tables."""
        if self._private:
            self._anchor = self._anchor or sqlite3.connect(
                self._files.target, uri=True, check_same_thread=False
            )
            for statement in EVERYTHING.values():
                connection.execute(statement)
        found = {name for (name,) in connection.execute("select name from sqlite_master")}
        for wanted in ({MESSAGE, MEMBERSHIP, SEQUENCE, *TRIGGERS}, INDEXES.keys()):
            if missing := sorted(wanted - found):
                raise self._not_migrated(f"lacks {', '.join(missing)}")

    def _not_migrated(self, why: str) -> NotMigrated:
        """The tables are Django's to make, and are not made here, not even where the file was
        deleted under us: Django keeps account of its migrations in the same file, and without
        that account `migrate` would fail on tables that are there already.
        """
        if self._files.in_memory:
            return NotMigrated(
                f'DATABASES["{self._alias}"] is in memory and {why}. Give it a file: each process'
                " would have an empty database of its own."
            )
        directory = os.path.dirname(self._files.path)
        make = "" if os.path.isdir(directory) else f"mkdir -p {shlex.quote(directory)} && "
        remedy = f"Run: {make}python manage.py migrate --database={shlex.quote(self._alias)}"
        if apps.ready and not apps.is_installed("channels_sqlite"):  # migrate would make nothing
            remedy = f'Add "channels_sqlite" to INSTALLED_APPS. {remedy}'
        if not os.path.isabs(self._name):
            remedy = (
                f'NAME is the relative path "{self._name}", which means another file in each'
                f' directory: write BASE_DIR / "{self._name}". {remedy}'
            )
        return NotMigrated(f"The database {self._files.path} {why}. {remedy}")

    def _configure(self, connection: sqlite3.Connection) -> None:
        """Set up a connection, with the project's own commands last.

        NORMAL never damages the file, and may lose the last commits when the power fails:
        messages that live for a minute are not worth an fsync each.
        """
        # A property of the file: where it is set already, this only reads.
        connection.execute("pragma journal_mode = wal").fetchall()
        connection.execute("pragma synchronous = normal")
        # Debian's SQLite writes zeros over all that is deleted; this only where it writes anyway.
        connection.execute("pragma secure_delete = fast").fetchall()
        connection.execute(f"pragma wal_autocheckpoint = {WAL_PAGES}").fetchall()
        connection.execute(f"pragma journal_size_limit = {WAL_LIMIT}").fetchall()
        if self._files.in_memory:  # where locks are of whole tables, which a look must not meet
            connection.execute("pragma read_uncommitted = on")
        if self._init_command:
            connection.executescript(self._init_command)
        connection.execute("pragma user_version").fetchall()  # makes the log and its index
        if not self._files.in_memory:
            _refuse_read_only(connection)


def _refuse_read_only(connection: sqlite3.Connection) -> None:
    """SQLite opens for reading what it cannot open for writing, because no descriptor was left
    perhaps, and stays so. It says that before it asks for the write lock.
    """
    connection.execute("pragma busy_timeout = 0").fetchall()  # whatever init_command has set
    try:
        connection.execute(f"delete from {MESSAGE} where 0")
    except sqlite3.OperationalError as error:
        if code_of(error) not in LOCKED:
            raise
