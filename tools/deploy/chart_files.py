"""Writes charts/billing/files/topology.json: what the code declares and the chart has to follow.

    python -m tools.deploy.chart_files [--check]

Durables are KEDA's triggers, permissions the NATS accounts', routes Kong's. `--check` writes nothing and ends with 1 where the
file is not what would be written.
"""

import json
import sys
from pathlib import Path
from typing import Any

from adapters.nats.topology import FHIR, FHIR_REPLAY, JOBS_STREAM, durable_configs
from gateway_shim.routes import ROUTES, WEBHOOKS
from schemas.registry import GROUPS
from schemas.subjects import CANARY_PREFIX, COMMAND_PREFIX
from tools.stack.nats_permissions import ROLES
from tools.stack.paths import PROJECT_ROOT

TARGET = PROJECT_ROOT / "charts" / "billing" / "files" / "topology.json"
CANARY_SUFFIX = "-canary"
_REPLAY_SUFFIX = "-replay"


def topology() -> dict[str, Any]:
    """The file's content. The chart reads nothing else of the code."""
    durables = [{"stream": stream, "durable": name} for stream, name in durable_configs()]
    workers = [each for each in durables if each["stream"] == JOBS_STREAM or each["durable"] in (FHIR, FHIR_REPLAY)]
    commands = [each for each in durables if each not in workers]
    stable = [each for each in commands if not each["durable"].endswith(CANARY_SUFFIX)]
    return {
        "groups": list(GROUPS),
        "handler_durables": [each | {"group": each["durable"].removesuffix(_REPLAY_SUFFIX)} for each in stable],
        "worker_durables": workers,
        "canary_durables": [each for each in commands if each["durable"].endswith(CANARY_SUFFIX)],
        "command_prefixes": {"stable": COMMAND_PREFIX, "canary": CANARY_PREFIX},
        "routes": _routes(),
        "permissions": {role: granted._asdict() for role, granted in ROLES.items()},
    }


def _routes() -> list[dict[str, Any]]:
    """One of Kong's routes per first segment below /v1, with the methods the shim has there; `token`: it wants one."""
    methods: dict[str, set[str]] = {}
    for route in ROUTES:
        methods.setdefault(route.path.split("/")[2], set()).add(route.method)
    found = [
        {"name": name, "path": f"/v1/{name}", "methods": sorted(each), "token": True} for name, each in methods.items()
    ]
    webhooks = WEBHOOKS.partition("/{")[0]
    return [*found, {"name": webhooks.split("/")[2], "path": webhooks, "methods": ["POST"], "token": False}]


def text() -> str:
    return json.dumps(topology(), indent=2) + "\n"


def main(target: Path = TARGET) -> int:
    if "--check" in sys.argv[1:]:
        fresh = target.exists() and target.read_text(encoding="utf-8") == text()
        if not fresh:
            print(f"{target.name} is out of date: python -m tools.deploy.chart_files", file=sys.stderr)
        return 0 if fresh else 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
