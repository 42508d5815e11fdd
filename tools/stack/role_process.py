"""A role of the service (`billing api`, `handlers`, `worker`) as a real process, started and watched like a server."""

import json
import signal
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from tools.stack.paths import PROJECT_ROOT
from tools.stack.process import ServerProcess

ServiceRole = Literal["api", "handlers", "worker"]
SERVICE_ROLES: tuple[ServiceRole, ...] = ("handlers", "worker", "api")

_READY_TIMEOUT_SECONDS = 120  # importing everything takes 2 s of a core, and many may start at once on few cores
_STOP_TIMEOUT_SECONDS = 30  # above SHUTDOWN_GRACE_SECONDS
_PROBE_TIMEOUT_SECONDS = 5


class RoleProcess:
    """One process of a role. It keeps its ports and its log over restarts, and dies with the process that started it."""

    def __init__(
        self,
        name: str,
        role: ServiceRole,
        *,
        directory: Path,
        log_path: Path,
        env: Mapping[str, str],
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix`: a program that becomes the role, with its arguments."""
        self.name, self.role, self.env, self._prefix = name, role, dict(env), prefix
        self._process = ServerProcess(name, directory)
        self._process.log_path = log_path

    @property
    def log_path(self) -> Path:
        return self._process.log_path

    @property
    def metrics_url(self) -> str:
        """Base of `/metrics`, `/livez` and `/readyz`."""
        return f"http://{self.env['METRICS_HOST']}:{self.env['METRICS_PORT']}"

    def start(self) -> Self:
        """Start and wait until `/readyz` says ok. Raises `StackError` with the end of the log if it does not."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start without waiting; follow with `wait_ready`. Changes made to `env` before count."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [*self._prefix, sys.executable, "-m", "tools.cli", self.role]
        # What a killed process leaves behind lies in the stack and goes with it. Two arenas, as in the image.
        given = {"PYTHONPATH": str(PROJECT_ROOT), "TMPDIR": str(self._process.directory), "MALLOC_ARENA_MAX": "2"}
        self._process.directory.mkdir(parents=True, exist_ok=True)
        self._process.launch(command, env=given | self.env)

    def wait_ready(self, timeout_seconds: float = _READY_TIMEOUT_SECONDS) -> None:
        self._process.wait_ready(self.is_ready, timeout_seconds)

    def stop(self) -> None:
        """SIGTERM: the role drains and ends. SIGKILL when it has not after 30 s."""
        self._process.stop(signal.SIGTERM, signal.SIGKILL, _STOP_TIMEOUT_SECONDS)

    def kill(self) -> None:
        """kill -9. Returns when it is gone."""
        self._process.kill()

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def send(self, signal_number: signal.Signals) -> None:
        """SIGSTOP freezes it, SIGCONT lets it go on."""
        self._process.send(signal_number)

    def pid(self) -> int | None:
        return self._process.pid()

    def is_running(self) -> bool:
        return self._process.is_running()

    def is_ready(self) -> bool:
        return self.probe("readyz") is not None

    def probe(self, path: str) -> dict[str, Any] | None:
        """The answer of `readyz` or `livez`; None where there is none or it is failing."""
        try:
            with urllib.request.urlopen(  # noqa: S310  loopback
                f"{self.metrics_url}/{path}", timeout=_PROBE_TIMEOUT_SECONDS
            ) as response:
                document: dict[str, Any] = json.load(response)
                return document
        except (OSError, ValueError):
            return None

    def metrics(self) -> str:
        """The Prometheus exposition. Raises OSError where the role does not answer."""
        with urllib.request.urlopen(  # noqa: S310  loopback
            f"{self.metrics_url}/metrics", timeout=_PROBE_TIMEOUT_SECONDS
        ) as response:
            text: bytes = response.read()
            return text.decode()
