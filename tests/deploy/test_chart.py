"""Every number and line of the topology document that the chart is responsible for, in every region and scenario."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from adapters import settings
from adapters.gateways.egress import parse_allowlist
from adapters.nats.scaling import CANARY, WORKLOADS, Queue
from adapters.nats.topology import FHIR, FHIR_REPLAY, durable_configs
from gateway_shim.routes import ROUTES
from tests.deploy.chart import CASES, CHART, NAMESPACE, REGIONS, ROLES, TAG, Case, Chart, environment, render
from tools.cli.canary import Selection, load_triggers
from tools.deploy import chart_files

every_case = pytest.mark.parametrize("case", CASES, ids=str)
keda_cases = pytest.mark.parametrize(
    "case", [case for case in CASES if case.scenario in ("default", "per-group")], ids=str
)
every_region = pytest.mark.parametrize("region", REGIONS)

# What each role loads when it starts (tools/cli/roles.py, tools/cli/migrate.py); handlers and worker also ask their neighbours.
GROUPS_OF_ROLE: dict[str, tuple[type[settings.Settings], ...]] = {
    "api": (settings.ShimSettings, settings.NatsSettings, settings.RuntimeSettings, settings.TelemetrySettings),
    "handlers": (
        settings.RuntimeSettings,
        settings.TelemetrySettings,
        settings.DatabaseSettings,
        settings.NatsSettings,
        settings.HandlersSettings,
        settings.NeighbourSettings,
        settings.ObjectStoreSettings,
    ),
    "worker": (
        settings.RuntimeSettings,
        settings.TelemetrySettings,
        settings.DatabaseSettings,
        settings.NatsSettings,
        settings.WorkerSettings,
        settings.NeighbourSettings,
        settings.FhirSettings,
        settings.GatewaySettings,
        settings.ObjectStoreSettings,
    ),
    "migrate": (settings.RuntimeSettings, settings.DatabaseSettings, settings.NatsSettings),
}
# Read by asyncpg, not by us.
FOREIGN = re.compile(r"PGSSL(MODE|ROOTCERT|CERT|KEY)")


def test_what_the_chart_knows_of_the_code_is_current() -> None:
    assert chart_files.TARGET.read_text(encoding="utf-8") == chart_files.text(), "python -m tools.deploy.chart_files"


@every_case
def test_lints_without_a_warning(chart: Chart, case: Case) -> None:
    worst = max((message["severity"] for message in chart[case].lint["messages"]), default=0)
    assert (worst, chart[case].lint["errors"]) == (1, []), chart[case].lint  # 1: that an icon is missing


# ---- §1, §2: containers ----


@every_case
def test_containers_are_the_documents(chart: Chart, case: Case) -> None:
    names = {name.removeprefix("billing-").split("-")[0] for name in chart[case].workloads()}
    assert names == {"api", "handlers", "worker", "migrate"}
    for _, role, pod in chart[case].pods():
        (container,) = pod["containers"]
        assert container["image"].startswith("ghasi/service-billing:" + TAG) or "@sha256:" in container["image"]
        assert "initContainers" not in pod, "migrations are a job, not an init container"
        assert environment(pod).get("WORKER") == ("true" if role == "worker" else None)
        assert (
            container["args"]
            == {
                "api": ["api"],
                "handlers": ["handlers"],
                "worker": [],  # the image's own entry: WORKER=true selects
                "migrate": ["migrate", "--phase", "contract" if case.scenario == "fixed" else "expand"]
                if case.upgrade
                else ["migrate"],
            }[role]
        )


@every_case
def test_migrations_are_a_hook_and_nothing_they_need_comes_later(chart: Chart, case: Case) -> None:
    rendering = chart[case]
    job = rendering.named("Job", "billing-migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    hooks = {
        (each["kind"], each["metadata"]["name"]): int(each["metadata"]["annotations"]["helm.sh/hook-weight"])
        for each in rendering.objects
        if each["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-install,pre-upgrade"
    }
    secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    needed = {("ServiceAccount", pod["serviceAccountName"])}
    needed |= {("Certificate", name.removesuffix("-tls")) for name in secrets if name.endswith("-tls")}
    if case.scenario != "fixed":  # there, something else makes the secrets
        needed |= {("ExternalSecret", name) for name in secrets if not name.endswith("-tls")}
    assert len(secrets) == 4
    assert needed <= hooks.keys()
    assert all(hooks[each] < hooks["Job", "billing-migrate"] for each in needed)


@every_region
@pytest.mark.parametrize("canary", ["api", "consumers"])
def test_contract_is_refused_beside_a_canary(region: str, canary: str) -> None:
    values = {"image": {"tag": TAG}, "migrate": {"phase": "contract"}, "canary": {"api": {"enabled": False}}}
    assert render(region, values).error is None
    values["canary"] = {"api": {"enabled": canary == "api"}, "consumers": {"enabled": canary == "consumers"}}
    assert "contract beside a canary" in str(render(region, values).error)


# ---- §3: replicas, strategy, scaling ----


@every_case
def test_replicas_and_strategy(chart: Chart, case: Case) -> None:
    workloads = chart[case].workloads()
    del workloads["billing-migrate"]
    for name, workload in workloads.items():
        strategy = workload["spec"]["strategy"]
        if workload["kind"] == "Rollout":
            assert (strategy["canary"]["maxSurge"], strategy["canary"]["maxUnavailable"]) == (1, 0)
        else:
            assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        fixed = 2 if "worker" in name else 3
        assert workload["spec"].get("replicas") == (fixed if case.scenario == "fixed" else None), (
            "with an autoscaler, a count here would be set again at every upgrade"
        )


@every_case
def test_each_workload_has_one_autoscaler_at_most(chart: Chart, case: Case) -> None:
    rendering = chart[case]
    scalers = rendering.of_kind("ScaledObject", "HorizontalPodAutoscaler")
    assert len({each["kind"] for each in scalers}) <= 1, "a ScaledObject makes an HPA of its own"
    targets = [each["spec"]["scaleTargetRef"] for each in scalers]
    workloads = {name: each for name, each in rendering.workloads().items() if name != "billing-migrate"}
    expected = set() if case.scenario == "fixed" else set(workloads)
    assert sorted(target["name"] for target in targets) == sorted(expected)
    for target in targets:
        workload = workloads[target["name"]]
        assert (target["apiVersion"], target["kind"]) == (workload["apiVersion"], workload["kind"])


@every_case
def test_bounds_of_scaling(chart: Chart, case: Case) -> None:
    for scaler in chart[case].of_kind("ScaledObject", "HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        keda = scaler["kind"] == "ScaledObject"
        found = (
            (spec["minReplicaCount"], spec["maxReplicaCount"]) if keda else (spec["minReplicas"], spec["maxReplicas"])
        )
        workload = WORKLOADS["worker" if scaler["metadata"]["name"] == "billing-worker" else "handlers"]
        assert found == (workload.min_replicas, workload.max_replicas)


def test_bounds_of_scaling_are_the_documents() -> None:
    """What `billing queues` shows is what the chart would do."""
    bounds = {name: (each.min_replicas, each.max_replicas) for name, each in WORKLOADS.items()}
    assert (bounds["handlers"], bounds["worker"]) == ((3, 10), (2, 6))


@keda_cases
def test_every_durable_has_exactly_one_trigger(chart: Chart, case: Case) -> None:
    scaled = chart[case].of_kind("ScaledObject")
    triggers = [
        (trigger["metadata"]["stream"], trigger["metadata"]["consumer"], each["metadata"]["name"])
        for each in scaled
        for trigger in each["spec"]["triggers"]
        if trigger["type"] == "nats-jetstream"
    ]
    expected = set(durable_configs()) - {(each.stream, each.durable) for each in CANARY}
    assert sorted((stream, consumer) for stream, consumer, _ in triggers) == sorted(expected)
    for stream, consumer, name in triggers:
        if stream == "BILLING_JOBS" or consumer in (FHIR, FHIR_REPLAY):
            assert name == "billing-worker"
        else:
            group = consumer.removesuffix("-replay")
            assert name == (f"billing-handlers-{group}" if case.scenario == "per-group" else "billing-handlers")


def lag_of(metadata: dict[str, str]) -> int:
    """What the code's own scaling rule has for a trigger's durable."""
    stream, durable = metadata["stream"], metadata["consumer"]
    lags: dict[Queue, int] = {}
    for workload in WORKLOADS.values():
        lags |= workload.lag_per_replica
    (found,) = {lag for queue, lag in lags.items() if (queue.stream, queue.durable) == (stream, durable)}
    return found


@keda_cases
def test_triggers_are_as_keda_wants_them(chart: Chart, case: Case) -> None:
    assert len(chart[case].of_kind("ScaledObject")) == (7 if case.scenario == "per-group" else 3)
    for scaled in chart[case].of_kind("ScaledObject"):
        names = [trigger["name"] for trigger in scaled["spec"]["triggers"]]
        assert len(names) == len(set(names))
        for trigger in scaled["spec"]["triggers"]:
            assert all(isinstance(value, str) for value in trigger["metadata"].values()), trigger
            if trigger["type"] == "nats-jetstream":
                assert int(trigger["metadata"]["lagThreshold"]) == lag_of(trigger["metadata"])
                assert "headless" in trigger["metadata"]["natsServerMonitoringEndpoint"]


@every_case
def test_api_scales_on_cpu_and_request_rate(chart: Chart, case: Case) -> None:
    rendering = chart[case]
    if case.scenario == "fixed":
        assert rendering.of_kind("ScaledObject", "HorizontalPodAutoscaler") == []
        return
    if case.scenario == "hpa":
        cpu, rate = rendering.named("HorizontalPodAutoscaler", "billing-api")["spec"]["metrics"]
        assert cpu["resource"]["target"]["averageUtilization"] == 60
        assert rate["pods"]["metric"]["name"] == "billing_http_requests_per_second"
        return
    cpu, rate = rendering.named("ScaledObject", "billing-api")["spec"]["triggers"]
    assert (cpu["type"], cpu["metricType"], cpu["metadata"]["value"]) == ("cpu", "Utilization", "60")
    assert rate["type"] == "prometheus"
    assert rate["metadata"]["query"] == f'sum(rate(billing_http_requests_total{{namespace="{NAMESPACE}"}}[2m]))'
    assert rate["metadata"]["ignoreNullValues"] == "false"
    (container,) = rendering.workloads()["billing-api"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"], "utilization is a share of the request"


@every_case
def test_budgets_and_spread(chart: Chart, case: Case) -> None:
    rendering = chart[case]
    budgets = [each["spec"] for each in rendering.of_kind("PodDisruptionBudget")]
    for name, workload in rendering.workloads().items():
        template = workload["spec"]["template"]
        labels = template["metadata"]["labels"].items()
        covering = [each for each in budgets if each["selector"]["matchLabels"].items() <= labels]
        spread = template["spec"].get("topologySpreadConstraints", [])
        if name == "billing-migrate":
            assert (covering, spread) == ([], [])
            continue
        assert [each["maxUnavailable"] for each in covering] == [1], name
        assert {each["topologyKey"] for each in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        assert all(each["labelSelector"]["matchLabels"].items() <= labels for each in spread)


# ---- §4: ports, probes, draining, network ----


@every_case
def test_ports_and_probes(chart: Chart, case: Case) -> None:
    for _, role, pod in chart[case].pods():
        (container,) = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        if role == "migrate":
            assert ports == {}
            continue
        assert ports == {"metrics": 9464} | ({"http": 3035} if role == "api" else {})
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
            assert container[probe]["timeoutSeconds"] > 2, "one check of the service may take 2 s"
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] > 60  # importing takes 2 s, NATS may take 30
    service = chart[case].named("Service", "billing-api")
    assert [port["port"] for port in service["spec"]["ports"]] == [3035]


@every_case
def test_grace_covers_pre_stop_and_drain(chart: Chart, case: Case) -> None:
    for name, role, pod in chart[case].pods():
        (container,) = pod["containers"]
        pre_stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = int(environment(pod)["SHUTDOWN_GRACE_SECONDS"])
        # run_role: 2 s over the grace, 2 s for a cancellation; the tracer's last export: 5 s.
        assert pod["terminationGracePeriodSeconds"] >= pre_stop + drain + 2 + 2 + 5, name
        assert (pre_stop > 0) == (role == "api"), "Kong must have taken the pod off its list before it stops listening"


@every_case
def test_ingress_is_kongs_and_prometheus(chart: Chart, case: Case) -> None:
    kinds = {"fixed": set(), "hpa": {"CiliumNetworkPolicy"}}.get(
        case.scenario, {"CiliumNetworkPolicy"} if case.region == "are" else {"NetworkPolicy"}
    )
    policies = chart[case].of_kind("NetworkPolicy", "CiliumNetworkPolicy")
    assert {each["kind"] for each in policies} == kinds
    assert {each["metadata"]["name"] for each in policies} == (
        {f"billing-{role}" for role in ROLES} if kinds else set()
    )
    for each in policies:
        role = each["metadata"]["name"].removeprefix("billing-")
        wanted = {"api": {"3035", "9464"}, "migrate": set()}.get(role, {"9464"})
        assert _ports(each["spec"]["ingress"]) == wanted


ALLOWED = {
    "api": {"53", "4222", "443", "4318"},
    "handlers": {"53", "4222", "5432", "443", "4318"},
    "worker": {"53", "4222", "5432", "443", "4318"},
    "migrate": {"53", "4222", "5432"},
}


@every_case
def test_egress_is_an_allowlist(chart: Chart, case: Case) -> None:
    for policy in chart[case].of_kind("NetworkPolicy", "CiliumNetworkPolicy"):
        role = policy["metadata"]["name"].removeprefix("billing-")
        rules = policy["spec"]["egress"]
        assert _ports(rules) - {"6379"} == ALLOWED[role], policy["metadata"]["name"]
        for rule in rules:
            peers = rule.get("to") or [rule]
            assert peers, "a rule without peers allows everywhere"
            for peer in peers:
                assert peer.keys() & {"namespaceSelector", "ipBlock", "toEndpoints", "toCIDR", "toFQDNs"}, rule
                assert "podSelector" not in peer or "namespaceSelector" in peer
        if case.scenario == "hpa" or policy["kind"] == "CiliumNetworkPolicy":
            continue
        spaces = {peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for rule in rules
                  for peer in rule["to"] if "namespaceSelector" in peer}  # fmt: skip
        neighbours = {"tenant-service", "terminology-service", "interop-service", "ai-gateway-service"}
        asked = {"handlers": neighbours, "worker": neighbours - {"ai-gateway-service"}}.get(role, set())
        assert spaces & neighbours == asked


@every_region
@pytest.mark.parametrize("key", ["cidrs", "fqdns"])
def test_the_allowlist_cannot_say_everywhere(region: str, key: str) -> None:
    everywhere = {"cidrs": ["0.0.0.0/0"], "fqdns": ["*"]}[key]
    values = {"image": {"tag": TAG}, "networkPolicy": {"egress": {"payment-gateway": {key: everywhere}}}}
    assert f"payment-gateway/{key}" in str(render(region, values).error)


def test_payment_hosts_of_cilium_are_names() -> None:
    rendering = render("are", {"image": {"tag": TAG}}, scenario="per-group")
    rules = rendering.named("CiliumNetworkPolicy", "billing-worker")["spec"]["egress"]
    names = [name for rule in rules for name in rule.get("toFQDNs", [])]
    assert {"matchName": "api.gateway.example"} in names
    assert {"matchPattern": "*.gateway.example"} in names


@every_case
def test_mesh_speaks_mtls(chart: Chart, case: Case) -> None:
    provider = {"hpa": "istio", "fixed": "none"}.get(case.scenario, "linkerd")
    for _, role, pod in _templates(chart, case):
        annotations, labels = pod["metadata"]["annotations"], pod["metadata"]["labels"]
        if role == "migrate":
            assert annotations["linkerd.io/inject"] == "disabled"
        elif provider == "linkerd":
            assert annotations["linkerd.io/inject"] == "enabled"
            assert annotations["config.linkerd.io/default-inbound-policy"] == "all-authenticated"
        assert ("sidecar.istio.io/inject" in labels) == (provider == "istio")
    strict = [each["spec"]["mtls"]["mode"] for each in chart[case].of_kind("PeerAuthentication")]
    assert strict == (["STRICT"] if provider == "istio" else [])


# ---- Kong ----


@every_case
def test_no_public_route_without_the_jwt_plugin(chart: Chart, case: Case) -> None:
    rendering = chart[case]
    routes = rendering.of_kind("HTTPRoute", "Ingress", "TCPIngress", "GRPCRoute", "TCPRoute", "VirtualService")
    plugin = rendering.named("KongPlugin", "billing-jwt")
    assert plugin["plugin"] == "jwt"
    assert plugin["config"]["uri_param_names"] == []
    assert plugin["config"]["claims_to_verify"] == ["exp", "nbf"]
    assert "anonymous" not in plugin["config"], "it would let requests without a token pass"
    assert routes
    for route in routes:
        plugins = route["metadata"]["annotations"]["konghq.com/plugins"].split(",")
        # Payment gateways have no token: the shim verifies their signatures.
        assert ("billing-jwt" in plugins) == (route["metadata"]["name"] != "billing-api-webhooks")
        assert "billing-size" in plugins
    assert {each["spec"].get("type", "ClusterIP") for each in rendering.of_kind("Service")} == {"ClusterIP"}


@every_case
def test_every_route_of_the_shim_is_reachable_and_no_other(chart: Chart, case: Case) -> None:
    public = [
        (match["method"], match["path"]["value"])
        for route in chart[case].of_kind("HTTPRoute")
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    ]
    prefix = [f"/v1/{route.path.split('/')[2]}" for route in ROUTES]
    assert sorted(set(public)) == sorted(public)
    routes = {(route.method, path) for route, path in zip(ROUTES, prefix, strict=True)}
    assert set(public) == routes | {("POST", "/v1/webhooks")}


# ---- §5, §7, §8: settings and secrets ----


@every_case
@pytest.mark.parametrize("role", ROLES)
def test_the_service_accepts_the_pods_environment(
    chart: Chart, case: Case, role: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The settings are loaded as the role loads them, from what the pod would see."""
    for name in {field.upper() for group in settings.GROUPS for field in group.model_fields}:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name + "_FILE", raising=False)
    known = {field.upper() for group in GROUPS_OF_ROLE[role] for field in group.model_fields}
    for _, of, pod in chart[case].pods():
        if of != role:
            continue
        variables = environment(pod)
        for name, value in variables.items():
            monkeypatch.setenv(name, _mounted(name, value, pod, tmp_path))
        for group in GROUPS_OF_ROLE[role]:
            settings.load(group)
        unknown = {name for name in variables if name.removesuffix("_FILE") not in known and name not in known}
        assert not {name for name in unknown if not FOREIGN.fullmatch(name)}, "a variable nothing reads is a mistake"


def _mounted(name: str, value: str, pod: dict[str, Any], tmp_path: Path) -> str:
    """A path that is below a mounted Secret becomes a file with plausible content; others fail here."""
    if not value.startswith("/"):
        return value
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    directory, file = (value, "") if value in mounts else value.rsplit("/", 1)
    assert directory in mounts, f"{name} names a file that is not mounted"
    assert "subPath" not in mounts[directory], "a subPath mount never sees a rotation"
    assert mounts[directory]["readOnly"] is True
    local = tmp_path / directory.lstrip("/")
    local.mkdir(parents=True, exist_ok=True)
    content = (
        "postgresql://u:p@db:5432/billing" if "DATABASE" in file else "rediss://r:6379" if "REDIS" in file else "x"
    )
    if file:
        (local / file).write_text(content)
    return str(local / file)


@every_case
def test_critical_variables_of_the_document(chart: Chart, case: Case) -> None:
    critical = {
        "DATABASE_URL_FILE": {"handlers", "worker", "migrate"},
        "NATS_URL": set(ROLES),
        "NATS_CREDS": set(ROLES),
        "JWKS_URL": {"api"},
        "TENANT_SERVICE_URL": {"handlers", "worker"},
        "TERMINOLOGY_SERVICE_URL": {"handlers", "worker"},
        "FHIR_GATEWAY_URL": {"worker"},
        "OBJECT_STORE_BUCKET": {"handlers", "worker"},
        "OTEL_EXPORTER_OTLP_ENDPOINT": {"api", "handlers", "worker"},
    }
    for variable, roles in critical.items():
        assert {role for _, role, pod in chart[case].pods() if variable in environment(pod)} == roles, variable
    for _, role, pod in chart[case].pods():
        if role != "api":
            assert environment(pod)["DATABASE_POOL_SIZE"] == "20"
        assert environment(pod)["NATS_REPLICAS"] == "3"


@every_case
def test_secrets_come_from_vault_and_are_in_no_manifest(chart: Chart, case: Case) -> None:
    rendering = chart[case]
    assert rendering.of_kind("Secret") == []
    external = rendering.of_kind("ExternalSecret")
    made = {each["spec"]["target"]["name"] for each in external}
    certificates = {each["spec"]["secretName"] for each in rendering.of_kind("Certificate")}
    mounted = {
        volume["secret"]["secretName"]
        for _, _, pod in rendering.pods()
        for volume in pod["volumes"]
        if "secret" in volume
    }
    if case.scenario == "fixed":
        assert external == []
        assert mounted > certificates
    else:
        assert mounted == (made | certificates) - {"billing-kong-issuer"}
    for _, _, pod in rendering.pods():
        for name, value in environment(pod).items():
            secret = re.search(r"PASSWORD|SECRET|CREDS|API_KEY|DATABASE.*URL|REDIS", name)
            assert not secret or value.startswith("/var/run/secrets/billing/"), f"{name} is not a file"
            assert "@" not in value or "secrets" in value, f"{name} may carry a password"


@every_case
def test_rotation(chart: Chart, case: Case) -> None:
    for each in chart[case].of_kind("ExternalSecret"):
        kind = each["metadata"]["name"].removeprefix("billing-").split("-", 1)[1]
        wanted = {"payment-gateways": "30d", "issuer": "with the issuer's signing key"}.get(kind, "90d")
        assert each["metadata"]["annotations"]["billing/rotation"] == wanted
    for each in chart[case].of_kind("Certificate"):
        assert each["spec"]["duration"] == "2160h"  # 90 days
        assert each["spec"]["privateKey"]["rotationPolicy"] == "Always"
        assert "client auth" in each["spec"]["usages"]


def test_each_tenants_gateway_key_is_a_file_in_one_directory() -> None:
    """The worker has the API keys, the shim the webhook secrets, neither the other's."""
    rendering = render("afg", {"image": {"tag": TAG}}, scenario="per-group")
    tenants = ("kabul-central", "Dubai_Marina")
    for role, prefix in (("worker", "PAYMENT_GATEWAY_API_KEY_"), ("api", "PAYMENT_GATEWAY_WEBHOOK_SECRET_")):
        pod = rendering.workloads()[f"billing-{role}"]["spec"]["template"]["spec"]
        assert environment(pod)["SECRETS_DIR"] == "/var/run/secrets/billing/payment-gateways"
        data = rendering.named("ExternalSecret", f"billing-{role}-payment-gateways")["spec"]["data"]
        assert {each["secretKey"] for each in data} == {prefix + tenant for tenant in tenants}
    worker = rendering.workloads()["billing-worker"]["spec"]["template"]["spec"]
    hosts = environment(worker)["GATEWAY_ALLOWED_HOSTS"].split(",")
    assert set(parse_allowlist(hosts)) == {("api.stripe.com", 443), ("bridge.bank.example", 8443)}


@every_case
def test_mtls_certificates_of_each_role(chart: Chart, case: Case) -> None:
    found = {each["metadata"]["name"] for each in chart[case].of_kind("Certificate")}
    services = {f"billing-{role}-services" for role in ("handlers", "worker")} if case.scenario != "fixed" else set()
    assert found == (
        {f"billing-{role}-nats" for role in ROLES}
        | {f"billing-{role}-postgresql" for role in ("handlers", "worker", "migrate")}
        | services
    )
    for _, role, pod in chart[case].pods():
        variables = environment(pod)
        assert all(url.startswith("tls://") for url in variables["NATS_URL"].split(","))
        assert len(variables["NATS_URL"].split(",")) == 3, "a three-node cluster"
        assert (variables.get("PGSSLMODE") == "verify-full") == (role != "api")


# ---- §6: regions ----


@every_case
def test_everything_is_of_one_region(chart: Chart, case: Case) -> None:
    own, other = {"afg": ("af-kabul-1", "ae-dubai-1"), "are": ("ae-dubai-1", "af-kabul-1")}[case.region]
    text = json.dumps(chart[case].objects)
    assert other not in text
    for _, _, pod in chart[case].pods():
        variables = environment(pod)
        assert variables["REGION"] == own
        assert variables["COUNTRY_PROFILE"] == case.region.upper()
        for name in ("NATS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "OBJECT_STORE_BUCKET"):
            assert own in variables.get(name, own), name
        terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert terms[0]["matchExpressions"][0]["key"] == "topology.kubernetes.io/region"
    stores = {each["spec"]["secretStoreRef"]["name"] for each in chart[case].of_kind("ExternalSecret")}
    assert stores <= {f"vault-{own}"}


def test_no_default_region() -> None:
    error = str(render(None, {"image": {"tag": TAG}}).error)
    for missing in (
        "/region/name",
        "/region/countryProfile",
        "/objectStore/bucket",
        "/nats/url",
        "/telemetry/otlpEndpoint",
    ):
        assert missing in error, error


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({}, "/image/tag"),
        ({"image": {"tag": TAG}, "nats": {"url": "nats://a:4222"}}, "/nats/url"),
        ({"image": {"tag": TAG}, "nats": {"url": "tls://u:p@a:4222,tls://b:4222,tls://c:4222"}}, "/nats/url"),
        ({"image": {"tag": TAG}, "nats": {"replicas": 1}}, "/nats/replicas"),
        ({"image": {"tag": TAG}, "env": {"DATABASE_URL": "postgresql://u:p@db/billing"}}, "'DATABASE_URL'"),
        ({"image": {"tag": TAG}, "worker": {"env": {"STRIPE_API_KEY": "x"}}}, "'STRIPE_API_KEY'"),
        ({"image": {"tag": TAG}, "regoin": {}}, "regoin"),
        ({"image": {"tag": TAG}, "canary": {"api": {"weight": 100}}}, "/canary/api/weight"),
        ({"image": {"tag": TAG}, "kong": {"enabled": False}}, "canary.api needs kong.enabled"),
        ({"image": {"tag": TAG}, "kong": {"hostnames": []}}, "kong.hostnames"),
    ],
)
def test_values_that_cannot_be_right_are_refused(values: dict[str, Any], named: str) -> None:
    assert named in str(render("afg", values).error)


# ---- security ----


@every_case
def test_pods_are_confined(chart: Chart, case: Case) -> None:
    for _, _, pod in chart[case].pods():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001  # the image's user, by number
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert container["resources"]["limits"]["memory"]
        assert not re.search(r":latest$|:$", container["image"])
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
        assert all(volume.keys() & {"secret", "emptyDir"} for volume in pod["volumes"])


# ---- telemetry ----


@every_case
def test_prometheus_scrapes_every_role(chart: Chart, case: Case) -> None:
    monitors = chart[case].of_kind("PodMonitor")
    if case.scenario == "fixed":
        assert monitors == []
        return
    (monitor,) = monitors
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")
    for _, role, template in _templates(chart, case):
        labels = template["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        scraped = labels["billing/role"] in monitor["spec"]["selector"]["matchExpressions"][0]["values"]
        assert scraped == (role != "migrate")


@every_region
def test_rules_and_dashboards_are_picked_up(region: str) -> None:
    rendering = render(region, {"image": {"tag": TAG}})
    rules = sorted(path.name for path in (CHART / "rules").glob("*.yaml"))
    dashboards = sorted(path.name for path in (CHART / "dashboards").glob("*.json"))
    assert len(rendering.of_kind("PrometheusRule")) == bool(rules)
    maps = [each for each in rendering.of_kind("ConfigMap") if "dashboard" in each["metadata"]["name"]]
    assert sorted(name for each in maps for name in each["data"]) == dashboards
    for each in maps:
        for text in each["data"].values():
            json.loads(text)


# ---- §9: canary ----


@every_region
def test_canary_is_five_percent_for_thirty_minutes(region: str) -> None:
    rendering = render(region, {"image": {"tag": TAG}})
    rollout = rendering.named("Rollout", "billing-api")
    strategy = rollout["spec"]["strategy"]["canary"]
    assert strategy["steps"][:2] == [{"setWeight": 5}, {"pause": {"duration": "30m"}}]
    assert strategy["steps"][2]["analysis"]["templates"] == [{"templateName": "billing-api-canary-verdict"}]
    assert len(strategy["steps"]) == 3
    assert strategy["analysis"]["templates"] == [{"templateName": "billing-api-canary-watch"}]
    routed = {each["name"] for each in strategy["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"]["httpRoutes"]}
    routes = {each["metadata"]["name"]: each for each in rendering.of_kind("HTTPRoute")}
    assert routed == set(routes), "a route that is not split would send the canary nothing"
    services = {each["metadata"]["name"] for each in rendering.of_kind("Service")}
    for route in routes.values():
        (rule,) = route["spec"]["rules"]
        assert [each["name"] for each in rule["backendRefs"]] == [strategy["stableService"], strategy["canaryService"]]
        assert {each["name"] for each in rule["backendRefs"]} <= services


@every_region
@pytest.mark.parametrize("kind", ["watch", "verdict"])
def test_analysis_asks_what_the_command_line_asks(region: str, kind: str) -> None:
    template = render(region, {"image": {"tag": TAG}}).named("AnalysisTemplate", f"billing-api-canary-{kind}")
    selection = Selection(
        scope=f'namespace="{NAMESPACE}"',
        api='app_kubernetes_io_component="api",rollouts_pod_template_hash="{{args.canary-hash}}"',
        handlers='app_kubernetes_io_component=~"handlers.*"',
        window="30m",
    )
    found = {metric["name"]: metric for metric in template["spec"]["metrics"]}
    triggers = load_triggers()
    assert list(found) == [trigger.name.replace("_", "-") for trigger in triggers]
    for trigger in triggers:
        metric = found[trigger.name.replace("_", "-")]
        assert metric["provider"]["prometheus"]["query"] == selection.fill(trigger.query, trigger)
        sign, pass_sign = ("<", ">=") if trigger.breached == "below" else (">", "<=")
        judged = "len(result) > 0 && !isNaN(result[0]) && result[0]"
        assert metric["failureCondition"] == f"{judged} {sign} {trigger.limit:g}"
        assert metric["successCondition"] == f"{judged} {pass_sign} {trigger.limit:g}"
        assert metric["failureLimit"] == 0
        # The watch waits for samples; the verdict without samples stops the rollout.
        assert metric["inconclusiveLimit"] == (10000 if kind == "watch" else 0)


def test_triggers_are_the_documents() -> None:
    assert [(each.name, each.breached, each.limit) for each in load_triggers()] == [
        ("availability", "below", 0.995),
        ("payment_latency_p95", "above", 3),
        ("ledger_integrity", "above", 0),
        ("error_rate", "above", 0.02),
    ]


def test_nats_permissions_are_the_codes() -> None:
    from tools.stack.nats_permissions import ROLES as GRANTED

    data = render("afg", {"image": {"tag": TAG}}).named("ConfigMap", "billing-nats")["data"]
    assert json.loads(data["permissions.json"]) == {
        role: {key: list(value) for key, value in granted._asdict().items()} for role, granted in GRANTED.items()
    }


def test_notes_say_where_and_how() -> None:
    notes = render("are", {"image": {"tag": TAG}}).notes
    for told in ("ae-dubai-1", "billing canary check --prometheus", "5 % for 30 minutes", "phase expand"):
        assert told in notes, notes


def _ports(rules: list[dict[str, Any]]) -> set[str]:
    """Port numbers of both flavours' rules."""
    kubernetes = {str(port["port"]) for rule in rules for port in rule.get("ports", [])}
    cilium = {port["port"] for rule in rules for to in rule.get("toPorts", []) for port in to["ports"]}
    return kubernetes | cilium


def _templates(chart: Chart, case: Case) -> list[tuple[str, str, dict[str, Any]]]:
    found = []
    for name, workload in chart[case].workloads().items():
        template = workload["spec"]["template"]
        found.append((name, template["metadata"]["labels"]["billing/role"], template))
    return found
