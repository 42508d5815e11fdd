"""Which release of the code is connected: every session says so in its application name, `billing-handlers@0005_schedules`.

The newest revision that code brings stands for its release. PostgreSQL lists all sessions to everybody, so `billing migrate` can
see who still runs what a contraction would take away, older code than this included: that states no revision.
"""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, text

MIGRATIONS = Path(__file__).parent / "migrations"
# A process of ours has a session for as long as it lives, within so many seconds (handlers/presence.py): without work, and after
# PostgreSQL was away.
PRESENCE_SECONDS = 5.0

_OURS = "billing-"
_SESSIONS = """
SELECT application_name, usename FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'billing-%'
"""


class Program(NamedTuple):
    """Sessions of one kind of process; `revision` is the newest that its code knows, None for code from before it said so."""

    name: str
    revision: str | None
    role: str

    def __str__(self) -> str:
        return f"{self.name} ({self.revision or 'of an unknown release'}) as {self.role}"


@cache
def revisions() -> tuple[str, ...]:
    """Every revision this code brings, in order; history is one line of numbered files."""
    return tuple(sorted(path.stem for path in (MIGRATIONS / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")))


def stamped(application_name: str) -> str:
    """The application name of a session of this release; PostgreSQL cuts names at 63 bytes."""
    return f"{application_name}@{revisions()[-1]}" if application_name.startswith(_OURS) else application_name


def older_sessions(connection: Connection) -> Counter[Program]:
    """The sessions in this database of code that does not know this code's newest revision, counted by program."""
    rows = connection.execute(text(_SESSIONS)).all()
    connection.rollback()
    programs = (_program(name, role) for name, role in rows)
    return Counter(program for program in programs if _is_older(program.revision))


def _program(application_name: str, role: str | None) -> Program:
    name, _, revision = application_name.partition("@")
    return Program(name, revision or None, role or "?")


def _is_older(revision: str | None) -> bool:
    """A revision that this code does not know is a newer release's, which builds on ours."""
    return revision is None or revision in revisions()[:-1]
