"""The sandbox as a process that tests and meshes start, watch, kill and control.

with Sandbox(directory) as sandbox:
    sandbox.control.fault("tenant-service", "stall")
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any, Self

from adapters.tls import TlsFiles
from tools.sandbox.control import Control
from tools.stack.paths import PROJECT_ROOT
from tools.stack.process import ServerProcess, StackError

_READY_TIMEOUT_SECONDS = 30
_STOP_TIMEOUT_SECONDS = 10


class Sandbox:
    """One sandbox in one directory. It keeps its ports over restarts; what it was told (tenants, faults) it forgets.

    `tenants` is a file of tenants (adapters/neighbours/static.py) that it knows besides.
    """

    def __init__(self, directory: Path, tenants: Path | None = None) -> None:
        self.directory, self._tenants = directory, tenants
        self.state_path = directory / "state.json"
        self._process = ServerProcess("sandbox", directory)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start without waiting; follow with `wait_ready`."""
        command = [sys.executable, "-m", "tools.sandbox", "--directory", str(self.directory)]
        if self._tenants is not None:
            command += ["--tenants", str(self._tenants)]
        self._process.launch(command, env={"PYTHONPATH": str(PROJECT_ROOT)})

    def wait_ready(self) -> None:
        """Raises StackError with the end of the log if it does not come up."""
        self._process.wait_ready(self._serves, _READY_TIMEOUT_SECONDS)

    def stop(self) -> None:
        self._process.stop(signal.SIGTERM, signal.SIGKILL, _STOP_TIMEOUT_SECONDS)

    def kill(self) -> None:
        self._process.kill()

    def pid(self) -> int | None:
        return self._process.pid()

    @property
    def log_path(self) -> Path:
        return self._process.log_path

    @property
    def control(self) -> Control:
        return Control(self._state()["admin_url"])

    def url(self, service: str) -> str:
        """Base URL of `tenant-service`, `terminology-service`, `fhir-gateway`, `ai-gateway`, `payment-gateway` or `issuer`."""
        return str(self._state()["urls"][service])

    @property
    def tls_files(self) -> TlsFiles:
        """What a client of the private services needs."""
        tls = self.directory / "tls"
        return TlsFiles(tls / "ca.crt", tls / "client.crt", tls / "client.key")

    def env(self) -> dict[str, str]:
        """Environment variables with which a role finds the services."""
        files = self.tls_files
        return {
            "TENANT_SERVICE_URL": self.url("tenant-service"),
            "TERMINOLOGY_SERVICE_URL": self.url("terminology-service"),
            "FHIR_GATEWAY_URL": self.url("fhir-gateway"),
            "AI_GATEWAY_URL": self.url("ai-gateway"),
            "GATEWAY_ALLOWED_HOSTS": self.url("payment-gateway").removeprefix("https://"),
            "GATEWAY_TLS_CA_FILE": str(files.ca),
            "NEIGHBOUR_TLS_CA_FILE": str(files.ca),
            "NEIGHBOUR_TLS_CERT_FILE": str(files.certificate),
            "NEIGHBOUR_TLS_KEY_FILE": str(files.key),
        }

    def _serves(self) -> bool:
        """A state file of an earlier process does not count."""
        return self.state_path.exists() and json.loads(self.state_path.read_text())["pid"] == self.pid()

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self.state_path.read_text())
        except FileNotFoundError:
            raise StackError(f"no sandbox was started in {self.directory}") from None
        return state
