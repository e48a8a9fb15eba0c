"""The place of a run: the machine, the versions, the commit and the load."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from stress import redis_server

NO_CODE = (":!stress/results", ":!*.md")  # written from what was measured
PACKAGES = (
    "channels-sqlite",
    "django",
    "channels",
    "aiosqlite",
    "watchfiles",
    "msgpack",
    "channels-redis",
    "redis",
    "channels-lite",
    "uvicorn",
    "uvloop",
    "daphne",
    "websockets",
)


def machine(directory: Path) -> dict[str, Any]:
    """Describe the machine. `directory` has the run's databases: its file system matters."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "filesystem": filesystem(directory),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def filesystem(directory: Path) -> str:
    """The type of the file system of `directory`: of the longest mount point above it."""
    real = directory.resolve()
    partitions = psutil.disk_partitions(all=True)
    above = [p for p in partitions if real.is_relative_to(p.mountpoint)]
    return max(above, key=lambda p: len(p.mountpoint)).fstype if above else "unknown"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if redis_server.EXECUTABLE is not None:
        words = subprocess.check_output([redis_server.EXECUTABLE, "--version"], text=True).split()
        found["redis-server"] = next(w[2:] for w in words if w.startswith("v="))
    return found


def commit() -> str:
    """The commit that was measured, with a "+" when the tree had changes; "" outside of git."""
    root = Path(__file__).parent.parent
    git = ["git", "-C", str(root)]
    try:
        name = subprocess.check_output(
            [*git, "rev-parse", "--short", "HEAD"], text=True, stderr=subprocess.DEVNULL
        ).strip()
        changed = subprocess.check_output(
            [*git, "status", "--porcelain", "--", "channels_sqlite", "stress", *NO_CODE], text=True
        )
    except (subprocess.CalledProcessError, FileNotFoundError):
        return ""
    return name + ("+" if changed.strip() else "")
