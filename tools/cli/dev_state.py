"""What `billing dev up` leaves for the other `billing dev` commands: a private file in the stack's directory."""

import json
import os
from pathlib import Path
from typing import Any

from tools.cli.errors import UNAVAILABLE, CliError
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT
from tools.stack.role_process import RoleProcess
from tools.stack.stack import Role

_FILE = "dev.json"
_ROLES: tuple[Role, ...] = ("operator", "api", "handlers", "worker", "migrate")


def write_state(mesh: Mesh) -> dict[str, Any]:
    """Passwords and a token key are in it, so only its owner may read it."""
    state = {
        "name": mesh.stack.name,
        "owner_pid": os.getpid(),
        "http_url": mesh.http_url,
        "processes": [_process(process, mesh) for process in mesh] + _servers(mesh),
        "env": {role: mesh.env(role) for role in _ROLES},
        "issuer": mesh.issuer.credentials(),
    }
    path = mesh.stack.directory / _FILE
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(state))
    return state


def read_state(name: str) -> dict[str, Any]:
    """Raises CliError where the stack does not run."""
    stack = Stack(name)
    owner = stack.owner_pid()
    try:
        state: dict[str, Any] = json.loads((stack.directory / _FILE).read_text())
    except (OSError, ValueError):
        state = {}
    # A file of an earlier owner has dead ports in it.
    if owner is None or state.get("owner_pid") != owner:
        raise CliError(f"stack {name} does not run (or is still starting); `billing dev up` starts it", UNAVAILABLE)
    return state


def current_status(name: str) -> list[dict[str, Any]]:
    """One row per process with `ready`; empty where the stack does not run."""
    try:
        state = read_state(name)
    except CliError:
        return []
    stack = Stack(name)
    running = {"nats": stack.nats.pid, "postgres": stack.postgres.pid}
    rows = []
    for row in state["processes"]:
        if row["name"] in running:
            pid = running[row["name"]]()
            rows.append({**row, "pid": pid, "ready": pid is not None})
        else:
            rows.append({**row, "ready": _ready(row["probe"])})
    return rows


def _process(process: RoleProcess, mesh: Mesh) -> dict[str, Any]:
    url = mesh.http_url if process.role == "api" else process.metrics_url
    return {
        "name": process.name,
        "pid": process.pid(),
        "url": url,
        "probe": f"{process.metrics_url}/readyz",
        "metrics": f"{process.metrics_url}/metrics",
        "log": _short(process.log_path),
    }


def _servers(mesh: Mesh) -> list[dict[str, Any]]:
    """Without passwords: this is printed."""
    nats, postgres, sandbox = mesh.nats, mesh.stack.postgres, mesh.sandbox
    services = f"{sandbox.control.admin_url}/services"
    return [
        {
            "name": "sandbox",
            "pid": sandbox.pid(),
            "url": services,
            "probe": services,
            "log": _short(sandbox.log_path),
        },
        {"name": "nats", "pid": nats.pid(), "url": f"nats://127.0.0.1:{nats.port}", "log": _short(nats.log_path)},
        {
            "name": "postgres",
            "pid": postgres.pid(),
            "url": f"postgresql://127.0.0.1:{postgres.port}/{mesh.database}",
            "log": _short(postgres.log_path),
        },
    ]


def _short(path: Path) -> str:
    """As seen from the checkout, where that is shorter."""
    return str(path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path)


def _ready(url: str) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  loopback
            return bool(response.status == 200)
    except OSError:
        return False
