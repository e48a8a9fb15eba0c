"""The directory of bells, by a descriptor: another user who may write beside the database can put a
link in its place at any moment, and what is done by paths is then done in another directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from . import forks

_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def opened(path: str) -> Iterator[int]:
    """The descriptor of a directory, for `dir_fd`; OSError if it is none, or a link to one."""
    with closing(forks.Descriptor(os.open(path, _DIRECTORY))) as descriptor:
        yield descriptor.number


def give_rights(descriptor: int, like: os.stat_result, mode: int) -> None:
    """Give what was made the mode of the database, and its owner and group as far as we may."""
    os.chmod(descriptor, mode)
    for owner, group in ((like.st_uid, like.st_gid), (-1, like.st_gid)):
        with suppress(OSError):
            os.chown(descriptor, owner, group)
            return
