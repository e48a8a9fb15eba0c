"""A thread for what may take long: opening, checkpoints, trimming, large bodies, slow disks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from .handle import Busy, Lost
from .once import Once

T = TypeVar("T")
Jobs = SimpleQueue[Callable[[], object] | None]


class NoThread(RuntimeError):
    """No thread can be started: a limit of the system, or the interpreter ends."""


class Worker:
    """Runs functions one after the other, on a thread that starts with the first of them. It is a
    daemon, because nobody has to close a channel layer.
    """

    def __init__(self, once: Once) -> None:
        self._once = once
        self._posted: set[str] = set()  # the topics of jobs that wait or run
        self._jobs: Jobs | None = None  # the jobs of the thread, while there is one
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], object]) -> None:
        """Run a function that raises nothing, after all that were submitted before. Raises
        NoThread, and then nothing has changed.
        """
        with self._lock:
            jobs = self._jobs or self._start()
            jobs.put(job)

    def post(self, topic: str, job: Callable[[], object], *, alone: bool = False) -> bool:
        """Run a job for which nobody waits; what goes wrong is logged. With `alone`, not while
        another one of this topic waits or runs. Return True if it will be run.
        """
        if alone and topic in self._posted:
            return False

        def run() -> None:
            try:
                job()
            except (Lost, Busy):  # it will be asked for again
                pass
            except BaseException as error:  # whatever it is: the thread would end
                self._once.failed(topic, error, apart=True)
            else:
                self._once.well(topic)
            finally:
                self._posted.discard(topic)

        submitted = False
        try:
            self._posted.add(topic)
            self.submit(run)
            submitted = True
        except NoThread as error:
            self._once.failed(topic, error)
        finally:  # after an interruption, too: it could never be posted again
            if not submitted:
                self._posted.discard(topic)
        return submitted

    def _start(self) -> Jobs:
        """Start a thread, which ends when it gets None; its jobs."""
        jobs: Jobs = SimpleQueue()
        thread = threading.Thread(target=_run, args=(jobs,), name="channels-sqlite", daemon=True)
        try:
            thread.start()
            self._jobs = jobs
        except BaseException as error:  # an interruption, too: nobody else would end it
            jobs.put(None)  # an exception out of a signal handler may come when it has started
            if isinstance(error, RuntimeError):
                raise NoThread(str(error)) from error
            raise
        return jobs

    async def run(self, function: Callable[[], T], *, always: bool = False) -> T:
        """The result of a function. A cancelled await does not wait for it; if it was not begun by
        then it is not run, unless `always`.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if waiter.cancelled() and not always:
                return
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:  # whatever it is: the awaiting task gets it
                error = raised
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, waiter, result, error)

        self.submit(job)
        return await waiter

    def stop(self) -> None:
        """End the thread after what was submitted so far; the next function starts another one."""
        with self._lock:
            jobs, self._jobs = self._jobs, None
            if jobs is not None:
                jobs.put(None)


def _settle(waiter: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if waiter.done():
        return
    if isinstance(error, StopIteration):  # no future takes it before Python 3.12
        waiter.set_exception(RuntimeError("a function for the thread raised StopIteration"))
    elif error is not None:
        waiter.set_exception(error)
    else:
        waiter.set_result(result)


def _run(jobs: Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # it may hold a layer that is otherwise gone
