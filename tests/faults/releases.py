"""Other releases of the code, as directories that PYTHONPATH can name."""

import shutil
import subprocess
from pathlib import Path

import pytest

from adapters.postgres.release import revisions
from tools.stack.paths import PROJECT_ROOT

# The release before: the last commit whose newest revision is 0004_jobs. It knows nothing of the canary, of schedules, or of what
# came after, and does not yet say of which release its sessions are.
PREVIOUS = "e5077110964f0ef963ad7d6a376ed2f4855bdd65"
PREVIOUS_HEAD = "0004_jobs"
CONTRACTION = "9001_contract"
_PACKAGES = ("schemas", "domain", "adapters", "handlers", "gateway_shim", "tools")

_REVISION = '''"""What a release takes away once nobody needs it any more."""

from alembic import op

revision = "{name}"
down_revision = "{before}"
phase = "contract"


def upgrade() -> None:
    op.execute("COMMENT ON TABLE inbox IS 'contracted'")
'''


def previous(directory: Path) -> Path:
    """The release before, from git's history. Skips the test where that is not there: a shallow clone, an export."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", PREVIOUS], cwd=PROJECT_ROOT, capture_output=True, check=False, timeout=60
    )
    if archive.returncode != 0:
        pytest.skip("the history of this checkout does not reach back to the previous release")
    directory.mkdir()
    subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True, timeout=60)
    return directory


def following(directory: Path) -> Path:
    """This code with one more revision, which contracts."""
    directory.mkdir()
    for package in _PACKAGES:
        if package != "adapters":
            (directory / package).symlink_to(PROJECT_ROOT / package)
    shutil.copytree(PROJECT_ROOT / "adapters", directory / "adapters", ignore=shutil.ignore_patterns("__pycache__"))
    add_contraction(directory / "adapters" / "postgres" / "migrations")
    return directory


def add_contraction(migrations: Path) -> None:
    file = migrations / "versions" / f"{CONTRACTION}.py"
    file.write_text(_REVISION.format(name=CONTRACTION, before=revisions()[-1]))
