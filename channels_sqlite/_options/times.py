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
    heartbeat: float = 1.0  # between two looks when nothing wakes the reader
    # Between the looks after a write of the log. SQLite writes it before a commit can be seen, and
    # touches nothing afterwards; it may wait for the disk in between.
    after_a_write: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
    lull: float = 0.25  # between looks while others write all the time, and nothing is for us
    locked: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008, 0.016)  # between tries, at a lock
    look: float = 0.002  # that one look may hold the event loop
    watch_again: float = 60.0  # of polling, after watching did not work, until it is tried again

    # watchfiles
    quick_for: float = 1.0  # its thread looks every millisecond after its reader found something
    quick_wait: float = 0.25  # at most, while it is quick, until it looks at its pace again
    idle_wait: float = 2.0  # at most, otherwise, until it looks whether its loop was closed
    unheard: float = 0.2  # after so long in a lull the log is unwatched: writes wake Rust's thread
    watch_retry: float = 1.0  # after a failure until the next try; heartbeats look meanwhile
    join: float = 2.0  # for its thread at exit: a step, or more on a busy machine

    # Acknowledging, and memberships
    acknowledge: float = 0.25  # from a burst's first message until the table is told
    clock_was_set: float = 1.0  # a larger step of the wall clock against the monotonic one

    # Writing
    slow: float = 0.05  # for one statement in place, after which the thread writes instead
    slow_for: float = 1.0  # that the thread then does all writes
    # In place, before the second try at a lock: most transactions are over by then, and an event
    # loop cannot wait for less than a millisecond.
    nap: float = 0.0001
    retry: float = 0.001  # between the next tries
    retry_for: float = 0.1  # that tries come so often
    retry_later: float = 0.02  # between the tries after that
    room: float = 0.01  # for a reader to acknowledge, before a send is refused
    test_lock: float = 0.2  # for a lock while a test in this process has a transaction open

    # Opening and closing
    check: float = 1.0  # between looks whether the files are the same, while they are used
    file_lock: float = 0.002  # between tries for the lock of a file of ours
    close: float = 0.5  # for other processes that open or close the file
    fork: float = 2.0  # before a fork, for an interrupted statement; only a commit is slow

    # Trimming
    sweep: float = 1.0  # between sweeps, while anything is sent or received
    sweep_later: float = 0.02  # from a send to the sweep: its readers need the processor first
    upkeep: float = 60.0  # between looks at the whole table of sequences
    checkpoint_lock: float = 0.05  # for the write lock, where somebody always writes

    # Counting
    burst: float = 1.0  # that dropped messages are counted before a warning
    warning: float = 60.0  # between two such warnings


TIMES = Times()
