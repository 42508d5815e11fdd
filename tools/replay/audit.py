"""Who replayed what, when and why: an event on the audit service's stream, before the run acts and when it ends."""

import getpass
import socket
from typing import Any

import nats.errors
import nats.js.errors
import orjson
from nats.aio.client import Client

from adapters.nats.topology import AUDIT_STREAM
from schemas import headers
from schemas.subjects import AUDIT_PREFIX
from tools.replay.errors import ReplayError

TIMEOUT_SECONDS = 5.0


def operator() -> str:
    """The person at the keyboard, as far as the machine knows."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


async def record(nc: Client, what: str, tenant: str | None, body: dict[str, Any]) -> None:
    """Raises ReplayError where no audit event can be kept: then nothing is to be done.

    `what` is `<aggregate>.<verb>`, for example `replay.started`; a run over several tenants is `_`'s.
    """
    subject = f"{AUDIT_PREFIX}.{tenant or '_'}.{what}"
    try:
        await nc.jetstream().publish(
            subject,
            orjson.dumps(body, default=str),
            stream=AUDIT_STREAM,
            timeout=TIMEOUT_SECONDS,
            headers={headers.CONTENT_TYPE: "application/json"},
        )
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
        raise ReplayError(
            f"no audit event could be kept on {subject} ({type(error).__name__}), so nothing was done; stream {AUDIT_STREAM} is "
            "the audit service's, and this user must be allowed to publish there"
        ) from None
