"""The chart, rendered by Helm's own engine, for every region and scenario."""

import fcntl
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tools.stack.paths import PROJECT_ROOT

CHART = PROJECT_ROOT / "charts" / "billing"
DEPLOY_BIN = PROJECT_ROOT / ".venv-deploy" / "bin"
REGIONS = ("afg", "are")
SCENARIOS = ("default", "per-group", "hpa", "fixed")
NAMESPACE = "billing-prod"
TAG = "0123456789abcdef0123456789abcdef01234567"
ROLES = ("api", "handlers", "worker", "migrate")
WORKLOADS = ("Deployment", "Rollout", "Job")

Object = dict[str, Any]


class Case(NamedTuple):
    """One rendering: a region's values, a scenario's, an installation or an upgrade."""

    region: str
    scenario: str
    upgrade: bool

    def __str__(self) -> str:
        return f"{self.region}-{self.scenario}-{'upgrade' if self.upgrade else 'install'}"


CASES = [Case(region, scenario, upgrade) for region in REGIONS for scenario in SCENARIOS for upgrade in (False, True)]


@dataclass(frozen=True)
class Rendering:
    objects: tuple[Object, ...] = ()
    notes: str = ""
    lint: Object = field(default_factory=dict)
    error: str | None = None

    def of_kind(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        (found,) = [each for each in self.of_kind(kind) if each["metadata"]["name"] == name]
        return found

    def workloads(self) -> dict[str, Object]:
        """By name: what has a pod template."""
        return {each["metadata"]["name"]: each for each in self.of_kind(*WORKLOADS)}

    def pods(self) -> Iterator[tuple[str, str, Object]]:
        """(workload, role, pod spec)"""
        for name, workload in self.workloads().items():
            template = workload["spec"]["template"]
            yield name, template["metadata"]["labels"]["billing/role"], template["spec"]


class Chart:
    def __init__(self, renderings: dict[Case, Rendering]) -> None:
        self._renderings = renderings

    @classmethod
    def rendered(cls, cache: Path) -> "Chart":
        """From `cache`, where another process of this run has rendered it already."""
        asked = [_asked(case.region, case.scenario, upgrade=case.upgrade) for case in CASES]
        with cache.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits for the first
            if not cache.exists():
                cache.write_text(_helm_output(asked))
        return cls(dict(zip(CASES, _renderings(cache.read_text()), strict=True)))

    def __getitem__(self, case: Case) -> Rendering:
        rendering = self._renderings[case]
        assert rendering.error is None, rendering.error
        return rendering

    def __iter__(self) -> Iterator[tuple[Case, Rendering]]:
        return iter((case, self[case]) for case in CASES)


def render(region: str | None, values: Object, *, scenario: str | None = None, upgrade: bool = True) -> Rendering:
    """One rendering of its own; `error` says why there is none."""
    (rendering,) = helm([_asked(region, scenario, upgrade=upgrade, values=values)])
    return rendering


def helm(asked: list[Object]) -> list[Rendering]:
    return _renderings(_helm_output(asked))


def _helm_output(asked: list[Object]) -> str:
    result = subprocess.run(
        [DEPLOY_BIN / "python", PROJECT_ROOT / "tools" / "deploy" / "helm.py"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def _renderings(output: str) -> list[Rendering]:
    return [
        Rendering(tuple(each.get("manifests", ())), each.get("notes", ""), each["lint"], each.get("error"))
        for each in json.loads(output)
    ]


def _asked(region: str | None, scenario: str | None, *, upgrade: bool, values: Object | None = None) -> Object:
    files = [CHART / f"values-{region}.yaml"] if region else []
    files += [CHART / "ci" / f"{scenario}-values.yaml"] if scenario else []
    return {
        "chart": str(CHART),
        "values": [str(path) for path in files],
        "set": {"image": {"tag": TAG}} if values is None else values,
        "upgrade": upgrade,
        "namespace": NAMESPACE,
        "name": "billing",
    }


def environment(pod: Object) -> dict[str, str]:
    """The variables of the pod's one container."""
    (container,) = pod["containers"]
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names)), "a variable is given twice"
    return {each["name"]: each["value"] for each in container["env"]}
