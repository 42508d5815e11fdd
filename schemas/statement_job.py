"""What travels between workers during a statement run: the run, split into chunks of statements."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from schemas.base import Code, WireModel

# About a second of rendering on two cores: what a killed worker loses, and what a cancelled run may still finish.
MAX_CHUNK = 25


class StatementItem(WireModel):
    account_id: UUID
    party_id: Code


class StatementChunk(WireModel):
    """`run_id` is the id of the job message that was split: a job that is retried is split again under another one."""

    job_id: UUID
    run_id: UUID
    items: Annotated[tuple[StatementItem, ...], Field(min_length=1, max_length=MAX_CHUNK)]
