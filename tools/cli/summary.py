"""What became of many published commands."""

from collections import Counter
from typing import Any

from tools.cli.command_client import Published
from tools.cli.errors import FAILED, OK, CliError
from tools.cli.output import note, print_table


class Summary:
    """Counts by status; remembers the refusals."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.refusals: list[tuple[int, str, str, str]] = []
        self.exit_code = OK

    def add(self, line: int, message_id: str, result: Published | CliError) -> None:
        if isinstance(result, CliError):
            self.counts["not sent or no outcome"] += 1
            self.refusals.append((line, message_id, "-", str(result)))
            self.exit_code = max(self.exit_code, result.exit_code)
            return
        outcome = result.outcome
        self.counts[outcome.status if outcome else "duplicate" if result.duplicate else "published"] += 1
        if outcome is not None and outcome.error is not None:
            self.refusals.append((line, message_id, outcome.error.code, outcome.error.message))
            self.exit_code = max(self.exit_code, FAILED)

    def print(self, shown_refusals: int) -> None:
        print_table(("status", "commands#"), sorted(self.counts.items()))
        if self.refusals:
            print_table(("line#", "command", "code", "reason"), self.refusals[:shown_refusals])
        if len(self.refusals) > shown_refusals:
            note(f"… and {len(self.refusals) - shown_refusals} more; --json prints all")

    @staticmethod
    def entry(line: int, message_id: str, result: Published | CliError) -> dict[str, Any]:
        if isinstance(result, CliError):
            return {"line": line, "message_id": message_id, "failure": str(result)}
        return {"line": line} | as_data(result)


def as_data(published: Published) -> dict[str, Any]:
    """For --json."""
    outcome = published.outcome
    return {
        "message_id": published.message_id,
        "stream": published.stream,
        "sequence": published.sequence,
        "duplicate": published.duplicate,
        "outcome": outcome.model_dump(mode="json") if outcome else None,
    }
