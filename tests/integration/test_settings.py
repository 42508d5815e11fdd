"""A missing or malformed variable is named, with what is wrong; values are never repeated."""

import itertools
import re
from pathlib import Path

import pytest
import structlog

from adapters import settings
from adapters.gateways.webhooks import SECRET_PREFIX as WEBHOOK_SECRET_PREFIX
from adapters.secrets import PAYMENT_GATEWAY_KEY_PREFIX
from adapters.settings import SettingsError, load

ENV_EXAMPLE = Path(__file__).parents[2] / ".env.example"
REQUIRED: dict[type[settings.Settings], dict[str, str]] = {
    settings.RuntimeSettings: {"REGION": "af-kabul-1", "COUNTRY_PROFILE": "AFG"},
    settings.DatabaseSettings: {"DATABASE_URL": "postgresql://billing_app:hunter2@db:5432/billing"},
    settings.NatsSettings: {"NATS_URL": "nats://shim:hunter2@a:4222,nats://shim:hunter2@b:4222"},
    settings.ShimSettings: {"JWKS_URL": "https://id/jwks.json", "JWT_ISSUER": "https://id", "JWT_AUDIENCE": "billing"},
    settings.NeighbourSettings: {
        "TENANT_SERVICE_URL": "https://tenants",
        "TERMINOLOGY_SERVICE_URL": "https://terms",
    },
    settings.ObjectStoreSettings: {"OBJECT_STORE_BUCKET": "billing-documents"},
}
ALL_VARIABLES = {name.upper() for group in settings.GROUPS for name in group.model_fields}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name + "_FILE", raising=False)


def _give(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("group", settings.GROUPS)
def test_required_variables_are_enough(group: type[settings.Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    _give(monkeypatch, REQUIRED.get(group, {}))
    load(group)


@pytest.mark.parametrize(("group", "missing"), [(group, name) for group, values in REQUIRED.items() for name in values])
def test_missing_variable_is_named_with_an_example(
    group: type[settings.Settings], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _give(monkeypatch, {name: value for name, value in REQUIRED[group].items() if name != missing})
    with pytest.raises(SettingsError) as caught:
        load(group)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{missing}: missing; for example {missing}=")


MALFORMED: list[tuple[type[settings.Settings], str, str]] = [
    (settings.RuntimeSettings, "ENVIRONMENT", "hunter2"),
    (settings.RuntimeSettings, "REGION", "hunter2 hunter2"),
    (settings.RuntimeSettings, "COUNTRY_PROFILE", "hunter2"),
    (settings.RuntimeSettings, "METRICS_PORT", "hunter2"),
    (settings.RuntimeSettings, "METRICS_PORT", "70000"),
    (settings.RuntimeSettings, "TENANT_DIRECTORY_FILE", "/nowhere/hunter2"),
    (settings.DatabaseSettings, "DATABASE_URL", "mysql://u:hunter2@db/billing"),
    (settings.DatabaseSettings, "DATABASE_URL", "postgresql:///hunter2"),
    (settings.DatabaseSettings, "DATABASE_URL", "postgresql://u:hunter2@db"),
    (settings.DatabaseSettings, "DATABASE_URL", "postgresql://u:hunter2@db:port/billing"),
    (settings.DatabaseSettings, "DATABASE_POOL_SIZE", "0"),
    (settings.NatsSettings, "NATS_URL", "nats://a:4222,http://hunter2"),
    (settings.NatsSettings, "NATS_REPLICAS", "2"),
    (settings.NatsSettings, "NATS_REPLICAS", "hunter2"),
    (settings.NatsSettings, "NATS_CREDS", "/nowhere/hunter2"),
    (settings.ShimSettings, "JWKS_URL", "hunter2"),
    (settings.ShimSettings, "REPLY_TIMEOUT_SECONDS", "-1"),
    (settings.HandlersSettings, "FETCH_BATCH_SIZE", "hunter2"),
    (settings.WorkerSettings, "RELAY_BATCH_SIZE", "1001"),
    (settings.TelemetrySettings, "OTEL_EXPORTER_OTLP_ENDPOINT", "hunter2:4318"),
    (settings.ObjectStoreSettings, "KMS_KEY_ARN", "hunter2"),
]


@pytest.mark.parametrize(("group", "name", "value"), MALFORMED)
def test_malformed_variable_is_named_and_its_value_is_not_repeated(
    group: type[settings.Settings], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _give(monkeypatch, REQUIRED.get(group, {}) | {name: value})
    with pytest.raises(SettingsError) as caught:
        load(group)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [name]
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_bad_variable_of_a_role_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        settings.check(settings.RuntimeSettings, settings.DatabaseSettings, settings.NatsSettings)
    named = [problem.split(":")[0] for problem in caught.value.problems]
    assert named == ["REGION", "COUNTRY_PROFILE", "DATABASE_URL", "NATS_URL"]


def test_production_refuses_the_static_tenant_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = tmp_path / "tenants.json"
    directory.write_text("{}")
    _give(monkeypatch, REQUIRED[settings.RuntimeSettings] | {"TENANT_DIRECTORY_FILE": str(directory)})
    for refused in ("production", ""):  # production is what an unset ENVIRONMENT means
        monkeypatch.setenv("ENVIRONMENT", refused)
        with pytest.raises(SettingsError, match=r"TENANT_DIRECTORY_FILE: .*ENVIRONMENT=production"):
            load(settings.RuntimeSettings)
    monkeypatch.setenv("ENVIRONMENT", "development")
    assert load(settings.RuntimeSettings).tenant_directory_file == directory


def test_value_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://app:s3cret@db/billing\n")
    monkeypatch.setenv("DATABASE_URL_FILE", str(secret))
    loaded = load(settings.DatabaseSettings)
    assert loaded.database_url.get_secret_value() == "postgresql://app:s3cret@db/billing"
    assert "s3cret" not in repr(loaded)


def test_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match="DATABASE_URL_FILE: cannot read"):
        load(settings.DatabaseSettings)


def test_value_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _give(monkeypatch, REQUIRED[settings.DatabaseSettings] | {"DATABASE_URL_FILE": str(tmp_path)})
    with pytest.raises(SettingsError, match="DATABASE_URL: given twice"):
        load(settings.DatabaseSettings)


def test_lists_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    _give(monkeypatch, REQUIRED[settings.NatsSettings] | {"NATS_REPLICAS": "1", "HANDLER_GROUPS": "payments, charges"})
    assert load(settings.HandlersSettings).handler_groups == ("payments", "charges")
    loaded = load(settings.NatsSettings)
    assert loaded.nats_replicas == 1
    assert loaded.servers == ["nats://shim:hunter2@a:4222", "nats://shim:hunter2@b:4222"]


def test_a_secret_from_a_file_follows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _replace(tmp_path / "url", "postgresql://app:first@db/billing\n")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))
    loaded = load(settings.DatabaseSettings).database_url
    _replace(tmp_path / "url", "postgresql://app:second@db/billing\n")
    assert loaded.get_secret_value() == "postgresql://app:second@db/billing"
    for refused in ("hunter2", "postgresql://app:hunter2@/", ""):
        _replace(tmp_path / "url", refused)
        with structlog.testing.capture_logs() as logs:
            assert loaded.get_secret_value() == "postgresql://app:second@db/billing"
            assert loaded.get_secret_value() == "postgresql://app:second@db/billing"
        assert [line["log_level"] for line in logs].count("warning") == 1
        assert "hunter2" not in repr(logs)
    assert "second" not in repr(loaded)


def test_secrets_dir_holds_settings_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "DATABASE_URL").write_text("postgresql://app:s3cret@db/billing\n")
    (tmp_path / "NATS_URL").write_text("nats://db")
    (tmp_path / "NATS_CREDS").write_text("-----BEGIN NATS USER JWT-----\n")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    assert load(settings.DatabaseSettings).database_url.get_secret_value() == "postgresql://app:s3cret@db/billing"
    assert load(settings.NatsSettings).nats_creds == tmp_path / "NATS_CREDS"
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:other@db/billing")
    with pytest.raises(SettingsError, match="DATABASE_URL: given twice, also as DATABASE_URL in SECRETS_DIR"):
        load(settings.DatabaseSettings)


def _replace(path: Path, text: str) -> None:
    """As whoever rotates should: never half written."""
    new = path.with_name("new")
    new.write_text(text)
    new.rename(path)


def test_env_example_lists_exactly_the_settings_each_with_a_comment() -> None:
    lines = ENV_EXAMPLE.read_text().splitlines()
    documented = {}
    for before, line in itertools.pairwise(lines):
        if match := re.match(r"([A-Z0-9_{}]+)=", line):
            documented[match[1]] = before
    tenants = {prefix + "{TENANT}" for prefix in (PAYMENT_GATEWAY_KEY_PREFIX, WEBHOOK_SECRET_PREFIX)}
    assert set(documented) == ALL_VARIABLES | tenants
    assert [name for name, comment in documented.items() if not re.match(r"# \S", comment)] == []


def test_env_example_values_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = (line.split("=", 1) for line in ENV_EXAMPLE.read_text().splitlines() if re.match(r"[A-Z0-9_]+=", line))
    _give(monkeypatch, dict(pairs))
    for group in settings.GROUPS:
        load(group)
