"""Database files that must not be used: messages would be lost, or the file damaged."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress

from ..exceptions import DatabaseUnavailable, InvalidOption, this_user
from .mounts import is_mount_point


def refuse_other_names(path: str) -> None:
    """Raise InvalidOption for a directory, and for a file that has another name."""
    if os.path.isdir(path):
        raise InvalidOption(f"The database {path} is a directory: NAME needs a file in it.")
    if found := other_names(path):
        raise InvalidOption(" ".join(found))


def other_names(path: str) -> tuple[str, str] | None:
    """The fault of a file that has another name, and the remedy. SQLite names the log after the
    file: two names are two logs, which damages the file.

    https://www.sqlite.org/howtocorrupt.html#multiple_links_to_the_same_file
    """
    links = os.stat(path).st_nlink
    if links > 1:
        return (
            f"The database {path} has {links} hard links. SQLite would use another log for each "
            "name: processes would miss each other's messages, and damage the file.",
            f"Find the other names with find / -xdev -samefile {shlex.quote(path)}, and remove "
            "them.",
        )
    if is_mount_point(path):
        return (
            f"The database {path} is mounted as a single file, so that each container has a log of "
            "its own beside it: they would miss each other's messages, and damage the file.",
            f"Mount its directory, {os.path.dirname(path)}, and not the file.",
        )
    return None


def refuse_read_only(path: str, log: str, index: str) -> None:
    """A reader could look, and never take anything."""
    effective = os.access in os.supports_effective_ids
    for each in (path, log, index):
        with suppress(FileNotFoundError):
            before, may_write = os.stat(each), os.access(each, os.W_OK, effective_ids=effective)
            after = os.stat(each)
            # Another process may delete the log as it closes, or make a new one, between two looks,
            # perhaps with the same inode.
            is_same = os.path.samestat(before, after) and before.st_ctime_ns == after.st_ctime_ns
            if is_same and not may_write:
                raise DatabaseUnavailable(
                    f"{each} is read-only for this process's {this_user()}: it belongs to user "
                    f"{after.st_uid}. The layer needs write access to {path}, to "
                    f"{os.path.basename(log)} and {os.path.basename(index)} beside it, and to its "
                    "directory."
                )
