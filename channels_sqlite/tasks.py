"""Statements that run beside the consumers, for whom nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .complaints import Complaints

Task = asyncio.Task[None]
Work = Callable[[], Coroutine[Any, Any, None]]


class Tasks:
    """Starts them, keeps them from being collected, and says what went wrong."""

    def __init__(self) -> None:
        self._running: set[Task] = set()
        self.complaints = Complaints()

    def spawn(self, work: Work) -> Task:
        """Run `work` on the running loop; an error is logged, once for each cause, and a heartbeat
        later it is tried again.
        """
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self) -> None:
        """Wait for those of the running loop."""
        loop = asyncio.get_running_loop()
        ours = [task for task in list(self._running) if task.get_loop() is loop]
        await asyncio.gather(*ours, return_exceptions=True)

    async def _guarded(self, work: Work) -> None:
        # Made here and not by the caller: a task may be cancelled before its first step, and would
        # leave a coroutine that was never awaited.
        what = _name(work)
        try:
            await work()
        except Exception as error:
            self.complaints.say(what, error)
        else:
            self.complaints.withdraw(what)


def is_running(task: Task | None) -> bool:
    """Whether it is going to end; one whose loop was stopped or closed under it is not."""
    return task is not None and not task.done() and task.get_loop().is_running()


def _name(work: Work) -> str:
    """The name of the function that `work` is, or is a partial of."""
    function = getattr(work, "func", work)
    return getattr(function, "__qualname__", repr(function))
