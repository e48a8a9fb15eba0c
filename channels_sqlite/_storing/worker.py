"""A thread for what may take long: opening, checkpoints, trimming, large bodies, slow disks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class NoThread(RuntimeError):
    """No thread can be started: a limit of the system, or the interpreter ends."""


Job = tuple[Callable[[], Any], "Future[Any]"]


class Worker:
    """Runs functions one after the other, on a daemon thread that starts with the first of them.

    Daemonic, because nobody has to close a channel layer, and Python waits for all other threads
    before it exits.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Run it, after all that were submitted before. Raises NoThread, and then nothing has
        changed.
        """
        job: Future[T] = Future()
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(
                    target=_run, args=(self._jobs,), name="channels-sqlite", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:
                    raise NoThread(str(error)) from error
                self._thread = thread
            self._jobs.put((function, job))
        return job

    def stop(self) -> None:
        """End the thread after what was submitted so far; the next function starts another one."""
        with self._lock:
            if self._thread is not None:
                self._jobs.put(None)
                self._jobs, self._thread = SimpleQueue(), None


def _run(jobs: SimpleQueue[Job | None]) -> None:
    """The thread. Its queue is given to it: the worker may have another one before it begins."""
    while (job := jobs.get()) is not None:
        function, future = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
        del job, function, future  # they may hold a layer that is otherwise gone


async def settled(job: Future[T], *, shared: bool = False) -> T:
    """The job's result. A cancelled await does not wait for it, and takes back one that was not
    begun and is not shared with others.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def tell(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(wake)

    job.add_done_callback(tell)
    try:
        await waiter
    except asyncio.CancelledError:
        if not shared:
            job.cancel()
        raise
    return job.result()
