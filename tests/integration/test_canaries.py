"""Secrets never show: each role runs with canaries for secrets, in ways that make it fail, and nothing it says holds one."""

import asyncio
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from tools.stack.paths import PROJECT_ROOT
from tools.stack.ports import free_ports
from tools.stack.role_process import ServiceRole
from tools.stack.stack import Role

CANARY = "canary0x5ec2e7"
START_SECONDS = 30.0  # until a role says something, on a busy machine
RUN_SECONDS = 2.0  # after that: long enough to fail again at what it fails at
ROLES = get_args(ServiceRole)

Environment = Callable[[Role], dict[str, str]]


def _wrong_passwords(env: dict[str, str]) -> dict[str, str]:
    def with_canary(url: str) -> str:
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{rest.partition(':')[0]}:{CANARY}@{rest.rpartition('@')[2]}"

    urls = {name: with_canary(env[name]) for name in _URLS if name in env}
    return {name: url for name, url in urls.items() if name != "NATS_URL"}


def _nats_refused(env: dict[str, str]) -> dict[str, str]:
    return {"NATS_URL": f"nats://shim:{CANARY}@{env['NATS_URL'].rpartition('@')[2]}"}


def _no_such_host(env: dict[str, str]) -> dict[str, str]:
    found = {name: f"postgresql://billing_app:{CANARY}@nowhere.invalid/billing" for name in _URLS if name in env}
    return found | {"NATS_URL": f"nats://shim:{CANARY}@nowhere.invalid:4222"}


def _nothing_listens(env: dict[str, str]) -> dict[str, str]:
    (port,) = free_ports(1)
    found = {name: f"postgresql://billing_app:{CANARY}@127.0.0.1:{port}/billing" for name in _URLS if name in env}
    return found | {"NATS_URL": env["NATS_URL"], "REDIS_URL": f"redis://:{CANARY}@127.0.0.1:{port}/0"}


def _malformed(env: dict[str, str]) -> dict[str, str]:
    found = {name: f"postgresql://billing_app:{CANARY}@[::1/billing" for name in _URLS if name in env}
    return found | {"NATS_URL": f"http://shim:{CANARY}@127.0.0.1:notaport", "REDIS_URL": f"{CANARY}"}


_URLS = ("DATABASE_URL", "DATABASE_READ_URL", "DATABASE_RELAY_URL")
SCENARIOS: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "wrong passwords": _wrong_passwords,
    "NATS refuses": _nats_refused,
    "no such host": _no_such_host,
    "nothing listens": _nothing_listens,
    "malformed URLs": _malformed,
}


# Each takes three processes' start and a few seconds more; all of them with BILLING_LONG_TESTS=1.
CHOSEN = list(SCENARIOS) if os.environ.get("BILLING_LONG_TESTS") else ["wrong passwords", "malformed URLs"]


@pytest.mark.parametrize("scenario", CHOSEN)
async def test_no_role_shows_a_secret(scenario: str, service_env: Environment, tmp_path: Path) -> None:
    await asyncio.gather(*(_said(role, scenario, service_env(role), tmp_path) for role in ROLES))


async def _said(role: ServiceRole, scenario: str, env: dict[str, str], directory: Path) -> None:
    tenants = directory / "tenants.json"
    tenants.write_text('{"tenants": [], "code_systems": {}}')
    keys = directory / f"{role}-secrets"
    keys.mkdir()
    (keys / "PAYMENT_GATEWAY_API_KEY_kabul").write_text(CANARY)
    given = {
        **env,
        "ENVIRONMENT": "development",
        "TENANT_DIRECTORY_FILE": str(tenants),
        "SECRETS_DIR": str(keys),
        "LOG_LEVEL": "debug",
        "JWKS_URL": "http://127.0.0.1:1/jwks.json",
        "JWT_ISSUER": "http://127.0.0.1:1",
        "JWT_AUDIENCE": "billing",
        "OBJECT_STORE_BUCKET": "billing",
        "OBJECT_STORE_ENDPOINT_URL": "http://127.0.0.1:1",
        "OBJECT_STORE_ACCESS_KEY_ID": CANARY,
        "OBJECT_STORE_SECRET_ACCESS_KEY": CANARY,
    }
    given |= SCENARIOS[scenario](given)
    log = directory / f"{role}.log"
    answers = await asyncio.to_thread(_run, role, given, log)
    said = log.read_text(errors="replace")
    assert said, f"{role} said nothing: the test shows nothing"
    assert CANARY not in said, next(line for line in said.splitlines() if CANARY in line)
    assert CANARY not in answers


def _run(role: ServiceRole, env: dict[str, str], log: Path) -> str:
    """Runs the role for a while; what its metrics and probes answered."""
    variables = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(PROJECT_ROOT), **env}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.cli", role], env=variables, cwd="/", stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and not log.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.05)
            process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            return "".join(_get(f"http://{env['METRICS_HOST']}:{env['METRICS_PORT']}/{path}") for path in _PATHS)
        finally:
            process.kill()
            process.wait()
    return ""


_PATHS = ("metrics", "readyz", "livez")


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=3) as response:  # noqa: S310  loopback
            return str(response.read())
    except urllib.error.HTTPError as error:
        return str(error.read())
    except OSError:
        return ""
