"""Every rendered object against its schema, unknown fields refused: core kinds by kubernetes-validate, custom by types."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart import CASES, CHART, DEPLOY_BIN, Chart
from tools.stack.paths import PROJECT_ROOT

CRDS = Path(__file__).parent / "crds"
KUBERNETES = "1.34.0"  # of the schemas that come with kubernetes-validate
PACKAGES = {
    "argoproj.io": "argo-rollouts",
    "cert-manager.io": "cert-manager",
    "external-secrets.io": "external-secrets",
    "gateway.networking.k8s.io": "gateway-api",
    "keda.sh": "keda",
    "monitoring.coreos.com": "prometheus-operator",
}
# Nobody packages types of these; the assertions of test_chart.py are all there is.
UNTYPED = {"configuration.konghq.com", "cilium.io", "security.istio.io"}
CORE = {"", "apps", "batch", "policy", "autoscaling", "networking.k8s.io"}


def _group(manifest: dict[str, Any]) -> str:
    group, slash, _ = manifest["apiVersion"].partition("/")
    return group if slash else ""


def _distinct(chart: Chart, groups: set[str]) -> Iterator[dict[str, Any]]:
    """Most objects are the same in several cases."""
    seen = set()
    for _, rendering in chart:
        for each in rendering.objects:
            text = json.dumps(each, sort_keys=True)
            if _group(each) in groups and text not in seen:
                seen.add(text)
                yield each


def test_every_kind_is_checked_by_something(chart: Chart) -> None:
    found = {_group(each) for case in CASES for each in chart[case].objects}
    assert found == CORE | set(PACKAGES) | UNTYPED


# ---- core ----


def _kubernetes_validate(directory: Path, manifests: list[dict[str, Any]]) -> "subprocess.CompletedProcess[str]":
    file = directory / "manifests.yaml"
    file.write_text("\n---\n".join(json.dumps(each) for each in manifests))
    command = [str(DEPLOY_BIN / "kubernetes-validate"), "--strict", "--quiet", "-k", KUBERNETES, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)


def test_core_kinds_are_valid_and_have_no_unknown_field(chart: Chart, tmp_path: Path) -> None:
    manifests = list(_distinct(chart, CORE))
    assert len(manifests) > 50
    result = _kubernetes_validate(tmp_path, manifests)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_unknown_core_field_is_noticed(chart: Chart, tmp_path: Path) -> None:
    deployment = json.loads(json.dumps(chart[CASES[0]].named("Deployment", "billing-worker")))
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 30
    assert _kubernetes_validate(tmp_path, [deployment]).returncode != 0


# ---- custom ----


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm is not on the path")
    modules = PROJECT_ROOT / ".venv-deploy" / "crds"
    modules.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(CRDS / name, modules / name)
    installed = modules / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (CRDS / "package-lock.json").stat().st_mtime:
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        result = subprocess.run(command, cwd=modules, capture_output=True, text=True, check=False, timeout=110)
        assert result.returncode == 0, result.stderr[-2000:]
    return modules


def _compile(compiler: Path, name: str, manifests: list[dict[str, Any]]) -> "subprocess.CompletedProcess[str]":
    """Object literals of a type may have none but its fields: TypeScript's excess property check, at every depth."""
    kinds = sorted({(_group(each), each["apiVersion"].split("/")[1], each["kind"]) for each in manifests})
    lines = [
        f'import type {{ I{kind} }} from "@kubernetes-models/{PACKAGES[group]}/{group}/{version}/{kind}";'
        for group, version, kind in kinds
    ]
    lines += [f"export const m{at}: I{each['kind']} = {json.dumps(each)};" for at, each in enumerate(manifests)]
    (compiler / f"{name}.ts").write_text("\n".join(lines) + "\n")
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext"]
    return subprocess.run(
        ["node", "node_modules/typescript/bin/tsc", *options, "--target", "es2022", f"{name}.ts"],
        cwd=compiler,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_custom_kinds_have_the_fields_of_their_types(chart: Chart, compiler: Path) -> None:
    manifests = list(_distinct(chart, set(PACKAGES)))
    assert {each["kind"] for each in manifests} >= {
        "ScaledObject", "Rollout", "AnalysisTemplate", "Certificate", "ExternalSecret", "PodMonitor", "HTTPRoute",
    }  # fmt: skip
    result = _compile(compiler, "chart", manifests)
    assert result.returncode == 0, result.stdout[:3000]


UNKNOWN: dict[str, tuple[str | int, ...]] = {
    "ScaledObject": ("spec", "minReplicas"),
    "Rollout": ("spec", "strategy", "canary", "maxSurges"),
    "AnalysisTemplate": ("spec", "metrics", 0, "inconclusive"),
    "Certificate": ("spec", "privateKey", "rotation"),
    "ExternalSecret": ("spec", "target", "policy"),
    "PodMonitor": ("spec", "podMetricsEndpoints", 0, "metricsPath"),
    "HTTPRoute": ("spec", "rules", 0, "backends"),
}


def test_unknown_custom_fields_are_noticed(chart: Chart, compiler: Path) -> None:
    manifests = []
    for kind, path in UNKNOWN.items():
        manifest = json.loads(json.dumps(chart[CASES[0]].of_kind(kind)[0]))
        target = manifest
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = 1
        manifests.append(manifest)
    result = _compile(compiler, "wrong", manifests)
    assert result.returncode != 0
    assert [str(path[-1]) for path in UNKNOWN.values() if f'"{path[-1]}"' not in result.stdout] == []


def test_the_values_schema_is_a_schema() -> None:
    """Helm ignores keywords it does not know; a misspelt `required` would refuse nothing."""
    command = [str(DEPLOY_BIN / "check-jsonschema"), "--check-metaschema", str(CHART / "values.schema.json")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout
