"""System checks of our databases and their files; see checks.py."""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from django.core import checks
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.backends.utils import CursorWrapper

from .._storing import mounts, schema
from .._storing.files import INDEX, LOG, Files, without_uri
from .._storing.private import are_tests_running
from .._storing.refusals import other_names
from ..db_routers import APP_LABEL
from ..exceptions import code_of
from . import tables

LONG_LOG = 128 * 2**20
"""Bytes of a write-ahead log that a long read keeps from being reset: eight times the size that
the layer cuts it back to."""

# The WAL wants all processes on one host, because they share memory
# (https://www.sqlite.org/wal.html). A folder that a virtual machine or a container shares with its
# host has two hosts as well.
NETWORK_FILE_SYSTEMS = {
    *("afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
    *("fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    *("9p", "fakeowner", "fuse.grpcfuse", "prl_fs", "vboxsf", "virtiofs"),
}


# Its place


def place(alias: str, entry: str) -> Iterator[checks.CheckMessage]:
    """Check the name and the place of a database; `entry` is one for DATABASES to copy."""
    path = _path(alias)
    if lack := _lack_of_file(alias):
        yield checks.Error(
            f'DATABASES["{alias}"] {lack}.',
            hint=f"Give it a file:\n{entry}",
            id="channels_sqlite.E007",
        )
    elif path is not None:
        yield from _shared(alias, path, entry)
        yield from _relative(alias, path)
        yield from _named_twice(path)
        yield from _mounted(alias, path)


def _lack_of_file(alias: str) -> str | None:
    name = _name(alias)
    if not name:
        return "has no NAME"
    # What Django's test runner calls a test database: a name of its own, or the project's.
    of_project = are_tests_running() and name == connections.settings[alias]["TEST"]["NAME"]
    if _path(alias) is None and not (of_project or name.startswith("file:memorydb_")):
        return "is in memory, where no other process can see it"
    return None


def _shared(alias: str, path: Path, entry: str) -> Iterator[checks.CheckMessage]:
    if alias == DEFAULT_DB_ALIAS or are_tests_running():  # known to be shared; it may be a mirror
        return
    others = (
        each
        for each in connections
        if each != alias and _path(each) == path and "mode=ro" not in _name(each)
    )
    if other := next((each for each in others if connections[each].vendor == "sqlite"), None):
        remove = f'Remove DATABASES["{other}"], if nothing else needs it.\nOr give'
        if path.name == f"{alias}.sqlite3":
            entry = entry.replace(f"{alias}.sqlite3", f"{alias}-layer.sqlite3")
        yield checks.Error(
            f'DATABASES["{alias}"] has the same file as "{other}", {path}: a send inside a '
            f'transaction of "{other}" waits in vain for its end, and `migrate` of one leaves out '
            "tables of the other.",
            hint=f"{'Give' if other == DEFAULT_DB_ALIAS else remove} the layer a file of its own:\n"
            f'{entry}\nor let it share the default one:\n"database": "{DEFAULT_DB_ALIAS}"\n'
            "in the CONFIG of CHANNEL_LAYERS.",
            id="channels_sqlite.E009",
        )


def _relative(alias: str, path: Path) -> Iterator[checks.CheckMessage]:
    name, of_tests = _name(alias), str(connections[alias].settings_dict["TEST"]["NAME"])
    written = without_uri(name)
    if not os.path.isabs(written) and name != of_tests:
        yield checks.Warning(
            f'DATABASES["{alias}"]["NAME"] is the relative path "{written}": processes that are '
            f"started in other directories use other files. In {Path.cwd()} it is {path}.",
            hint="Say in which directory it is, such as the project's:\n"
            f'"NAME": BASE_DIR / {written!r}',
            id="channels_sqlite.W010",
        )


def _named_twice(path: Path) -> Iterator[checks.CheckMessage]:
    if os.path.isfile(path) and (found := other_names(str(path))):
        fault, remedy = found
        yield checks.Error(fault, hint=remedy, id="channels_sqlite.E011")


def _mounted(alias: str, path: Path) -> Iterator[checks.CheckMessage]:
    file_system = mounts.file_system_of(path.parent)
    if file_system in NETWORK_FILE_SYSTEMS:
        yield checks.Warning(
            f"{path} is on a network or shared file system ({file_system}): SQLite's write-ahead "
            "log does not work there between hosts, and file watching may see nothing.",
            hint="Put it on a local disk:\n"
            f'DATABASES["{alias}"]["NAME"] = "/var/lib/your-project/{path.name}"',
            id="channels_sqlite.W003",
        )


def _name(alias: str) -> str:
    name = connections.settings[alias]["NAME"]  # loads no backend, unlike connections[alias]
    return str(name or "")


def _path(alias: str) -> Path | None:
    """The file that NAME means, where the log is; None for a database in memory."""
    files = Files(_name(alias))
    return None if files.in_memory else Path(files.path).resolve()


# Its contents


def contents(alias: str) -> list[checks.CheckMessage]:
    """Check what a database holds; a file that this process may not write is not opened."""
    path = _path(alias)
    if _lack_of_file(alias):  # `place` says so
        return []
    if path is not None and (obstacle := _obstacle(path)):
        return [_not_opened(alias, path, obstacle)]
    try:
        if path is not None and path.parent.is_dir() and not path.exists():
            _try_options(alias)
            return [_never_migrated(alias)]  # to open it would make it
        with connections[alias].cursor() as cursor:
            return list(_found(alias, cursor))
    except tables.REFUSALS as error:
        return [_unreadable(alias, path, error)]


def _try_options(alias: str) -> None:
    """Raise what Django raises for wrong OPTIONS, without opening the file."""
    django = connections[alias]
    with django.wrap_database_errors:
        django.get_new_connection(
            {**django.get_connection_params(), "database": ":memory:"}
        ).close()


def can_be_read(alias: str) -> bool:
    """Return False for a database of which `contents` says that it cannot be read."""
    return not any(each.id == "channels_sqlite.E008" for each in contents(alias))


def _unreadable(alias: str, path: Path | None, error: Exception) -> checks.CheckMessage:
    hint = "The file must be an SQLite database, or not exist yet. Is it NAME that is wrong?"
    if path is not None and not path.parent.exists():
        hint = f"Its directory must exist. Run: mkdir -p {shlex.quote(str(path.parent))}"
    elif path is not None and path.is_dir():
        inside = str(path / f"{alias}.sqlite3")
        hint = f'NAME is a directory. Name a file:\nDATABASES["{alias}"]["NAME"] = {inside!r}'
    elif not isinstance(error, DatabaseError):
        hint = f'Correct or remove it in DATABASES["{alias}"]["OPTIONS"].'
    elif _init_command(alias) and code_of(error.__cause__) == sqlite3.SQLITE_ERROR:
        hint = f'Correct the SQL in OPTIONS["init_command"]:\n{_init_command(alias)}'
    return checks.Error(
        f'The database "{alias}" cannot be read: {error}.', hint, id="channels_sqlite.E008"
    )


def _init_command(alias: str) -> str:
    return str(connections[alias].settings_dict["OPTIONS"].get("init_command") or "")


def _found(alias: str, cursor: CursorWrapper) -> Iterator[checks.CheckMessage]:
    differing = tables.differing(cursor)
    cursor.execute("select name from sqlite_master")
    present = {name for (name,) in cursor.fetchall()}
    migrate = f"python manage.py migrate --database={shlex.quote(alias)}"
    if not present:
        yield _never_migrated(alias)
    elif differing:
        there = tables.is_recorded(connections[alias]) and present.intersection(differing)
        zero = f"{migrate} {APP_LABEL} zero\n" if there else ""
        old = " It has those of channels-sqlite 0.1." if present.intersection(tables.OF_0_1) else ""
        yield checks.Warning(
            f'The database "{alias}" does not have the tables of this version: '
            f"{', '.join(differing)}.{old}",
            hint=f"Run: {zero}{migrate}",
            id="channels_sqlite.W004",
        )
    elif missing := [name for name in schema.EVERYTHING if name not in present]:
        yield checks.Warning(
            f'The database "{alias}" lacks {", ".join(missing)}: without its triggers no reader '
            "wakes, without its indexes nothing is sent.",
            hint=f"Run: {migrate}",
            id="channels_sqlite.W005",
        )
    else:
        yield from _journal_mode(alias, cursor)


def _never_migrated(alias: str) -> checks.CheckMessage:
    return checks.Warning(
        f'The database "{alias}" was never migrated: the layer\'s tables are not there.',
        hint=f"Run: python manage.py migrate --database={shlex.quote(alias)}",
        id="channels_sqlite.W004",
    )


def _journal_mode(alias: str, cursor: CursorWrapper) -> Iterator[checks.CheckMessage]:
    cursor.execute("pragma journal_mode")
    (journal_mode,) = cursor.fetchone()
    is_set = f"journal_mode={journal_mode}" in _init_command(alias).lower().replace(" ", "")
    if journal_mode not in {"wal", "memory"}:
        yield checks.Warning(
            f'The journal mode of the database "{alias}" is "{journal_mode}", not "wal": readers '
            "and writers wait for each other, and there is no log to watch.",
            hint=('OPTIONS["init_command"] sets it: remove that. ' if is_set else "")
            + "The layer sets it when it opens the file. To set it now:\n"
            f'python manage.py dbshell --database={alias} -- "pragma journal_mode = wal"',
            id="channels_sqlite.W006",
        )


# Its users


def _obstacle(path: Path) -> Path | None:
    """The first of the directory, the file and its logs that this process may not write."""
    may = partial(os.access, effective_ids=os.access in os.supports_effective_ids)
    for each in (path.parent, path, Path(f"{path}{LOG}"), Path(f"{path}{INDEX}")):
        rights = os.W_OK | os.X_OK if each == path.parent else os.R_OK | os.W_OK
        try:
            each.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:  # a directory above is closed
            return next(closed for closed in reversed(each.parents) if not may(closed, os.X_OK))
        if not may(each, rights):
            return each
    return None


def _not_opened(alias: str, path: Path, obstacle: Path) -> checks.CheckMessage:
    """To open a database makes logs beside it, which its owner could not write."""
    owner = obstacle.stat().st_uid
    me = os.geteuid() if hasattr(os, "geteuid") else owner
    quoted = shlex.quote(str(obstacle))
    if owner == me:
        command = f"chmod u+rwX {quoted}"
    elif obstacle.name.startswith(path.name) and obstacle != path:
        command = f"sudo chown --reference={shlex.quote(str(path))} {quoted}"
    else:
        python = f"sudo -u {shlex.quote(_user_name(owner))} {shlex.quote(sys.executable)}"
        command = f"{python} manage.py check --database {alias}"
        if not owner:  # by `sudo manage.py migrate`, as a rule: as root, all seems well
            command += f"\nIf processes of {_user_name(me)} use it, and not root's, "
            its_own = f"run:\nsudo chown -R {me} {quoted}*"
            command += its_own if obstacle == path else "let NAME be in a directory of theirs."
    return checks.Error(
        f'The database "{alias}" was not opened: {obstacle} belongs to user {owner} '
        f"({_user_name(owner)}), and this process's user {me} ({_user_name(me)}) has no write "
        "access to it.",
        hint=f"All processes that use the layer need write access to it. Run:\n{command}",
        id="channels_sqlite.E012",
    )


def _user_name(number: int) -> str:
    """The name of a user, or what `sudo` takes for one."""
    try:
        import pwd  # not on Windows

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):
        return f"#{number}"


def readable_by_others(alias: str) -> Iterator[checks.CheckMessage]:
    """A file that every user of the machine may read."""
    path = _path(alias)
    if os.name != "posix" or path is None or not os.path.exists(path):
        return
    # SQLite gives the -wal and -shm files the mode of the database file.
    open_to_all = path.stat().st_mode & stat.S_IROTH
    if open_to_all and all(each.stat().st_mode & stat.S_IXOTH for each in path.parents):
        yield checks.Warning(
            f"Every user of this machine may read {path}, and so the messages.",
            hint=f"Run: chmod o-rwx {shlex.quote(str(path))}*",
            id="channels_sqlite.W007",
        )


def long_log(alias: str) -> Iterator[checks.CheckMessage]:
    """A log that has grown far beyond its limit."""
    path = _path(alias)
    if path is None:
        return
    wal = Path(f"{path}{LOG}")
    size = wal.stat().st_size if os.path.exists(wal) else 0
    if size > LONG_LOG:
        yield checks.Warning(
            f"{wal} has grown to {size // 10**6} MB: a process has been reading the database for "
            "long, which keeps SQLite from writing its log from the beginning.",
            hint="Find the process that holds a transaction open, an idle shell or a backup "
            f"perhaps:\nlsof {shlex.quote(str(path))}",
            id="channels_sqlite.W008",
        )
