"""Mounts: the file system of a directory, and files that are mount points.

Linux only; elsewhere nothing is known.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5) has its columns
POINT = 4


def file_system_of(directory: str | Path) -> str | None:
    """The type of the file system that holds `directory`, such as "ext4"; None if unknown."""
    mounted, place = _mounted(), Path(os.path.realpath(directory))
    above = (str(each) for each in (place, *place.parents))
    return next((mounted[each] for each in above if each in mounted), None)


def is_mount_point(path: str | Path) -> bool:
    """Return True if something is mounted on `path` itself; a file may be, with `--bind`."""
    return os.path.realpath(path) in _mounted()


def _mounted() -> dict[str, str]:
    """The types of the file systems, by the mount points."""
    try:
        lines = MOUNTS.read_bytes().split(b"\n")[:-1]
    except OSError:
        return {}
    mounted = {}
    for line in lines:
        # Bytes, because a name may be in any encoding. An unknown number of columns follows the
        # sixth one, up to a hyphen. Later mounts lie over earlier ones.
        place, _, source = line.partition(b" - ")
        columns = place.split(b" ")
        if len(columns) > POINT:
            mount_point = re.sub(rb"\\([0-7]{3})", _character, columns[POINT])
            mounted[os.fsdecode(mount_point)] = os.fsdecode(source.split(b" ")[0])
    return mounted


def _character(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8)])
