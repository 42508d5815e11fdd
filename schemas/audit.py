"""What leaves for the audit service: who asked for what, and what came of it (docs/decisions/0033). Ids and hashes only."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from schemas.base import WireModel
from schemas.codes import Code

# `rejected`: refused, for now or for good. `dead_lettered`: kept with its body for a person to look at. `allowed`: a query, or a
# push to another service, that only the tenant's opt-in made possible.
AuditStatus = Literal["applied", "rejected", "duplicate", "dead_lettered", "allowed"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class AuditRecord(WireModel):
    """The body of `audit.v1.billing.<tenant>.<aggregate>.<verb>`.

    No field can hold a name, a note, a reference or an amount. `named` are the ids (UUIDs) that a command's body has, `touched`
    those of what it changed, by aggregate. `payload_sha256` is the inbox's hash of name and body; of a message that could not
    be read, the hash of its bytes. `opted_in`: only the tenant's opt-in let it cross a border. `recorded_at` is when the stream
    stored the command, as message `stream_sequence`.
    """

    actor: str | None = None
    subject: str
    command_id: UUID | None = None
    correlation_id: str | None = None
    status: AuditStatus
    code: Code | None = None
    named: dict[str, UUID] = Field(default_factory=dict)
    touched: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    payload_sha256: Sha256 | None = None
    opted_in: bool = False
    recorded_at: datetime
    stream_sequence: int | None = None
    traceparent: str | None = None
