"""`billing dev`: everything up with one command, and nothing left of it however it ends."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tools.stack import Stack
from tools.stack.paths import PROJECT_ROOT, binary
from tools.stack.process import is_alive

_UP_SECONDS = 90
_DOWN_SECONDS = 45
PROGRAMS = {"nats-server", "postgres", "python"}


@pytest.fixture
def name() -> Iterator[str]:
    name = f"dev-{uuid.uuid4().hex[:8]}"
    yield name
    shutil.rmtree(Stack(name).directory, ignore_errors=True)


@contextmanager
def dev_up(name: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """The process of `billing dev up --json`, and what it printed when everything was ready."""
    process = subprocess.Popen(
        [binary("billing"), "dev", "up", "--name", name, "--json"],
        env=_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=_UP_SECONDS)[1]
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate(timeout=_DOWN_SECONDS)


def dev(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(binary("billing")), "dev", *arguments]
    return subprocess.run(command, env=_env(), capture_output=True, text=True, check=False, timeout=_DOWN_SECONDS)


@pytest.mark.timeout(240)
def test_dev_up_serves_and_sigint_leaves_nothing(name: str) -> None:
    with dev_up(name) as (process, state):
        family = psutil.Process(process.pid).children(recursive=True)
        assert {_program(member) for member in family} >= PROGRAMS
        assert "issuer" not in state
        token = dev("token", "kabul-central", "--scope", "billing.read", "--name", name)
        assert token.returncode == 0, token.stderr
        assert _get(f"{state['http_url']}/v1/accounts", token.stdout.strip()) == {"items": [], "next_cursor": None}
        status = dev("status", "--json", "--name", name)
        assert status.returncode == 0
        assert {row["name"] for row in json.loads(status.stdout)["processes"] if row["ready"]} == {
            "api",
            "handlers",
            "worker",
            "nats",
            "postgres",
            "sandbox",
        }
        second = dev("up", "--name", name)
        assert second.returncode == 3
        assert "runs already" in second.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(_DOWN_SECONDS) == 0
        _assert_gone(family)
    assert dev("status", "--name", name).returncode == 1
    assert "does not run" in dev("token", "kabul-central", "--name", name).stderr


@pytest.mark.timeout(240)
def test_kill_9_leaves_nothing_and_the_next_up_and_down_work(name: str) -> None:
    with dev_up(name) as (process, _):
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(_DOWN_SECONDS)
        _assert_gone(family)
    with dev_up(name) as (process, _):
        family = psutil.Process(process.pid).children(recursive=True)
        stopped = dev("down", "--name", name)
        assert stopped.returncode == 0, stopped.stderr
        assert process.wait(_DOWN_SECONDS) == 0
        _assert_gone(family)
    again = dev("down", "--name", name)
    assert again.returncode == 0
    assert "does not run" in again.stderr


def _env() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT), "HOME": os.environ.get("HOME", "/")}


def _program(process: psutil.Process) -> str:
    return process.name().rstrip("0123456789.").removesuffix(":")


def _get(url: str, token: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310  loopback
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310  loopback
        return json.load(response)


def _assert_gone(family: list[psutil.Process]) -> None:
    """By process, not by pid: pids are used again."""
    deadline = time.monotonic() + 15
    while alive := [member for member in family if is_alive(member)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.1)
