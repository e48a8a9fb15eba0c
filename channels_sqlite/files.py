"""A database's files on disk: which they are, and whether they are still the ones that were opened.

SQLite does not notice that a file was deleted or replaced: what is committed to it, nobody sees.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from urllib.parse import unquote, urlsplit

from .exceptions import DatabaseUnavailable, InvalidOption, this_user

Identity = tuple[int, int]
"""What tells a file from another of its name: device and inode."""

LOG, INDEX = "-wal", "-shm"  # what SQLite adds to the database's name


class Files:
    """The file at `path`, its write-ahead log, and the log's index."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: dict[str, Identity] = {}
        self.identity: Identity | None = None
        """The database's, when it was noted the last time that there was one."""

    @property
    def wal(self) -> str:
        """The path of the write-ahead log."""
        return self.path + LOG

    def note_database(self) -> bool:
        """The database is about to be opened: if it is replaced meanwhile, that is noticed later.
        Whether there is one; raises what keeps it from being used.
        """
        self._opened = self._on_disk("")
        if self._opened:
            self.identity = self._opened[""]
            self._refuse_hard_links()
            self._refuse_read_only()
        return bool(self._opened)

    def note_log(self) -> None:
        """SQLite has made or opened the log and its index."""
        self._opened |= self._on_disk(LOG, INDEX)

    def replaced(self) -> list[str]:
        """The paths of those that are not the ones that were noted."""
        try:
            found = self._on_disk(*self._opened)
        except OSError:  # the directory cannot be searched at present; the open files still serve
            return []
        return [
            self.path + end for end, identity in self._opened.items() if found.get(end) != identity
        ]

    def only_index(self, replaced: list[str]) -> bool:
        """Whether only the log's index was, which then is not noticed again.

        Those who have it open understand each other. If one of them turned to a new one, before the
        others did, they would overwrite each other's part of the log: seen in a test of two.
        """
        if replaced != [self.path + INDEX]:
            return False
        del self._opened[INDEX]
        return True

    def forget_index(self, replaced: list[str]) -> None:
        """Delete the index of a log that is gone, so that SQLite makes it anew: who met it beside
        another log would get I/O errors for ever.

        It is the one that we have open: whoever has noticed before us has put another in its place.
        """
        if self.wal in replaced and self.path + INDEX not in replaced:
            with contextlib.suppress(OSError):
                os.unlink(self.path + INDEX)

    def _on_disk(self, *ends: str) -> dict[str, Identity]:
        """Of the files that have the database's name with these ends now."""
        found = {}
        for end in ends:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = os.stat(self.path + end)
                found[end] = (status.st_dev, status.st_ino)
        return found

    def _refuse_hard_links(self) -> None:
        """SQLite names the log after the file: two names are two logs, which damages the file.

        https://www.sqlite.org/howtocorrupt.html#multiple_links_to_the_same_file
        """
        status = os.stat(self.path)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            raise InvalidOption(
                f"The database {self.path} has {status.st_nlink} names (hard links), under which "
                "processes would not see each other's messages, and damage it. Find the others "
                f"with find / -xdev -samefile {shlex.quote(self.path)}, and remove them."
            )

    def _refuse_read_only(self) -> None:
        """A reader of it would never be told: it can look, and never take anything."""
        if not os.access(self.path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise DatabaseUnavailable(
                f"{self.path} is read-only for this process's {this_user()}, which needs write "
                "access to the file and to its directory."
            )


def is_in_memory(name: str) -> bool:
    """Whether NAME is a database without a file; Django's test runner makes such ones."""
    if name.startswith("file:"):
        return "mode=memory" in name or ":memory:" in name
    return name == ":memory:"


def file_path(name: str) -> str:
    """The file that NAME means, without symbolic links: the WAL stands beside it."""
    if name.startswith("file:"):
        name = unquote(urlsplit(name).path)
    return os.path.realpath(name)
