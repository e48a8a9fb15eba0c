"""Statements that run beside the consumers, for whom nobody waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from .exceptions import DatabaseUnavailable

logger = logging.getLogger("channels_sqlite")

Task = asyncio.Task[None]
Work = Callable[[], Coroutine[Any, Any, None]]


class Tasks:
    """Starts them, keeps them from being collected, and says what went wrong."""

    def __init__(self) -> None:
        self._running: set[Task] = set()

    def spawn(self, work: Work) -> Task:
        """Run `work` on the running loop; an error is logged, a heartbeat later it is tried
        again.
        """
        task = asyncio.get_running_loop().create_task(_guarded(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self) -> None:
        """Wait for those of the running loop."""
        loop = asyncio.get_running_loop()
        ours = [task for task in self._running if task.get_loop() is loop]
        await asyncio.gather(*ours, return_exceptions=True)


def is_running(task: Task | None) -> bool:
    """Whether it is going to end; one whose loop was closed abruptly is not."""
    return task is not None and not task.done() and not task.get_loop().is_closed()


async def _guarded(work: Work) -> None:
    # Made here and not by the caller: a task may be cancelled before its first step, and would
    # leave a coroutine that was never awaited.
    try:
        await work()
    except DatabaseUnavailable as error:
        logger.warning("%s Trying again at the next heartbeat.", error)
    except Exception:
        logger.exception("A statement failed; trying again at the next heartbeat.")
