"""checkov over what the chart makes and over the Dockerfile; what is not followed has its reason here."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.deploy.chart import DEPLOY_BIN, NAMESPACE, REGIONS, TAG, render
from tools.stack.paths import PROJECT_ROOT

SKIPPED = {
    "CKV_K8S_11": "no CPU limit: a throttled event loop turns a busy second into a failed liveness probe; requests share nodes",
}


def _checkov(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(DEPLOY_BIN / "checkov"), "--quiet", "--compact", "--output", "json", *arguments]
    # It would otherwise ask the internet for its guides.
    env = os.environ | {"BC_SKIP_MAPPING": "TRUE", "CHECKOV_RUN_SCA_PACKAGE_SCAN": "false", "LOG_LEVEL": "ERROR"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, env=env)


def _failed(result: "subprocess.CompletedProcess[str]") -> set[str]:
    document = json.loads(result.stdout)
    reports = document if isinstance(document, list) else [document]
    assert sum(report["summary"]["passed"] for report in reports) > 10, result.stderr
    return {
        f"{each['check_id']} {each['resource']}" for report in reports for each in report["results"]["failed_checks"]
    }


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a digest, as a release is deployed, and with the namespace that Helm adds when it installs."""
    directory = tmp_path_factory.mktemp("manifests")
    for region in REGIONS:
        rendering = render(region, {"image": {"tag": TAG}}, scenario="per-group")
        objects = [each | {"metadata": each["metadata"] | {"namespace": NAMESPACE}} for each in rendering.objects]
        (directory / f"{region}.yaml").write_text("\n---\n".join(json.dumps(each) for each in objects))
    return directory


def test_chart(manifests: Path) -> None:
    skipped = ",".join(SKIPPED)
    assert _failed(_checkov("--framework", "kubernetes", "-d", str(manifests), "--skip-check", skipped)) == set()


def test_every_skip_is_still_needed(manifests: Path) -> None:
    failed = _failed(
        _checkov("--framework", "kubernetes", "-d", str(manifests), "--check", ",".join([*SKIPPED, "CKV_K8S_22"]))
    )
    assert {each.split()[0] for each in failed} == set(SKIPPED)


def test_dockerfile() -> None:
    assert _failed(_checkov("--framework", "dockerfile", "-f", str(PROJECT_ROOT / "Dockerfile"))) == set()
