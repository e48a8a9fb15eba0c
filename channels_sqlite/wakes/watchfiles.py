"""watchfiles, on every platform: a daemon thread that asks the Rust watcher every few milliseconds.

`watchfiles.awatch` would hold a worker of each event loop's pool for ever, and its pace is fixed.
RustNotify is what it is made of, documented and typed; here it is asked every `polling_interval`
while nothing happens, and every millisecond for a second after a listener has found something.
"""

from __future__ import annotations

import os
import threading
import time

from watchfiles._rust_notify import RustNotify

from ..complaints import Complaints
from ..exceptions import WatcherUnavailable
from .listener import CHANGE
from .watcher import Watcher

QUICK_STEP = 1  # ms; a change is seen after one to two steps, 1.5 on average
IDLE_STEP = 100  # ms at most, for the thread can only be stopped between two steps
IDLE_PACE = 0.9  # of polling_interval, so that the median delay is 1.35 of it
QUICK_FOR = 1.0  # seconds
QUICK_TIMEOUT = 250  # ms
IDLE_TIMEOUT = 60_000  # ms
RETRY_AFTER = 1.0  # seconds; meanwhile there are the heartbeats
JOIN_FOR = 2.0  # seconds; it takes a step, but a busy machine may take longer for that


class WatchfilesWatcher(Watcher):
    """Watches until `stop`; what goes wrong on its thread is logged once, and tried again."""

    kind = "watchfiles"

    def __init__(self, path: str, polling_interval: float) -> None:
        super().__init__(path)
        step = round(polling_interval * 1000 * IDLE_PACE)
        self._idle_step = max(QUICK_STEP, min(IDLE_STEP, step))
        self._quick_until = 0.0
        self._stopped = threading.Event()
        self._complaints = Complaints()
        try:
            notify = self._watch()
        except (OSError, RuntimeError) as error:
            raise WatcherUnavailable(
                f"watchfiles cannot watch {self.directory}: {error}."
            ) from error
        self._thread = threading.Thread(
            target=self._run, args=(notify,), name="channels-sqlite-watchfiles", daemon=True
        )
        self._thread.start()

    def hurry(self) -> None:
        self._quick_until = time.monotonic() + QUICK_FOR

    def stop(self) -> None:
        self._stopped.set()

    def join(self) -> None:
        self._thread.join(JOIN_FOR)

    def _watch(self) -> RustNotify:
        return RustNotify(
            [self.directory],
            debug=False,
            force_polling=False,
            poll_delay_ms=300,
            recursive=False,
            ignore_permission_denied=False,
        )

    def _run(self, notify: RustNotify | None) -> None:
        while not self._stopped.is_set():
            try:
                with notify or self._watch() as active:
                    self._listen(active)
            except Exception as error:
                self._complaints.say(f"Watching {self.directory}", error)
                self._stopped.wait(RETRY_AFTER)
            notify = None

    def _listen(self, notify: RustNotify) -> None:
        while not self._stopped.is_set():
            quick = time.monotonic() < self._quick_until
            step = QUICK_STEP if quick else self._idle_step
            # It returns now and then without a change, so that the pace can be lowered again.
            changes = notify.watch(
                step, step, QUICK_TIMEOUT if quick else IDLE_TIMEOUT, self._stopped
            )
            self._complaints.withdraw(f"Watching {self.directory}")
            if isinstance(changes, set) and any(
                os.path.basename(path) == self.name for _, path in changes
            ):
                self.wake_all(CHANGE)
