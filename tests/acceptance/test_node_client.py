"""A client that is not Python: the npm package @nats-io/transport-node against the running mesh."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.servers import TEMPLATE
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.paths import locked, stack_root

HERE = Path(__file__).parent / "node"
FILES = ("package.json", "package-lock.json", ".npmrc", "client.mjs")
OLDEST_NODE = 20
TENANT, OTHER = "node-clinic", "other-clinic"

pytestmark = [pytest.mark.node, pytest.mark.timeout(180)]


def _run(command: list[str], directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=directory, env=os.environ | env, capture_output=True, text=True, check=False, timeout=90
    )


@pytest.fixture(scope="module")
def client() -> Path:
    """The client's directory with its packages, installed once per lock file."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm on the path")
    version = _run(["node", "--version"], HERE).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"needs node {OLDEST_NODE} or newer, found {version}")
    content = b"".join((HERE / name).read_bytes() for name in FILES)
    directory = stack_root() / f"node-client-{hashlib.sha256(content).hexdigest()[:16]}"
    with locked(directory.with_suffix(".lock")):
        if not (directory / "installed").exists():
            directory.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                shutil.copy(HERE / name, directory / name)
            installed = _run(["npm", "ci", "--ignore-scripts"], directory)
            if installed.returncode != 0:
                pytest.skip(f"npm ci failed, no registry? {installed.stderr.strip()[-200:]}")
            (directory / "installed").touch()
    return directory


@pytest.fixture(scope="module")
def report(stack: Stack, client: Path) -> Iterator[dict[str, Any]]:
    """What the client saw."""
    with Mesh.isolated(stack, template=TEMPLATE, tenants=(TENANT, OTHER), roles=("handlers", "worker")) as mesh:
        url = mesh.tenant_nats_url(TENANT)
        result = _run(["node", "client.mjs"], client, NATS_URL=url, TENANT=TENANT, OTHER_TENANT=OTHER)
        assert result.returncode == 0, result.stderr
        yield json.loads(result.stdout)


def test_commands_get_their_outcomes_on_the_reply_inbox(report: dict[str, Any]) -> None:
    assert {report[name]["stream"] for name in ("opened", "paid", "again", "refused")} == {"BILLING_COMMANDS"}
    for name, status in (("opened", "applied"), ("paid", "applied"), ("again", "duplicate"), ("refused", "rejected")):
        outcome = report[name]["outcome"]
        assert outcome["status"] == status and outcome["command_id"] == report[name]["id"]
    assert report["paid"]["outcome"]["result"]["amount_minor"] == 125_000
    assert report["again"]["outcome"]["result"] == report["paid"]["outcome"]["result"]
    assert report["refused"]["outcome"]["error"]["code"] == "currency_mismatch"
    malformed = report["malformed"]["outcome"]
    assert malformed["error"]["code"] == "malformed_command"
    assert malformed["error"]["details"]["fields"][0]["field"] == "amount"


def test_a_query_reads_the_clients_own_write(report: dict[str, Any]) -> None:
    assert report["balance"]["result"]["unapplied_credit_minor"] == 125_000


def test_events_come_through_jetstream_in_order(report: dict[str, Any]) -> None:
    events = report["events"]
    assert [event["sequence"] for event in events] == [1, 2]
    assert [event["subject"].removeprefix(f"billing.v1.evt.{TENANT}.") for event in events] == [
        "account.opened",
        "payment.recorded",
    ]
    assert [event["command"] for event in events] == [report[name]["id"] for name in ("opened", "paid")]
    assert len({event["id"] for event in events}) == 2
    assert events[1]["data"]["amount_minor"] == 125_000


def test_another_tenant_is_out_of_reach(report: dict[str, Any]) -> None:
    for attempt in ("trespass", "eavesdrop"):
        assert "permission" in report[attempt].lower(), report[attempt]


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((HERE / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages and all("resolved" not in package and "integrity" in package for package in packages.values())
