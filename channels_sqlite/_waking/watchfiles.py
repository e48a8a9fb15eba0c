"""watchfiles, on every platform: a daemon thread that asks its Rust watcher every few milliseconds.

`watchfiles.awatch` would hold a worker of each event loop's pool for ever, and its pace is fixed.
RustNotify is what it is made of, documented and typed. Here it is asked every `polling_interval`
while nothing happens, and every millisecond for a second after its reader has found something.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from watchfiles._rust_notify import RustNotify

from .._options import times
from .._storing.once import Once
from .._storing.weak import Weak
from ..exceptions import WatcherUnavailable
from .bells import Bell
from .listener import Listener

QUICK_STEP = 1  # ms; a change is seen after one to two steps, 1.5 on average
IDLE_STEP = 100  # ms at most, because the thread can only be stopped between two steps
IDLE_PACE = 0.9  # of polling_interval, so that the median delay is 1.35 of it
SPARE_THREADS = 3  # one for Rust, and two because a thread counts a moment after it has ended

_watchers: Weak[WatchfilesWatcher] = Weak()
_ending = threading.Event()


@atexit.register
def _stop_all() -> None:
    """The end of the interpreter must not meet a thread in Rust code: that crashes it."""
    _ending.set()  # event loops on daemon threads go on, and want more watchers
    for watcher in _watchers:
        watcher.stop()
    for watcher in _watchers:
        with suppress(RuntimeError):  # it was not started
            watcher.thread.join(times.TIMES.join)


class WatchfilesWatcher:
    kind = "watchfiles"

    def __init__(
        self, listener: Listener, wal: str, bell: Bell | None, polling_interval: float, once: Once
    ) -> None:
        self._listener = listener
        self._wal, self._bell = wal, bell
        self._once = once
        step = round(polling_interval * 1000 * IDLE_PACE)
        self._idle_step = max(QUICK_STEP, min(IDLE_STEP, step))
        self._unheard_since = time.monotonic()
        self._watches_log = True
        self._stopped = False
        self._interrupted = threading.Event()
        """Set where the thread has to stop, or to watch other files."""
        self.thread = threading.Thread(
            target=self._run, name="channels-sqlite-watchfiles", daemon=True
        )
        self._notify: RustNotify | None = None
        _watchers.add(self)  # first: `_stop_all` then stops it, or it sees `_ending`
        if _ending.is_set():
            return
        try:
            self._notify = self._watch()
            self.thread.start()
        except (OSError, RuntimeError, UnicodeError) as error:  # Rust takes paths in UTF-8 only
            if not _ending.is_set():  # Python then starts no thread any more
                raise WatcherUnavailable(f"watchfiles cannot watch {wal}: {error}.") from error

    @property
    def _wants_log(self) -> bool:
        listener = self._listener
        return listener.hears_writes or listener.wants_touches or self._bell is None

    def adjust(self) -> None:
        self._unheard_since = time.monotonic()
        self._watch_what_is_wanted()

    def _watch_what_is_wanted(self) -> None:
        if self._wants_log and not self._watches_log:
            self._interrupted.set()

    def stop(self) -> None:
        self._stopped = True
        self._interrupted.set()

    def _watch(self) -> RustNotify:
        try_threads()
        paths = [self._wal] * self._watches_log + ([self._bell.path] if self._bell else [])
        try:
            return self._watch_files(paths)
        except FileNotFoundError:
            # Another thread has just closed the database, or somebody deletes the bells: the next
            # heartbeat notices that.
            return self._watch_files([path for path in paths if os.path.exists(path)])

    @staticmethod
    def _watch_files(paths: list[str]) -> RustNotify:
        return RustNotify(
            paths,
            debug=False,
            force_polling=False,
            poll_delay_ms=300,
            recursive=False,
            ignore_permission_denied=False,
        )

    @property
    def _has_ended(self) -> bool:
        return self._stopped or self._listener.loop.is_closed()

    def _run(self) -> None:
        while not self._has_ended:
            try:
                if self._notify is None:
                    self._notify = self._watch()
                    self._call(self._listener.ring)  # whatever came while nothing was watched
                    if self._watches_log:
                        self._call(self._listener.log_written)
                notify, self._notify = self._notify, None
                with notify as active:
                    self._listen(active)
                self._interrupted.clear()
                self._watches_log = self._wants_log
                self._watch_what_is_wanted()  # that may have changed between the two lines
            except Exception as error:
                self._once.failed(f"Watching {self._wal}", error)
                if not self._stopped:
                    self._interrupted.clear()
                    self._interrupted.wait(times.TIMES.watch_retry)  # an end is not kept waiting

    def _listen(self, notify: RustNotify) -> None:
        while not (self._has_ended or self._interrupted.is_set()):
            quick = time.monotonic() < self._listener.found_at + times.TIMES.quick_for
            step = QUICK_STEP if quick else self._idle_step
            # It returns now and then without a change, so that the pace can be lowered again.
            timeout = times.TIMES.quick_wait if quick else times.TIMES.idle_wait
            changes = notify.watch(step, step, round(1000 * timeout), self._interrupted)
            self._once.well(f"Watching {self._wal}")
            if isinstance(changes, set):
                self._wake({os.path.basename(path) for _, path in changes})
            unheard_for = time.monotonic() - self._unheard_since
            if self._watches_log and not self._wants_log and unheard_for > times.TIMES.unheard:
                return

    def _wake(self, changed: set[str]) -> None:
        bell = self._bell
        if bell is not None and os.path.basename(bell.path) in changed and bell.was_rung:
            self._call(self._listener.ring)
        if os.path.basename(self._wal) not in changed:
            return
        if self._listener.wants_touches:  # or a write: it cannot be told
            self._call(self._listener.touch)
        if self._listener.hears_writes:
            self._call(self._listener.log_written)

    def _call(self, wake: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._listener.loop.call_soon_threadsafe(wake)


def try_threads() -> None:
    """Start SPARE_THREADS threads at once, and end them; RuntimeError if one cannot start.

    RustNotify aborts the process where its own thread cannot.
    """
    ended = threading.Event()
    started = []
    try:
        for _ in range(SPARE_THREADS):
            thread = threading.Thread(target=ended.wait, daemon=True)
            thread.start()
            started.append(thread)
    finally:
        ended.set()
        for thread in started:
            thread.join()
