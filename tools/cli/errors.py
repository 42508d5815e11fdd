"""How a command of `billing` ends. Every error names the thing, the reason and the way out, on stderr.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | ran, and the answer is no: a check failed, a command was refused, a role lost NATS for good |
| 2 | could not run: wrong arguments or settings |
| 3 | could not run: NATS, PostgreSQL or the stack is away or refuses |
| 130, 143 | a second SIGINT or SIGTERM cut it short |
"""

OK = 0
FAILED = 1
USAGE = 2
UNAVAILABLE = 3


class CliError(Exception):
    """Ends the command with `exit_code`; the message is for a person."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
