"""Dead letters of the FHIR push, sent again: to the push's own queue, where the document is pushed as it is by then.

Nothing is decided and no money moves, so what a replay of commands has to be careful about does not arise. There is no reply: a
letter that fails again is a new one.
"""

from collections.abc import Sequence
from uuid import uuid4

from nats.aio.client import Client

from adapters.nats.topology import FHIR, REPLAY_STREAM
from schemas import headers
from schemas.subjects import parse, replay_subject
from tools.replay.dead_letters import Letter, resolve_letter
from tools.replay.errors import ReplayError
from tools.replay.messages import sendable

_TIMEOUT_SECONDS = 5.0


def is_push(letter: Letter) -> bool:
    return letter.group == FHIR


async def send_again(nc: Client, letters: Sequence[Letter], *, reason: str, actor: str) -> int:
    """Sends letters, read with their bodies, and marks each as retried; how many. Raises ReplayError where one names no event."""
    run = f"fhir-{uuid4().hex[:12]}"
    for letter in letters:
        address = parse(letter.subject)
        if address is None:
            raise ReplayError(f"letter {letter.position} does not say what event it was")
        # The run in the id makes it new to the stream's duplicate window.
        fields = sendable(letter.stored.headers) | {headers.MESSAGE_ID: f"{run}-{letter.position}"}
        await nc.jetstream().publish(
            replay_subject(FHIR, *address),
            letter.stored.data,
            stream=REPLAY_STREAM,
            timeout=_TIMEOUT_SECONDS,
            headers=fields,
        )
        await resolve_letter(nc, letter, "retried", reason=reason, actor=actor, outcome="sent", replay_id=run)
    return len(letters)
