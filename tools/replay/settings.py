"""Settings that only the replay tool reads."""

from pydantic import Field

from adapters.settings import Names, PostgresUrl, Settings


class ReplaySettings(Settings):
    """Where a replay may act. Production has to be named by whoever deploys the operator's environment."""

    replay_environments: Names = Field(default=("development", "staging"), examples=["development,staging,production"])


class RebuildSettings(Settings):
    """The empty database a rebuild fills: as `billing_app`, never the live one. Not an argument: it holds a password."""

    rebuild_database_url: PostgresUrl = Field(examples=["postgresql://billing_app:PASSWORD@db.internal:5432/rebuild"])
