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
    """From look to look when nothing wakes."""
    after_a_write: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
    """Between the looks after a write of the log. SQLite writes it before a commit can be seen, and
    touches nothing afterwards; with OPTIONS that ask for it, it waits for the disk in between."""
    lull: float = 0.25
    """Between looks while others write all the time, and nothing of it is for this reader."""
    locked: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008, 0.016)
    """Between tries to look while another connection holds a lock."""
    look: float = 0.002
    """For which one look may hold the event loop."""
    watch_again: float = 60.0
    """From polling, because watching did not work, to the next try."""

    # watchfiles

    quick_for: float = 1.0
    """For which its thread looks every millisecond, after its reader has found something."""
    quick_step: float = 0.25
    """After which it asks meanwhile whether that is still so."""
    idle_step: float = 2.0
    """After which it asks otherwise whether its loop was closed."""
    unheard: float = 0.2
    """Amid a lull, after which the log is not watched: each write of it wakes Rust's thread."""
    watch_retry: float = 1.0
    """After watchfiles has failed; meanwhile there are the heartbeats."""
    join: float = 2.0
    """For its thread, at exit. That takes a step, or more on a busy machine."""

    # Acknowledging, and memberships

    acknowledge: float = 0.25
    """From the last message of a burst to the statement that says what was taken. Where messages
    come all the time, it is the heartbeat's."""
    clock_was_set: float = 1.0
    """By which the wall clock moves against the monotonic one when somebody sets it."""

    # Writing

    slow: float = 0.05
    """For one statement in place; the event loop has better things to do."""
    slow_for: float = 1.0
    """For which the thread then writes."""
    nap: float = 0.0001
    """In place, before the second try to write while another connection holds the lock: most
    transactions are over by then, and an event loop can wait for no less than a millisecond."""
    retry: float = 0.001
    """Between the tries after that."""
    retry_for: float = 0.1
    """For which the tries come as fast."""
    retry_later: float = 0.02
    """Between the tries after that."""
    room: float = 0.01
    """For a reader to say what it has taken, before a send is refused."""
    test_lock: float = 0.2
    """For a lock, while a test of ours has a transaction open."""

    # Opening and closing

    check: float = 1.0
    """Between looks whether the files are still the same, while the database is used."""
    file_lock: float = 0.002
    """Between tries for the lock of a file of ours."""
    open_again: float = 0.005
    """Between tries to open it while others hold a lock."""
    close: float = 0.5
    """For other processes that open or close the file."""
    fork: float = 2.0
    """For a statement that was interrupted before a fork; only a commit takes its time."""

    # Trimming

    sweep: float = 1.0
    """Between sweeps, while anything is sent or received."""
    sweep_later: float = 0.02
    """From a send to the sweep that is due, because its readers want the processor first."""
    turn: float = 0.05
    """For which trimming may keep the thread, before those that wait for it have their turn."""
    upkeep: float = 60.0
    """Between looks at the whole table of sequences."""
    checkpoint_lock: float = 0.05
    """For the write lock, where somebody always writes and the log has grown long."""

    # Counting

    burst: float = 1.0
    """For which messages that are dropped are counted before a warning."""
    warning: float = 60.0
    """Between two such warnings."""


TIMES = Times()
