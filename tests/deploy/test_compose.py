"""compose.yaml as docker-compose reads it, and what `init` makes for it, as the servers read that."""

import asyncio
import json
import re
import shutil
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from nats import errors as nats_errors
from nats.aio.client import Client

from adapters import settings
from adapters.nats.connection import connect
from adapters.nats.topology import TopologyError, reconcile
from gateway_shim.routes import ROUTES
from tests.deploy.chart import DEPLOY_BIN
from tests.deploy.test_chart import GROUPS_OF_ROLE
from tools.deploy import compose_init, compose_sandbox, kong_config
from tools.sandbox.issuer import Keys
from tools.stack.paths import PROJECT_ROOT, binary
from tools.stack.ports import free_ports

ROLES = ("api", "handlers", "worker", "migrate")
PROFILES = ("edge", "obs", "replica", "s3")
CORE = {"init", "nats-1", "nats-2", "nats-3", "postgres", "migrate", "api", "handlers", "worker", "sandbox"}
OF_PROFILE = {
    "edge": {"kong-config", "kong"},
    "obs": {"otel-collector", "tempo", "loki", "prometheus", "grafana"},
    "replica": {"postgres-replica"},
    "s3": {"seaweedfs"},
}
ENDS_BY_ITSELF = {"init", "migrate", "kong-config"}
NO_SHELL = {"tempo", "loki", "otel-collector"}  # their images have nothing to check with
OWN = {*ROLES, "sandbox"}  # healthy by the image's own HEALTHCHECK, or by theirs
# Compose adds its own variables of the process that runs it.
_ENV = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def _compose(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(DEPLOY_BIN / "docker-compose"), *arguments]
    return subprocess.run(command, cwd=PROJECT_ROOT, env=_ENV, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    """All profiles, resolved."""
    result = _compose("--env-file", "deploy/all.env", "config", "--format", "json")
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.mark.parametrize("profile", ["", *PROFILES])
def test_config_is_accepted_for_each_profile(profile: str) -> None:
    chosen = ("--profile", profile) if profile else ()
    quiet = _compose(*chosen, "config", "-q")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", ""), "a variable without a value is a warning"
    services = set(_compose(*chosen, "config", "--services").stdout.split())
    assert services == CORE | OF_PROFILE.get(profile, set())


def test_all_env_is_everything(everything: dict[str, Any]) -> None:
    assert set(everything["services"]) == CORE.union(*OF_PROFILE.values())


def test_a_mistake_is_noticed(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text((PROJECT_ROOT / "compose.yaml").read_text().replace("healthcheck: {test", "healtcheck: {test", 1))
    assert _compose("-f", str(broken), "config", "-q").returncode != 0


def test_ports_are_published_on_loopback_only(everything: dict[str, Any]) -> None:
    ports = [port for service in everything["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {int(port["published"]) for port in ports} >= {3035, 4222, 5432, 8000, 3000, 9090}
    assert all(service.get("network_mode") in (None, "none") for service in everything["services"].values())


def test_every_service_that_stays_is_watched(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        checked = bool(service.get("healthcheck", {}).get("test"))
        if name in ENDS_BY_ITSELF:
            assert service.get("restart", "no") == "no"
        elif name in OWN - {"sandbox"}:
            assert not checked, "the image's own check asks /livez"
        else:
            assert checked != (name in NO_SHELL), name


def test_start_order(everything: dict[str, Any]) -> None:
    services = everything["services"]
    conditions = {name: {on: each["condition"] for on, each in service.get("depends_on", {}).items()} for name, service in
                  services.items()}  # fmt: skip
    servers = {"postgres", "nats-1", "nats-2", "nats-3"}
    assert conditions["migrate"] == dict.fromkeys(servers, "service_healthy")
    for role in ("api", "handlers", "worker"):
        assert conditions[role]["migrate"] == "service_completed_successfully"
    for name in ("postgres", "nats-1", "sandbox"):
        assert conditions[name]["init"] == "service_completed_successfully"
    assert services["handlers"]["depends_on"]["seaweedfs"]["required"] is False


def test_images_are_pinned_and_confined(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        assert re.fullmatch(r"[a-z0-9./-]+:(?!latest)[A-Za-z0-9._-]+", service["image"]), name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged")
        if name in OWN:
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert "user" not in service
    images = {service["image"] for name, service in everything["services"].items() if name in {*OWN, "init"}}
    assert len(images) == 1, "one image for all roles"


def test_no_secret_is_in_the_file(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|API_KEY|_URL|CREDS", variable) and value:
                assert variable.endswith("_FILE") or "@" not in value, f"{name}: {variable}"
                assert not re.search(r"PASSWORD|SECRET|CREDS", variable) or variable.endswith("_FILE"), (
                    f"{name}: {variable}"
                )


def test_each_role_sees_its_own_secrets_only(everything: dict[str, Any]) -> None:
    for name, service in everything["services"].items():
        mounted = {each["source"]: each for each in service.get("volumes", []) if each["source"].startswith("secrets-")}
        if name == "init":
            continue
        own = f"secrets-{'nats' if name.startswith('nats') else name}"
        assert set(mounted) <= {own} | ({"secrets-sandbox"} if name in ("handlers", "worker") else set()), name
        assert all(each.get("read_only") for source, each in mounted.items() if name != "sandbox"), name


# ---- what init makes ----


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("secrets")
    compose_init.main(directory)
    return directory


def test_private_files_are_private_and_kept(made: Path) -> None:
    private = [path for path in made.rglob("*") if path.is_file() and path.suffix != ".crt"]
    assert len(private) > 20
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    before = {path: path.read_text() for path in private if path.suffix != ".key"}
    authority = (made / "nats" / "ca.crt").read_text()
    compose_init.main(made)
    assert {path: path.read_text() for path in before} == before, "servers keep passwords, so they must not change"
    assert (made / "nats" / "ca.crt").read_text() == authority


def test_nats_servers_accept_their_configuration(made: Path, tmp_path: Path) -> None:
    for server in compose_init.NATS_SERVERS:
        text = (made / "nats" / f"{server}.conf").read_text().replace("/run/billing", str(made / "nats"))
        (tmp_path / server).write_text(text)
        result = subprocess.run(
            [binary("nats-server"), "-t", "--config", tmp_path / server], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        document = json.loads(text)
        assert document["tls"]["verify"] is document["cluster"]["tls"]["verify"] is True, "mTLS, also between servers"
        assert len(document["cluster"]["routes"]) == 3
        users = {user["user"] for user in document["accounts"]["BILLING"]["users"]}
        assert users >= set(compose_init.NATS_USERS.values())


def test_database_roles_have_no_privilege(made: Path) -> None:
    sql = (made / "postgres" / "roles.sql").read_text()
    for role in compose_init.DATABASE_ROLES:
        assert f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS" in sql
    rules = (made / "postgres" / "pg_hba.conf").read_text().splitlines()
    assert all(rule.startswith(("hostssl", "local")) for rule in rules), "nothing without TLS"
    assert all("clientcert=verify-ca" in rule for rule in rules if rule.startswith("hostssl"))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("full", [False, True], ids=["core", "everything"])
def test_roles_accept_their_environment(
    made: Path, tmp_path: Path, role: str, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--env-file", "deploy/all.env") if full else ()
    document = json.loads(_compose(*arguments, "config", "--format", "json").stdout)
    for name in {field.upper() for group in settings.GROUPS for field in group.model_fields}:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name + "_FILE", raising=False)
    for file in ("ca.crt", "client.crt", "client.key"):
        (tmp_path / file).write_text("made by the sandbox when it starts")
    for name, value in document["services"][role]["environment"].items():
        here = (value or "").replace("/run/billing", str(made / role)).replace("/run/sandbox", str(tmp_path))
        monkeypatch.setenv(name, here)
    for group in GROUPS_OF_ROLE[role]:
        if group is settings.ObjectStoreSettings:
            assert (settings.load_objects() is not None) == full
        else:
            settings.load(group)
    if role != "api":
        database = settings.load(settings.DatabaseSettings)
        assert (database.database_read_url is not None) == (full and role != "migrate")


# ---- sandbox, Kong, Prometheus ----


async def test_sandbox_is_reached_by_its_compose_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tools.sandbox.listener as listening

    monkeypatch.setattr(listening, "HOST", "127.0.0.1")  # serve() sets it; put back at the end
    ports = free_ports(len(compose_sandbox.PORTS) + 1)
    monkeypatch.setattr(compose_sandbox, "PORTS", dict(zip(compose_sandbox.PORTS, ports, strict=False)))
    monkeypatch.setattr(compose_sandbox, "ADMIN_PORT", ports[-1])
    stop = asyncio.Event()
    serving = asyncio.create_task(compose_sandbox.serve(tmp_path, stop))
    try:
        answer = await _ask(compose_sandbox.PORTS["tenant-service"], tmp_path, "/tenants/kabul-central")
        assert '"region":"af-kabul-1"' in answer.replace(" ", "")
    finally:
        stop.set()
        await serving


async def _ask(port: int, directory: Path, path: str) -> str:
    """GET over mTLS, as soon as the sandbox listens; the certificate has to be for its compose name."""
    async with asyncio.timeout(20):
        reader, writer = await _connected(port, directory)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
    return answer


async def _connected(port: int, directory: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            context = ssl.create_default_context(cafile=directory / "ca.crt")
            context.load_cert_chain(directory / "client.crt", directory / "client.key")
            return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=compose_sandbox.HOST)
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.sleep(0.02)


def test_each_of_kongs_routes_verifies_the_token() -> None:
    document = kong_config.declarative(
        "http://sandbox:8080", kong_config.signing_key(Keys("http://sandbox:8080").document())
    )
    (service,) = document["services"]
    *routes, webhooks = service["routes"]
    assert [route["name"] for route in routes] == [route.name for route in ROUTES]
    assert webhooks["paths"] == ["~/v1/webhooks/(?<adapter>[^/]+)/(?<tenant>[^/]+)$"]
    assert webhooks["plugins"] == [], "payment gateways have no token: the shim verifies their signatures"
    for route in routes:
        (plugin,) = [each for each in route["plugins"] if each["name"] == "jwt"]
        assert plugin["config"]["uri_param_names"] == []
        assert plugin["config"]["claims_to_verify"] == ["exp", "nbf"]
        assert "anonymous" not in plugin["config"]
    (credential,) = document["consumers"][0]["jwt_secrets"]
    assert credential["rsa_public_key"].startswith("-----BEGIN PUBLIC KEY-----")
    assert "PRIVATE" not in json.dumps(document)


def test_kongs_paths_match_the_shims_and_no_longer_ones() -> None:
    document = kong_config.declarative("issuer", "pem")
    patterns = {route["name"]: route["paths"][0] for route in document["services"][0]["routes"]}
    for route in ROUTES:
        pattern = patterns[route.name].removeprefix("~").replace("(?<", "(?P<")
        path = re.sub(r"\{\w+\}", "0198c0de-0000-7000-8000-000000000001", route.path)
        assert re.match(pattern, path)
        assert not re.match(pattern, path + "/x")


def test_an_issuer_without_a_key_for_kong_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ES256 key"):
        kong_config.signing_key({"keys": [{"kty": "RSA"}]})


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package `prometheus` is not installed")
def test_prometheus_accepts_its_configuration() -> None:
    config = PROJECT_ROOT / "deploy" / "prometheus" / "prometheus.yml"
    result = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    rules = sorted((PROJECT_ROOT / "charts" / "billing" / "rules").glob("*.yaml"))
    if rules:
        result = subprocess.run(["promtool", "check", "rules", *rules], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_yaml_is_well_formed_without_repeated_keys() -> None:
    rules = "{extends: relaxed, rules: {line-length: disable, key-duplicates: enable}}"
    paths = ["compose.yaml", "deploy", "charts/billing/values.yaml", "charts/billing/values-afg.yaml",
             "charts/billing/values-are.yaml", "charts/billing/ci"]  # fmt: skip
    result = subprocess.run(
        [DEPLOY_BIN / "yamllint", "--strict", "-d", rules, *paths],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


# ---- the three NATS servers, for real ----


async def test_nats_runs_as_a_cluster_with_mtls_and_three_replicas(made: Path, tmp_path: Path) -> None:
    """compose's own configurations on loopback: only addresses and paths differ."""
    servers, client = _cluster(made, tmp_path)
    try:
        passwords = json.loads((made / "init" / "kept.json").read_text())["passwords"]
        context = ssl.create_default_context(cafile=made / "migrate" / "ca.crt")
        context.load_cert_chain(made / "migrate" / "client.crt", made / "migrate" / "client.key")
        urls = [f"tls://admin:{passwords['admin']}@127.0.0.1:{port}" for port in client]
        async with asyncio.timeout(90):
            connection = await connect(urls, tls=context, name="check")
            try:
                await _reconciled(connection)
                info = await connection.jetstream().stream_info("BILLING_COMMANDS")
            finally:
                await connection.close()
        assert info.cluster is not None
        assert {info.cluster.leader, *(peer.name for peer in info.cluster.replicas or [])} == set(
            compose_init.NATS_SERVERS
        )
        stranger = ssl.create_default_context(cafile=made / "migrate" / "ca.crt")
        assert not await _greets(client[0], stranger), "a client without a certificate is not let in"
        assert await _greets(client[0], context)
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(timeout=20)


def _cluster(made: Path, directory: Path) -> tuple[list["subprocess.Popen[bytes]"], list[int]]:
    """The three servers, started, and their client ports."""
    ports = free_ports(9)
    client, monitoring, routes = ports[:3], ports[3:6], ports[6:]
    servers = []
    for at, name in enumerate(compose_init.NATS_SERVERS):
        config = json.loads((made / "nats" / f"{name}.conf").read_text().replace("/run/billing", str(made / "nats")))
        config |= {"listen": f"127.0.0.1:{client[at]}", "http": f"127.0.0.1:{monitoring[at]}"}
        config["jetstream"]["store_dir"] = str(directory / name)
        peers = [f"tls://127.0.0.1:{port}" for port in routes]
        config["cluster"] |= {"listen": f"127.0.0.1:{routes[at]}", "routes": peers}
        file = directory / f"{name}.conf"
        file.write_text(json.dumps(config))
        servers.append(subprocess.Popen([binary("nats-server"), "--config", file, "--log", directory / f"{name}.log"]))
    return servers, client


async def _reconciled(connection: Client) -> None:
    """Until the cluster has a leader, JetStream answers nothing or with an error."""
    while True:
        try:
            await reconcile(connection, replicas=3)
            return
        except (TimeoutError, nats_errors.Error, TopologyError):
            await asyncio.sleep(0.5)


async def _greets(port: int, context: ssl.SSLContext) -> bool:
    """NATS upgrades to TLS after its first line; whether it still speaks after ours."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.readline()
        await writer.start_tls(context, server_hostname="localhost")
        writer.write(b'CONNECT {"verbose":true}\r\nPING\r\n')
        await writer.drain()
        return b"-ERR 'Authorization Violation'" in await asyncio.wait_for(reader.readline(), 10)
    except OSError:  # ssl.SSLError is one
        return False
    finally:
        writer.close()
