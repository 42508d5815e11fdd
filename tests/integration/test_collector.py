"""The garbage collector of a role: what was imported is left alone, and short-lived batches do not set it off."""

import subprocess
import sys

from tools.stack.paths import PROJECT_ROOT

_PROGRAM = """
import gc
from tools.cli import collector
collector.relax()
import handlers.app
collector.settle()
before = [generation["collections"] for generation in gc.get_stats()]
batch = [[(number,) for number in range(15_000)] for _ in range(2)]
after = [generation["collections"] for generation in gc.get_stats()]
assert before == after, (before, after)
print(gc.get_freeze_count())
"""


def test_a_batch_sets_off_no_collection_and_imports_are_left_alone() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert int(ran.stdout) > 100_000
