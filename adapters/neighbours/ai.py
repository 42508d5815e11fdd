"""The AI gateway: `POST /v1/code-suggestions` → suggestions of charge codes for a description.

An extra. Where it is not configured, away, slow, busy or talking nonsense, the answer soon says that the feature is disabled,
and nothing else notices: it has a few slots of its own and never a queue. What it suggests is validated like anything else when a
charge is captured with it.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from adapters.neighbours.client import Ask, Neighbour, Reply, Unavailable
from adapters.neighbours.pools import Limits
from schemas.charge import CodeSuggestion, CodeSuggestions, DisabledReason, SuggestCodes

LIMITS = Limits(connect_seconds=0.5, read_seconds=1.5, deadline_seconds=1.5, tries=1, concurrency=4)


class _Suggestion(BaseModel):
    """As the gateway says it. Stricter types than its own: what does not fit ours is no suggestion."""

    model_config = ConfigDict(extra="ignore")

    code_system: str
    code: str
    display: str | None = None
    confidence: Annotated[float, Field(ge=0, le=1)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    suggestions: Annotated[list[_Suggestion], Field(max_length=100)]


class Suggestions:
    """`neighbour` None: not configured."""

    def __init__(self, neighbour: Neighbour | None) -> None:
        self._neighbour = neighbour

    async def suggest(self, query: SuggestCodes) -> CodeSuggestions:
        """Raises nothing but cancellation."""
        neighbour = self._neighbour
        if neighbour is None:
            return _disabled("not_configured")
        if neighbour.busy or not neighbour.may_ask():
            return _disabled("unavailable")
        asked = {"text": query.text, "code_system": query.code_system, "limit": query.limit}
        ask = Ask("POST", "/v1/code-suggestions", body=asked)
        try:
            found = await neighbour.ask(ask, _read)
        except Unavailable:
            return _disabled("unavailable")
        return CodeSuggestions(enabled=True, suggestions=found[: query.limit])

    async def aclose(self) -> None:
        if self._neighbour is not None:
            await self._neighbour.aclose()


def _read(reply: Reply) -> tuple[CodeSuggestion, ...]:
    """Best first. Raises ValueError (pydantic's) where the answer has another shape or values out of range."""
    answer = _Answer.model_validate_json(reply.body)
    ranked = sorted(answer.suggestions, key=lambda suggestion: -suggestion.confidence)
    return tuple(
        CodeSuggestion(
            code_system=each.code_system,
            code=each.code,
            display=each.display,
            confidence_basis_points=round(each.confidence * 10_000),
        )
        for each in ranked
    )


def _disabled(reason: DisabledReason) -> CodeSuggestions:
    return CodeSuggestions(enabled=False, disabled_reason=reason)
