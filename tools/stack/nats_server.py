"""A nats-server with JetStream on loopback: generated configuration, users and passwords, kept data."""

import json
import os
import re
import secrets
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

from adapters.nats.topology import canary_mappings
from adapters.tls import TlsFiles, client_context
from tools.stack import nats_permissions as permissions
from tools.stack.paths import binary, locked
from tools.stack.ports import free_ports
from tools.stack.process import ServerProcess, StackError

MAX_PAYLOAD_BYTES = 1_048_576
_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_READY_TIMEOUT_SECONDS = 15
_STOP_TIMEOUT_SECONDS = 10
_RELOAD_POLL_SECONDS = 0.005


class NatsServer:
    """One server in one directory. A second object on the same directory, in any process, is the same server.

    Ports and passwords are chosen once and kept, so a restart comes back at the same URL with the same data.
    """

    replicas = 1  # of each stream: as many as there are nodes

    def __init__(
        self,
        directory: Path,
        *,
        sync_interval: str = "always",
        server_name: str = "billing-1",
        tls: TlsFiles | None = None,
    ) -> None:
        """`tls`: clients must use TLS and show a certificate of its CA."""
        self.directory = directory
        self._process = ServerProcess("nats-server", directory)
        self._state_path = directory / "state.json"
        self._config_path = directory / "nats.conf"
        self._sync_interval = sync_interval
        self._server_name = server_name
        self._tls = tls

    def __enter__(self) -> Self:
        return self if self.is_running() else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def log_path(self) -> Path:
        return self._process.log_path

    @property
    def port(self) -> int:
        return int(self._state()["port"])

    @property
    def monitoring_url(self) -> str:
        return f"http://127.0.0.1:{self._state()['monitoring_port']}"

    def url(self, user: str) -> str:
        """`nats://user:password@host:port` of a role (`handlers`, `worker`, …) or of a `tenant-<tenant>` user."""
        state = self._state()
        if user not in state["passwords"]:
            raise StackError(f"no NATS user {user}; known: {', '.join(sorted(state['passwords']))}")
        return f"nats://{user}:{state['passwords'][user]}@127.0.0.1:{state['port']}"

    def client_options(self, user: str) -> dict[str, Any]:
        """Arguments of `nats.connect` for a client that connects as `user`."""
        options: dict[str, Any] = {"servers": self.url(user).split(",")}
        return options | ({"tls": client_context(self._tls)} if self._tls is not None else {})

    def add_tenant(self, tenant: str) -> str:
        """Add the tenant's user if it is new, and return its URL. Takes effect before this returns."""
        if not _TENANT.fullmatch(tenant):
            raise ValueError("a tenant id is 1 to 64 letters, digits, _ or -")
        user = permissions.tenant_user(tenant)
        with locked(self.directory / "state.lock"):
            state = self._state()
            if user not in state["passwords"]:
                state["passwords"][user] = secrets.token_hex(16)
                state["tenants"].append(tenant)
                self._write_state(state)
                self._reload()
        return self.url(user)

    def map_commands(self, canary_percent: int) -> None:
        """Send this share of the commands to the canary's subjects, 0 for none. Takes effect before this returns."""
        with locked(self.directory / "state.lock"):
            state = self._state() | {"canary_percent": canary_percent}
            self._write_state(state)
            self._reload()

    def rotate_password(self, user: str) -> str:
        """Give a user a new password and return its URL. The old one is refused and its connections end before this returns."""
        with locked(self.directory / "state.lock"):
            state = self._state()
            state["passwords"][user] = secrets.token_hex(16)
            self._write_state(state)
            self._reload()
        return self.url(user)

    def start(self) -> Self:
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start without waiting; follow with `wait_ready`."""
        with locked(self.directory / "state.lock"):
            if not self._state_path.exists():
                self._write_state(_new_state(self._sync_interval, self._server_name))
        self._process.launch([binary("nats-server"), "--config", self._config_path])

    def wait_ready(self) -> None:
        self._process.wait_ready(self._is_healthy, _READY_TIMEOUT_SECONDS)

    def stop(self) -> None:
        self._process.stop(signal.SIGTERM, signal.SIGKILL, _STOP_TIMEOUT_SECONDS)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def is_running(self) -> bool:
        return self._process.is_running()

    def pid(self) -> int | None:
        return self._process.pid()

    def monitor(self, path: str) -> dict[str, Any]:
        """A document of the monitoring port, for example `monitor("jsz?consumers=true")`."""
        with urllib.request.urlopen(f"{self.monitoring_url}/{path}", timeout=5) as response:  # noqa: S310  loopback
            document: dict[str, Any] = json.load(response)
            return document

    def _is_healthy(self) -> bool:
        try:
            return self.monitor("healthz").get("status") == "ok"
        except OSError:
            return False

    def _reload(self) -> None:
        """Make a running server read its configuration again, and wait until it has."""
        if not self.is_running():
            return
        before = self.monitor("varz")["config_load_time"]
        self._process.send(signal.SIGHUP)
        deadline = time.monotonic() + _READY_TIMEOUT_SECONDS
        while self.monitor("varz")["config_load_time"] == before:
            if time.monotonic() > deadline:
                raise StackError(f"nats-server did not reload its configuration\n{self._process.log_tail()}")
            time.sleep(_RELOAD_POLL_SECONDS)

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text())
        except FileNotFoundError:
            raise StackError(f"no nats-server was started in {self.directory}") from None
        return state

    def write_state(self, changes: dict[str, Any]) -> None:
        """The state of a server that was never started, with `changes`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_state(_new_state(self._sync_interval, self._server_name) | changes)

    def _write_state(self, state: dict[str, Any]) -> None:
        _write_private(self._state_path, json.dumps(state, indent=2))
        _write_private(self._config_path, _config(state, self.directory / "jetstream", self._tls))


def _new_state(sync_interval: str, server_name: str) -> dict[str, Any]:
    port, monitoring_port = free_ports(2)
    return {
        "server_name": server_name,
        "port": port,
        "monitoring_port": monitoring_port,
        "sync_interval": sync_interval,
        "passwords": {role: secrets.token_hex(16) for role in permissions.ROLES},
        "tenants": [],
    }


def _config(state: dict[str, Any], store: Path, tls: TlsFiles | None) -> str:
    """The configuration file. NATS reads JSON as configuration, which saves quoting."""
    users = [_user(role, state["passwords"][role], granted) for role, granted in permissions.ROLES.items()]
    for tenant in state["tenants"]:
        name = permissions.tenant_user(tenant)
        users.append(_user(name, state["passwords"][name], permissions.tenant_permissions(tenant)))
    document: dict[str, Any] = {
        "server_name": state["server_name"],
        "listen": f"127.0.0.1:{state['port']}",
        "http": f"127.0.0.1:{state['monitoring_port']}",
        "max_payload": MAX_PAYLOAD_BYTES,
        "jetstream": {"store_dir": str(store), "sync_interval": state["sync_interval"], "max_file_store": 20 * 2**30},
        "authorization": {"users": users},
        "mappings": canary_mappings(state.get("canary_percent", 0)),
    }
    if tls is not None:
        files = {"cert_file": str(tls.certificate), "key_file": str(tls.key), "ca_file": str(tls.ca)}
        document["tls"] = files | {"verify": True}
    if cluster := state.get("cluster"):
        document["cluster"] = cluster | ({"tls": document["tls"]} if tls is not None else {})
    return json.dumps(document, indent=2)


def _user(name: str, password: str, granted: permissions.Permissions) -> dict[str, Any]:
    publish = {"allow": list(granted.publish), "deny": list(granted.publish_denied)}
    allowed = {"publish": publish, "subscribe": {"allow": list(granted.subscribe)}}
    return {"user": name, "password": password, "permissions": allowed}


def _write_private(path: Path, text: str) -> None:
    """Replace a file in one step; only its owner may read it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
    unfinished.touch(mode=0o600)
    unfinished.write_text(text)
    unfinished.replace(path)
