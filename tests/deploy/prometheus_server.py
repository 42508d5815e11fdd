"""Debian's Prometheus and promtool, where they are installed. No package of Python's brings them, and CI may be without."""

import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.stack.ports import free_ports

needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="Debian's package `prometheus` is not installed",
)


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=120)


@contextmanager
def prometheus_server(directory: Path) -> Iterator[str]:
    """Runs over `directory/prometheus.yml` and `directory/tsdb`; yields its base URL once it is ready."""
    (port,) = free_ports(1)
    log = directory / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=output,
        )
    try:
        _wait_ready(f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=2):  # noqa: S310  loopback
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])
