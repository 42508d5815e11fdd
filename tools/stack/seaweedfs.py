"""An S3 server (SeaweedFS) on loopback with one generated access key."""

import json
import secrets
import signal
import urllib.request
from pathlib import Path
from typing import Any, Self

from tools.stack.paths import binary
from tools.stack.ports import free_ports
from tools.stack.process import ServerProcess, StackError

BUCKET = "billing-documents"
REGION = "us-east-1"
_READY_TIMEOUT_SECONDS = 30
_STOP_TIMEOUT_SECONDS = 10
_SERVERS = ("master", "volume", "filer", "s3")


class SeaweedFS:
    """One S3 endpoint in one directory; ports and keys are chosen once and kept."""

    def __init__(self, directory: Path, *, bucket: str = BUCKET, room_mb: int | None = None) -> None:
        """`room_mb` None: as much as the disk has. It may be another one at the next start."""
        self.directory = directory
        self.bucket = bucket
        self.room_mb = room_mb
        self._process = ServerProcess("seaweedfs", directory)
        self._state_path = directory / "state.json"

    def __enter__(self) -> Self:
        return self if self.is_running() else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._state()['ports']['s3']}"

    @property
    def access_key_id(self) -> str:
        return str(self._state()["access_key_id"])

    @property
    def secret_access_key(self) -> str:
        return str(self._state()["secret_access_key"])

    def start(self) -> Self:
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start without waiting; follow with `wait_ready`."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        if not self._state_path.exists():
            self._state_path.touch(mode=0o600)
            self._state_path.write_text(json.dumps(_new_state(), indent=2))
        state = self._state()
        identities = self.directory / "s3.json"
        identities.touch(mode=0o600)
        identities.write_text(json.dumps(_identities(state)))
        # Volumes of 1 MB: a limited store is full when it has no further one.
        room = ["-master.volumeSizeLimitMB=1", f"-volume.max={self.room_mb}"] if self.room_mb else []
        arguments = [*_arguments(state, data, identities, self.bucket), *room]
        self._process.launch([binary("weed"), "-logtostderr", "mini", *arguments])

    def wait_ready(self) -> None:
        self._process.wait_ready(self._answers, _READY_TIMEOUT_SECONDS)

    def stop(self) -> None:
        self._process.stop(signal.SIGTERM, signal.SIGKILL, _STOP_TIMEOUT_SECONDS)
        # It leaves two unix sockets behind, which only it can name.
        for name in ("filer", "s3"):
            Path(f"/tmp/seaweedfs-{name}-{self._state()['ports'][name]}.sock").unlink(missing_ok=True)  # noqa: S108

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    def is_running(self) -> bool:
        return self._process.is_running()

    def _answers(self) -> bool:
        """Ready when its owner finds the bucket: it is made a moment after the server answers, and refuses strangers."""
        url = f"{self.endpoint_url}/{self.bucket}/"
        try:
            urllib.request.urlopen(self._signed("HEAD", url), timeout=1).close()  # noqa: S310  loopback
        except OSError:  # an HTTP error is one
            return False
        return True

    def _signed(self, method: str, url: str) -> urllib.request.Request:
        from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
        from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
        from botocore.credentials import Credentials  # type: ignore[import-untyped]

        signed = AWSRequest(method, url)
        S3SigV4Auth(Credentials(self.access_key_id, self.secret_access_key), "s3", REGION).add_auth(signed)
        return urllib.request.Request(url, headers=dict(signed.headers.items()), method=method)  # noqa: S310

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text())
        except FileNotFoundError:
            raise StackError(f"no S3 server was started in {self.directory}") from None
        return state


def _new_state() -> dict[str, Any]:
    names = [f"{server}{kind}" for server in (*_SERVERS, "admin") for kind in ("", ".grpc")]
    return {
        "ports": dict(zip(names, free_ports(len(names)), strict=True)),
        "access_key_id": secrets.token_hex(10).upper(),
        "secret_access_key": secrets.token_hex(20),
    }


def _identities(state: dict[str, Any]) -> dict[str, Any]:
    key = {"accessKey": state["access_key_id"], "secretKey": state["secret_access_key"]}
    return {"identities": [{"name": "billing", "credentials": [key], "actions": ["Admin", "Read", "Write", "List"]}]}


def _arguments(state: dict[str, Any], data: Path, identities: Path, bucket: str) -> list[str]:
    ports = state["ports"]
    listening = [
        f"-{server}.port{kind}={ports[server + kind]}" for server in (*_SERVERS, "admin") for kind in ("", ".grpc")
    ]
    return [
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *listening,
        f"-s3.config={identities}",
        f"-bucket={bucket}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        "-volume.preStopSeconds=0",
    ]
