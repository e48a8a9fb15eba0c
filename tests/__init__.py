"""The tests, and the processes that they start: on uvloop where TESTS_LOOP says so."""

import asyncio
import os
import warnings

if os.environ.get("TESTS_LOOP") == "uvloop":
    import uvloop

    with warnings.catch_warnings():
        # From 3.14 on a policy is deprecated, but nothing else reaches asyncio.run in a process
        # that a test starts, and the loops that async_to_sync makes.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
