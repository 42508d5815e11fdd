"""A wall clock that can be put forward and back for one process, and for nothing else on the machine.

libfaketime (a wheel of the `dev` extra, which ships it built) stands between the process and the C library; what it adds to the
time is read from a file. The monotonic clock is left as it is, and so are the times of files. Go programs ask the kernel
themselves: for nats-server it is the others that step.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil

from tools.stack.paths import passable

# libfaketime looks at the file again when more than a whole second has passed.
NOTICED_WITHIN_SECONDS: Final = 2.5
MISSING: Final = "libfaketime is not installed, or does not work on this machine: pip install libfaketime"
_LIBRARY = Path("vendor") / "libfaketime" / "src" / "libfaketime.so.1"
_PROBE_STEP_SECONDS = 86_400
_SHARED = Path("/dev/shm")  # noqa: S108  where libfaketime keeps what it shares with children
_SHARED_NAME = re.compile(r"(?:sem\.)?faketime_(?:sem|shm)_(\d+)")


class SteppedClock:
    """`prefix` goes in front of the command whose process is to have this clock. Raises OSError without a library."""

    def __init__(self, directory: Path) -> None:
        if (found := library()) is None:
            raise FileNotFoundError(MISSING)
        _forget_the_dead()
        self._file, copy = passable(directory) / "offset", directory / "libfaketime.so.1"
        shutil.copyfile(found, copy)  # where a server of another user can read it, too
        copy.chmod(0o644)
        self.step(0)
        self.prefix = _prefix(copy, self._file)

    def step(self, seconds: int) -> None:
        """From the machine's time; 0 is back to it. Takes effect within NOTICED_WITHIN_SECONDS, at once and not gradually."""
        unfinished = self._file.with_suffix(".partial")
        unfinished.write_text(f"{seconds:+d}\n")
        unfinished.chmod(0o644)
        unfinished.replace(self._file)

    @staticmethod
    def close() -> None:
        """After the processes: what libfaketime leaves of those that were killed."""
        _forget_the_dead()


@cache
def library() -> Path | None:
    """libfaketime, once it has been seen to change a process's time and leave its monotonic clock alone; None without."""
    found = find_spec("libfaketime") if sys.platform == "linux" else None
    places = found.submodule_search_locations if found is not None else None
    path = Path(places[0]) / _LIBRARY if places else None
    return path if path is not None and path.exists() and _works(path) else None


def _works(path: Path) -> bool:
    code = "import time; print(time.time(), time.monotonic()); time.sleep(0.01)"
    command = [*_prefix(path, None), f"FAKETIME=+{_PROBE_STEP_SECONDS}", sys.executable, "-I", "-S", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    try:
        wall, monotonic = map(float, result.stdout.split())
    except ValueError:
        return False
    stepped = abs(wall - time.time() - _PROBE_STEP_SECONDS) < 60
    return result.returncode == 0 and stepped and abs(monotonic - time.monotonic()) < 60


def _prefix(path: Path, file: Path | None) -> Sequence[str]:
    settings: dict[str, object] = {
        "LD_PRELOAD": path,
        "DONT_FAKE_MONOTONIC": 1,
        "NO_FAKE_STAT": 1,
        "FAKETIME_CACHE_DURATION": 1,
    }
    if file is not None:
        settings["FAKETIME_TIMESTAMP_FILE"] = file
    return [shutil.which("env") or "/usr/bin/env", *(f"{name}={value}" for name, value in settings.items())]


def _forget_the_dead() -> None:
    """A later process of the same number would stumble over it."""
    for path in _SHARED.glob("*faketime_s*"):
        found = _SHARED_NAME.fullmatch(path.name)
        if found and not psutil.pid_exists(int(found[1])) and os.access(path, os.W_OK):
            path.unlink(missing_ok=True)
