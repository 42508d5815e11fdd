"""Ending what is under way when the process is asked to stop.

Whatever a worker does may be done twice and may be killed (docs/decisions/0010), so it may be cancelled too: a verification of
every ledger, or a report to command groups that are being stopped as well, must not use up the grace that others need to drain.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from handlers.job_outcomes import Stopping

T = TypeVar("T")


async def unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event, patience_seconds: float = 0.0) -> T:
    """What `work` returns or raises; Stopping where it had to be cancelled, `patience_seconds` after `stop` was set."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait({task}, timeout=patience_seconds)
    finally:  # also where the caller is cancelled: nothing goes on behind its back
        stopped.cancel()
        task.cancel()
        await asyncio.wait({task})
    if task.cancelled():
        raise Stopping
    return task.result()
