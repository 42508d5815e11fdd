"""The handlers role with one deadly command: `python -m tests.faults.deadly_handlers`, settings in the environment as ever.

A payment whose reference is `deadly` kills the process while it is decided, as a native library's crash would: no exception, no
goodbye. Everything else is the role as it ships.
"""

import os
import signal
from typing import Any

from domain import engine
from domain.decision import Capability
from tools.cli import main

DEADLY = "deadly"


def _deadly(capability: Capability) -> Capability:
    def decide(snapshot: Any, command: Any) -> Any:
        if command.body.reference == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return capability.decide(snapshot, command)

    return Capability(capability.needs, decide)


if __name__ == "__main__":
    engine.CAPABILITIES["payment.record"] = _deadly(engine.CAPABILITIES["payment.record"])
    main()
