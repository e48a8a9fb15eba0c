"""How often the layer looks, and how long it waits: all of its times, in one object.

docs/design.md has the reasons for those that were measured. They are read as `times.TIMES.lull`, at
each use, so that a test can replace the object.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds."""

    # Looking

    heartbeat: float = 1.0
    """Time between two looks when nothing wakes the reader."""
    after_a_write: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
    """Times between the looks after a write of the log. SQLite writes it before a commit can be
    seen, and touches nothing afterwards; it may wait for the disk in between."""
    lull: float = 0.25
    """Time between looks while others write all the time, and nothing is for this reader."""
    locked: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008, 0.016)
    """Times between tries to look while another connection holds a lock."""
    look: float = 0.002
    """Longest time that one look may hold the event loop."""
    watch_again: float = 60.0
    """Time of polling, after watching did not work, until it is tried again."""

    # watchfiles

    quick_for: float = 1.0
    """Time that its thread looks every millisecond, after its reader has found something."""
    quick_step: float = 0.25
    """Time after which it asks meanwhile whether that is still so."""
    idle_step: float = 2.0
    """Time after which it asks otherwise whether its loop was closed."""
    unheard: float = 0.2
    """Time of a lull after which the log is not watched: each write of it wakes Rust's thread."""
    watch_retry: float = 1.0
    """Time after watchfiles has failed until it is tried again; heartbeats look meanwhile."""
    join: float = 2.0
    """Longest wait for its thread at exit. That takes a step, or more on a busy machine."""

    # Acknowledging, and memberships

    acknowledge: float = 0.25
    """Time from the first message of a burst until the table is told what was taken."""
    clock_was_set: float = 1.0
    """A larger step of the wall clock against the monotonic one means that somebody has set it."""

    # Writing

    slow: float = 0.05
    """Time of one statement in place after which the thread writes instead."""
    slow_for: float = 1.0
    """Time that the thread then does all writes."""
    nap: float = 0.0001
    """Pause in place before the second try to write, while another connection holds the lock: most
    transactions are over by then, and an event loop cannot wait for less than a millisecond."""
    retry: float = 0.001
    """Pause between the next tries."""
    retry_for: float = 0.1
    """Time that tries come so often."""
    retry_later: float = 0.02
    """Pause between the tries after that."""
    room: float = 0.01
    """Time for a reader to acknowledge what it has taken, before a send is refused."""
    test_lock: float = 0.2
    """Longest wait for a lock while a test in this process has a transaction open."""

    # Opening and closing

    check: float = 1.0
    """Time between looks whether the files are still the same, while the database is used."""
    file_lock: float = 0.002
    """Pause between tries for the lock of a file of ours."""
    open_again: float = 0.005
    """Pause between tries to open the database while others hold a lock."""
    close: float = 0.5
    """Longest wait for other processes that open or close the file."""
    fork: float = 2.0
    """Longest wait, before a fork, for a statement that was interrupted; only a commit is slow."""

    # Trimming

    sweep: float = 1.0
    """Time between sweeps, while anything is sent or received."""
    sweep_later: float = 0.02
    """Time from a send to the sweep that is due: its readers need the processor first."""
    turn: float = 0.05
    """Longest time that trimming may keep the thread before waiting jobs have their turn."""
    upkeep: float = 60.0
    """Time between looks at the whole table of sequences."""
    checkpoint_lock: float = 0.05
    """Longest wait for the write lock, where the log is long because somebody always writes."""

    # Counting

    burst: float = 1.0
    """Time that dropped messages are counted before a warning."""
    warning: float = 60.0
    """Time between two such warnings."""


TIMES = Times()
