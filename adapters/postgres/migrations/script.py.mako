"""${message}"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
phase = "expand"  # or "migrate", "contract": when in a release this runs (adapters/postgres/migrate.py)


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
