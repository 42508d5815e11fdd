"""Work that goes over all tenants by the clock: it takes breath after each, so that it never stands in the way of commands.

A pass over a thousand tenants at full speed took half a core, and as much again of PostgreSQL, from the payments of that time.
What is timed is how long a tenant took, waiting included: on a busy machine the breaths grow with the work.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

# Of the time of each that goes over the tenants, of which there are five: a thousand of 2 ms each take a minute. With a tenth,
# the five together still took a third of a core.
BACKGROUND_SHARE: Final = 0.03
# The ledger of a large tenant may take minutes; what follows it need not wait for thirty times as long.
LONGEST_BREATH_SECONDS: Final = 1.0


@asynccontextmanager
async def paced(share: float = BACKGROUND_SHARE) -> AsyncIterator[None]:
    """Around the work for one tenant: then rests until the work was `share` (0 to 1) of the time, or for the longest breath."""
    began = monotonic()
    yield
    took_seconds = monotonic() - began
    await asyncio.sleep(min(took_seconds * (1 / share - 1), LONGEST_BREATH_SECONDS))
