"""The chart's consumer canary: a second Deployment with queues and scaling of its own (docs/decisions/0040)."""

import json
from typing import Any

import pytest

from adapters.nats.scaling import CANARY, WORKLOADS
from adapters.nats.topology import canary_mappings
from tests.deploy.chart import TAG, Rendering, environment, render

CANARY_TAG = "89abcdef"
IMAGE = {"image": {"tag": TAG}}


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    found = render("afg", IMAGE, scenario="canary")
    assert found.error is None, found.error
    return found


def test_the_mapping_is_the_codes(rendering: Rendering) -> None:
    """The same that tests/integration/test_consumer_canary.py gives a real nats-server."""
    data = rendering.named("ConfigMap", "billing-nats")["data"]
    assert json.loads(data["mappings.json"]) == canary_mappings(5)


def test_no_mapping_without_a_canary() -> None:
    found = render("afg", IMAGE)
    assert "mappings.json" not in found.named("ConfigMap", "billing-nats")["data"]
    (stable,) = [pod for name, role, pod in found.pods() if role == "handlers"]
    assert environment(stable)["HANDLER_COMMANDS"] == "all", "what an earlier canary has left must be applied"


def test_the_canary_takes_its_share_and_leaves_the_rest(rendering: Rendering) -> None:
    pods = {name: pod for name, role, pod in rendering.pods() if role == "handlers"}
    commands = {name: environment(pod)["HANDLER_COMMANDS"] for name, pod in pods.items()}
    assert commands == {"billing-handlers": "stable", "billing-handlers-canary": "canary"}
    images = {name: pod["containers"][0]["image"].rpartition(":")[2] for name, pod in pods.items()}
    assert images == {"billing-handlers": TAG, "billing-handlers-canary": CANARY_TAG}


def test_the_canary_scales_by_its_own_queues(rendering: Rendering) -> None:
    scaled = rendering.named("ScaledObject", "billing-handlers-canary")["spec"]
    rule = WORKLOADS["handlers-canary"]
    assert scaled["scaleTargetRef"]["name"] == "billing-handlers-canary"
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (rule.min_replicas, rule.max_replicas)
    triggers = {(each["metadata"]["stream"], each["metadata"]["consumer"]): each for each in scaled["triggers"]}
    assert set(triggers) == {(queue.stream, queue.durable) for queue in CANARY}
    assert {int(each["metadata"]["lagThreshold"]) for each in triggers.values()} == set(rule.lag_per_replica.values())
    others = [
        each for each in rendering.of_kind("ScaledObject") if each["metadata"]["name"] != "billing-handlers-canary"
    ]
    consumers = {trigger["metadata"].get("consumer") for each in others for trigger in each["spec"]["triggers"]}
    assert not consumers & {queue.durable for queue in CANARY}, (
        "stable handlers must not scale for what they leave alone"
    )


@pytest.mark.parametrize(("mode", "kinds"), [("hpa", ["HorizontalPodAutoscaler"]), ("none", [])])
def test_other_ways_to_scale(mode: str, kinds: list[str]) -> None:
    values: dict[str, Any] = {**IMAGE, "autoscaling": {"mode": mode}}
    found = render("afg", values, scenario="canary")
    assert found.error is None, found.error
    scaled = [
        each
        for each in found.of_kind("ScaledObject", "HorizontalPodAutoscaler")
        if each["metadata"]["name"] == "billing-handlers-canary"
    ]
    assert [each["kind"] for each in scaled] == kinds
    assert found.workloads()["billing-handlers-canary"]["spec"].get("replicas") == (None if kinds else 1)


def test_contract_is_refused_beside_it() -> None:
    refused = render("afg", {**IMAGE, "migrate": {"phase": "contract"}}, scenario="canary")
    assert "contract beside a canary" in str(refused.error)


def test_it_needs_an_image_to_try() -> None:
    refused = render("afg", {**IMAGE, "canary": {"consumers": {"image": {"tag": ""}}}}, scenario="canary")
    assert "canary.consumers.image.tag is required" in str(refused.error)
