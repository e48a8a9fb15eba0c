"""A database's files on disk: which they are, and whether they are still those that were opened.

All processes of ours open and close a file one after the other, under a lock of its directory of
bells, and note there which log belongs to which database: SQLite would apply the log of a file that
was replaced to the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes, urlsplit

from . import folders, forks
from .forks import Identity
from .locks import SUPPORTED, lock_if_possible
from .refusals import refuse_other_names, refuse_read_only

LOG, INDEX = "-wal", "-shm"  # what SQLite adds to the database's name
BELLS = "-bells"
RECORD_SIZE = 4096  # bytes to read; a record is shorter
RECORD = ".opened"  # in the directory of bells: the lock, and which database was opened last
CHECKPOINT = ".checkpoint"  # there: the lock under which a log is copied into the database
KEPT_LOG = ".log"  # there: a second name of the log that was opened with it


class Files:
    """The files of one NAME: the database, its write-ahead log, the log's index, and its bells."""

    def __init__(self, name: str) -> None:
        self.in_memory = is_in_memory(name)
        self._name = name if self.in_memory else os.path.abspath(without_uri(name))
        self._name_all(self._name)
        # mode=rw, because SQLite would make an empty file where it was deleted meanwhile.
        self._query = urlsplit(name).query if name.startswith("file:") else "mode=rw"
        self.target = name  # the URI to open
        self._identities: dict[str, Identity] = {}
        """The database, its log and its index, as they were opened, by the ends of their names."""
        self._record = -1  # the descriptor of RECORD while we are, or want to be, alone
        self._is_alone = False

    def _name_all(self, path: str) -> None:
        self.path = path
        self.wal = path + LOG  # the write-ahead log
        self.bells = path + BELLS  # the directory of bells

    # Opening

    def find(self) -> bool:
        """Look what NAME means now, and return True if there is a file; raises what keeps it from
        being used.
        """
        self._name_all(os.path.realpath(self._name))
        self.target = f"file:{quote(os.fsencode(self.path))}?{self._query}"
        self._identities = self._on_disk("")
        if self._identities:
            refuse_other_names(self.path)
            refuse_read_only(self.path, self.wal, self.path + INDEX)
        return bool(self._identities)

    @property
    def identity(self) -> Identity | None:
        """Which file the database was when it was last found, or is now, if it is one."""
        return None if self.in_memory else self._identities.get("") or self._on_disk("").get("")

    def logs(self, *, opened: bool) -> forks.Logs:
        """The log and the index that were opened, or those that are there now."""
        found = self._identities if opened else self._on_disk(LOG, INDEX)
        return {end: found[end] for end in (LOG, INDEX) if end in found}

    def remove_stale_log(self) -> bool:
        """Delete the log, and its index, that were opened with another database of this name.
        Return False if they may still be there, because we are not alone.
        """
        if self._record < 0 or not self._was_opened_with_another():
            return True
        # Beside an empty file SQLite deletes the log itself, and leaves the index.
        stale = [INDEX] if is_gone(self.wal) else [INDEX, LOG] if self._log_is_kept() else []
        for end in stale if self._is_alone else []:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path + end)
        return self._is_alone or not stale

    def note_opened(self) -> None:
        """SQLite has made or opened the log and its index; called while we are alone."""
        self._identities = self._identities | self._on_disk(LOG, INDEX)  # others may iterate
        self._note()

    def note_again(self) -> None:
        """Note it once more, because somebody has deleted the directory of bells."""
        with forks.no_fork(), self.opening_lock(0):
            if not self.replaced():
                self._note()

    def _note(self) -> None:
        # Where it cannot be written, on a full disk perhaps, no log is known to be of another
        # database: without a second name of this log, nobody acts on an older record.
        if self._is_alone:
            with contextlib.suppress(OSError):
                os.ftruncate(self._record, 0)
                said = json.dumps([self._identities[""][1], os.fstat(self._record).st_ino])
                os.pwrite(self._record, said.encode(), 0)
                self._keep_log()

    def note_closed(self) -> None:
        """Called while we are alone: a log that SQLite has deleted needs no other name."""
        if is_gone(self.wal):
            with contextlib.suppress(OSError), folders.opened(self.bells) as bells:
                os.unlink(KEPT_LOG, dir_fd=bells)

    def _was_opened_with_another(self) -> bool:
        """Return True if the record says that another database of this name was opened last. A copy
        of it proves nothing, and devices have other numbers after a restart.
        """
        try:
            database, itself = json.loads(os.pread(self._record, RECORD_SIZE, 0))
            is_copy = itself != os.fstat(self._record).st_ino
            return not is_copy and database != os.stat(self._name).st_ino
        # There is none, or others have written to it, nested too deep perhaps.
        except (OSError, ValueError, TypeError, RecursionError):
            return False

    def _keep_log(self) -> None:
        """Give the log a second name. Whoever deletes it, by its own name, another log then cannot
        get its inode, and be taken for it.
        """
        # Without hard links, no log is known to be of another database.
        with contextlib.suppress(OSError), folders.opened(self.bells) as bells:
            if not self._log_is_kept():
                unborn = KEPT_LOG + "-new"
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unborn, dir_fd=bells)
                os.link(self.wal, unborn, dst_dir_fd=bells, follow_symlinks=False)
                os.replace(unborn, KEPT_LOG, src_dir_fd=bells, dst_dir_fd=bells)

    def _log_is_kept(self) -> bool:
        try:
            kept = os.lstat(os.path.join(self.bells, KEPT_LOG))
            return os.path.samestat(kept, os.lstat(self.wal))
        except OSError:
            return False

    # While it is open

    def replaced(self) -> list[str]:
        """The paths of those that are not the ones that were opened."""
        try:
            found = self._on_disk(*self._identities)
        except OSError:  # the directory cannot be searched at present; the open files still serve
            return []
        return [self.path + end for end, each in self._identities.items() if found.get(end) != each]

    def log_age(self) -> float:
        """Seconds since the log was last written, or touched."""
        try:
            return abs(time.time() - os.stat(self.wal).st_mtime)  # the clock may be set back
        except OSError:
            return float("inf")

    def is_another(self) -> bool:
        """Return True if the database's name means another file, or none."""
        try:
            return self._on_disk("").get("") != self._identities.get("")
        except OSError:
            return True

    def accept_index(self, replaced: list[str]) -> bool:
        """Return True if only the log's index was replaced; that is then not noticed again.

        The processes that have it open understand each other. If one of them turned to a new one
        before the others did, they would overwrite each other's part of the log.
        """
        if replaced != [self.path + INDEX]:
            return False
        self._identities = {end: self._identities[end] for end in self._identities if end != INDEX}
        return True

    def forget_index(self, replaced: list[str]) -> None:
        """Delete the index of a log that is gone; beside another log it would be wrong.

        Called under the lock: whoever has noticed before has put another one in its place.
        """
        if self.wal in replaced:
            self._delete_opened(INDEX)

    def _delete_opened(self, end: str) -> None:
        """Delete what was opened, unless it is gone, or another one has its name by now."""
        if self._on_disk(end) == {end: self._identities.get(end)}:
            os.unlink(self.path + end)

    def _on_disk(self, *ends: str) -> dict[str, Identity]:
        """The identities of the database's files that are there now, by the ends of their names."""
        found = {}
        for end in ends:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                # The database by its own name, which may be a link that was re-pointed.
                status = os.stat(self.path + end if end else self._name)
                found[end] = (status.st_dev, status.st_ino)
        return found

    # Its directory of bells

    def has_bells(self) -> bool:
        """Return True if the directory is there, and no link to another one."""
        try:
            return stat.S_ISDIR(os.lstat(self.bells).st_mode)
        except OSError:
            return False

    def make_bells(self) -> None:
        """Make the directory of bells, with the database's rights; OSError if it cannot be made."""
        status = os.stat(self.path)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.bells, 0o700)
            may_read = (status.st_mode & 0o444) >> 2  # who may read the file may search here
            with folders.opened(self.bells) as bells:
                mode = (status.st_mode & 0o777) | may_read | 0o300
                folders.give_rights(bells, status, mode)
        if not self.has_bells():
            raise NotADirectoryError(f"{self.bells} is not a directory")

    @contextlib.contextmanager
    def opening_lock(self, wait: float) -> Iterator[bool | None]:
        """Hold the lock under which our processes open and close the file; yield False if it was
        not free within `wait` seconds, and None where nobody can say. The caller holds
        `forks.no_fork()`, for the other threads.
        """
        if self.in_memory or not SUPPORTED or self._record >= 0:
            yield self._is_alone if self._record >= 0 else True  # where a caller has it
            return
        try:
            self._record = self.open_shared(RECORD)
        except OSError:  # it may not be written, which SQLite then says, or no descriptor is left
            yield None
            return
        try:
            self._is_alone = lock_if_possible(self._record, wait)
            yield self._is_alone
        finally:
            self._is_alone = False
            descriptor, self._record = self._record, -1
            with contextlib.suppress(OSError):  # Linux has closed it all the same
                os.close(descriptor)

    @contextlib.contextmanager
    def checkpointing(self) -> Iterator[bool]:
        """Hold the lock under which our processes copy the log into the database; yield False if
        another one has it.

        The log may be deleted meanwhile. Whoever opens the database with another one waits for
        this: it would read, and then write, half of what is being copied.
        """
        held = None
        with contextlib.suppress(OSError), forks.no_fork():  # as in `opening_lock`
            if SUPPORTED:
                held = forks.Descriptor(self.open_shared(CHECKPOINT))
        try:
            yield held is None or lock_if_possible(held.number, 0)
        finally:
            if held is not None:
                held.close()

    def open_shared(self, name: str) -> int:
        """Open, or make, a file among the bells that is for all processes."""
        self.make_bells()
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with folders.opened(self.bells) as bells:
            try:
                descriptor = os.open(name, flags, dir_fd=bells)
            except FileNotFoundError:
                descriptor = os.open(name, flags | os.O_CREAT, 0o600, dir_fd=bells)
                with contextlib.suppress(OSError):  # a file system may have no rights to give
                    status = os.stat(self.path)
                    folders.give_rights(descriptor, status, status.st_mode & 0o666)
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
        os.close(descriptor)
        raise OSError(f"{os.path.join(self.bells, name)} is not a file")

    def remove_what_is_left(self) -> None:
        """Remove what stands beside a database that is gone, unless other readers live there. A
        log that stays would be played into a copy that is put in its place.
        """
        if self.in_memory or not is_gone(self.path):
            return
        for end in (LOG, INDEX):  # never the database: it may have come back just now
            self._delete_opened(end)
        with contextlib.suppress(OSError), folders.opened(self.bells) as bells:
            if all(name.startswith(".") for name in os.listdir(bells)):
                for name in os.listdir(bells):
                    os.unlink(name, dir_fd=bells)
                os.rmdir(self.bells)


def is_gone(path: str) -> bool:
    """Return True if there is no such file; a disk that cannot say so proves nothing."""
    try:
        os.stat(path)
    except OSError as error:
        return isinstance(error, (FileNotFoundError, NotADirectoryError))
    return False


def is_in_memory(name: str) -> bool:
    """Return True if NAME is a database without a file; Django's test runner makes such ones."""
    if name.startswith("file:"):
        return "mode=memory" in name or ":memory:" in name
    return name == ":memory:"


def without_uri(name: str) -> str:
    """The path that a NAME has, which may be a URI."""
    is_uri = name.startswith("file:")
    return os.fsdecode(unquote_to_bytes(os.fsencode(urlsplit(name).path))) if is_uri else name
