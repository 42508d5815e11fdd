"""Settings of every role, read from the environment when a role starts.

Nothing is read at import time. A role calls `load(DatabaseSettings)` and gets either a frozen object or one
`SettingsError` that names every missing or malformed variable, says what is wrong and shows a right value.
Values are never echoed: they may be secrets.

Every variable may also be given as `<NAME>_FILE`, the path of a file that holds the value, or as a file `<NAME>` in SECRETS_DIR
(mounted secrets). Secrets that came from a file follow it while the role runs (adapters/followed.py).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from adapters.followed import FileText, followed
from adapters.gateways.egress import parse_allowlist
from adapters.secrets import SecretDirectory, read_secret

FILE_SUFFIX = "_FILE"


class SettingsError(Exception):
    """The environment does not hold what a role needs. `problems` has one line per variable."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("settings are not usable:\n" + "\n".join(f"  {problem}" for problem in problems))


class _FileReferences(PydanticBaseSettingsSource):
    """Reads `<NAME>_FILE`, or the file `<NAME>` of SECRETS_DIR, for each field `name`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = field_name.upper()
        found = _file_of(variable, self.settings_cls)
        if found is None:
            return None, field_name, False
        given, path = found
        if os.environ.get(variable):
            raise SettingsError([f"{variable}: given twice, also as {given}; keep one of them"])
        if _is_path(field):
            return path, field_name, False
        try:
            return FileText.read(variable, path, read_secret(path).reveal().strip()), field_name, False
        except OSError as error:
            raise SettingsError([f"{given}: cannot read the file it names ({error.strerror})"]) from None
        except ValueError as error:
            raise SettingsError([f"{given}: cannot use the file it names ({error})"]) from None

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def _file_of(variable: str, settings_cls: type[BaseSettings]) -> tuple[str, Path] | None:
    """How a file was given for a variable, in words, and the file."""
    reference = variable + FILE_SUFFIX
    # A field may itself end in _FILE (NATS_TLS_CA_FILE); that is the field's own variable, not a reference.
    if (path := os.environ.get(reference)) and reference.lower() not in settings_cls.model_fields:
        return reference, Path(path)
    directory = os.environ.get("SECRETS_DIR")
    if directory and (mounted := Path(directory) / variable).is_file():
        return f"{variable} in SECRETS_DIR", mounted
    return None


def _is_path(field: FieldInfo) -> bool:
    """A setting that names a file (NATS_CREDS) is the file of SECRETS_DIR, not what that holds."""
    return field.annotation in (ExistingFile | None, ExistingDirectory | None)


class Settings(BaseSettings):
    """Base of the groups below: frozen, empty means absent, unknown variables are other programs' business."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then `<NAME>_FILE`, then the environment; never a `.env` picked up by accident."""
        return init_settings, _FileReferences(settings_cls), env_settings


def _url(*schemes: str, needs_path: bool = False) -> Callable[[str], None]:
    """A check of URLs of the given schemes; comma-separated lists are allowed."""

    def check(text: str) -> None:
        for part in text.split(","):
            _check_url(part.strip(), schemes, needs_path)

    return check


def _checked_url(*schemes: str) -> AfterValidator:
    check = _url(*schemes)

    def checked(text: str) -> str:
        check(text)
        return text

    return AfterValidator(checked)


def _any_text(_text: str) -> None:
    """Of an access key we know nothing."""


def _check_url(text: str, schemes: tuple[str, ...], needs_path: bool) -> None:
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in schemes:
        raise ValueError(f"not a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not (parts.hostname or "host=" in parts.query) or not port_is_valid:
        raise ValueError("the URL names no host")
    if needs_path and not parts.path.strip("/"):
        raise ValueError("the URL names no database")


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError("no such file")
    return path


def _existing_directory(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError("no such directory")
    return path


def _allowed_hosts(entries: tuple[str, ...]) -> tuple[str, ...]:
    parse_allowlist(entries)
    return entries


def _comma_separated(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


PostgresUrl = Annotated[SecretStr, followed(_url("postgresql", "postgres", "postgresql+asyncpg", needs_path=True))]
NatsUrl = Annotated[SecretStr, followed(_url("nats", "tls", "ws", "wss"))]
HttpUrl = Annotated[str, _checked_url("http", "https")]
RedisUrl = Annotated[SecretStr, followed(_url("redis", "rediss"))]
AccessKey = Annotated[SecretStr, followed(_any_text)]
ExistingFile = Annotated[Path, AfterValidator(_existing_file)]
ExistingDirectory = Annotated[Path, AfterValidator(_existing_directory)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]
AllowedHosts = Annotated[Names, AfterValidator(_allowed_hosts)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Interval = Annotated[float, Field(gt=0, le=31 * 86_400)]  # seconds

_POSTGRES_EXAMPLE = "postgresql://billing_app:PASSWORD@db.internal:5432/billing"


class RuntimeSettings(Settings):
    """What every role needs: where it runs and under which country's rules."""

    environment: Literal["development", "staging", "production"] = "production"
    region: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,31}$", examples=["af-kabul-1"])
    country_profile: str = Field(pattern=r"^[A-Z]{3}$", examples=["AFG"])  # ISO 3166-1 alpha-3
    worker: bool = False
    metrics_host: str = "0.0.0.0"  # noqa: S104  the pod's network policy is the fence
    metrics_port: Port = 9464
    shutdown_grace_seconds: Seconds = 25  # under Kubernetes' default of 30 before SIGKILL
    tenant_directory_file: ExistingFile | None = None
    secrets_dir: ExistingDirectory | None = None

    def open_secrets(self) -> SecretDirectory:
        """The mounted secrets; in development also what the environment holds. Once per process: it remembers what it read."""
        return SecretDirectory(self.secrets_dir, environment_fallback=self.environment == "development")

    @model_validator(mode="after")
    def _production_asks_the_tenant_service(self) -> Self:
        if self.environment == "production" and self.tenant_directory_file is not None:
            raise ValueError(
                "TENANT_DIRECTORY_FILE: the static tenant directory is a development tool and is refused when "
                "ENVIRONMENT=production; unset it and set TENANT_SERVICE_URL"
            )
        return self


class TelemetrySettings(Settings):
    """Logs and traces. Without an endpoint, traces stay in the process."""

    otel_exporter_otlp_endpoint: HttpUrl | None = Field(default=None, examples=["http://otel-collector:4318"])
    otel_service_name: str = "billing"
    trace_sample_ratio: float = Field(default=1.0, ge=0, le=1)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"


class DatabaseSettings(Settings):
    """PostgreSQL: one URL per PostgreSQL role. Read and relay fall back to the main URL."""

    database_url: PostgresUrl = Field(examples=[_POSTGRES_EXAMPLE])
    database_read_url: PostgresUrl | None = Field(default=None, examples=[_POSTGRES_EXAMPLE])
    database_relay_url: PostgresUrl | None = Field(default=None, examples=[_POSTGRES_EXAMPLE])
    database_pool_size: int = Field(default=20, ge=2, le=500)
    database_pool_timeout_seconds: Seconds = 5
    database_statement_timeout_seconds: Seconds = 30
    contact_keys: ExistingFile | None = Field(default=None, examples=["/var/run/secrets/billing/CONTACT_KEYS"])


class NatsSettings(Settings):
    """The NATS servers, how to prove who we are, and how many copies of each stream to keep."""

    nats_url: NatsUrl = Field(examples=["nats://nats-0.nats:4222,nats://nats-1.nats:4222"])
    nats_creds: ExistingFile | None = Field(default=None, examples=["/var/run/secrets/nats/billing.creds"])
    nats_tls_ca_file: ExistingFile | None = None
    nats_tls_cert_file: ExistingFile | None = None
    nats_tls_key_file: ExistingFile | None = None
    nats_replicas: Literal[1, 3, 5] = 3
    nats_connect_timeout_seconds: Seconds = 5

    @model_validator(mode="before")
    @classmethod
    def _replicas_from_text(cls, values: dict[str, Any]) -> dict[str, Any]:
        replicas = values.get("nats_replicas")
        numeric = isinstance(replicas, str) and replicas.strip().isdecimal()
        return values | {"nats_replicas": int(str(replicas))} if numeric else values

    @property
    def servers(self) -> list[str]:
        """The server URLs one by one, credentials included."""
        return [url.strip() for url in self.nats_url.get_secret_value().split(",")]


class ShimSettings(Settings):
    """The HTTP shim behind Kong."""

    jwks_url: HttpUrl = Field(examples=["https://identity.internal/.well-known/jwks.json"])
    jwt_issuer: str = Field(min_length=1, examples=["https://identity.internal"])
    jwt_audience: str = Field(min_length=1, examples=["billing"])
    jwt_leeway_seconds: int = Field(default=30, ge=0, le=300)
    jwks_cache_seconds: Seconds = 300
    http_host: str = "0.0.0.0"  # noqa: S104  the pod's network policy is the fence
    http_port: Port = 3035
    reply_timeout_seconds: Seconds = 2.5  # under the 3 s at which payment latency triggers a rollback
    body_max_bytes: int = Field(default=262_144, ge=1024, le=1_048_576)  # NATS max_payload is 1 MiB
    in_flight_max: int = Field(default=1_000, ge=1)
    redis_url: RedisUrl | None = Field(default=None, examples=["redis://redis:6379/0"])
    # A hospital of 2,000 beds makes some 20 requests a second at its busiest hour. Twenty-five times that is a loop gone wrong,
    # and half of what one process of the shim answers: whoever loops cannot starve the others.
    rate_limit_tenant_per_second: int = Field(default=500, ge=1, le=100_000)
    rate_limit_route_per_second: int = Field(default=400, ge=1, le=100_000)


class HandlersSettings(Settings):
    """The command consumer groups. An empty `handler_groups` means all of them."""

    handler_groups: Names = ()
    # Beside a consumer canary the stable handlers leave its share to it; without one they take all (docs/decisions/0040).
    handler_commands: Literal["all", "stable", "canary"] = "all"
    fetch_batch_size: int = Field(default=2_000, ge=1, le=5_000)
    # Where a batch has so many tenants that each gets little of it.
    fetch_batch_max: int = Field(default=10_000, ge=1, le=20_000)
    tenant_concurrency: int = Field(default=20, ge=1, le=500)  # never useful above DATABASE_POOL_SIZE


class WorkerSettings(Settings):
    """The outbox relay, the jobs and the schedules."""

    relay_shards: int = Field(default=2, ge=1, le=64)
    relay_batch_size: int = Field(default=500, ge=1, le=1_000)  # nats-server refuses larger atomic batches
    relay_poll_min_seconds: Seconds = 0.02
    relay_poll_max_seconds: Seconds = 0.1
    job_concurrency: int = Field(default=2, ge=1, le=64)  # chunks of statements in hand: one is read while one renders
    render_threads: int | None = Field(default=None, ge=1, le=256)  # one per core without
    job_max_deliveries: int = Field(default=8, ge=1, le=1_000)  # with the delay below, about two minutes of tries
    job_retry_first_seconds: Seconds = 1.0
    overdue_interval_seconds: Interval = 900
    verify_interval_seconds: Interval = 300  # entries that are new, and sums that need no scan of the ledger
    verify_full_interval_seconds: Interval = 86_400
    inbox_cleanup_interval_seconds: Interval = 86_400
    # Above everything that may deliver a command again: 14 days of the command stream, 90 of dead letters. The database keeps
    # 91 days whatever is asked for (migration 0005).
    inbox_retention_days: int = Field(default=180, ge=91, le=36_500)


class NeighbourClientSettings(Settings):
    """How to prove to the outside services who we are (mTLS), and how long to wait for them."""

    neighbour_tls_ca_file: ExistingFile | None = None
    neighbour_tls_cert_file: ExistingFile | None = None
    neighbour_tls_key_file: ExistingFile | None = None
    neighbour_timeout_seconds: Seconds = 2


class NeighbourSettings(NeighbourClientSettings):
    """The services whose answers a command may depend on."""

    tenant_service_url: HttpUrl = Field(examples=["https://tenant-service.internal"])
    terminology_service_url: HttpUrl = Field(examples=["https://terminology-service.internal"])
    ai_gateway_url: HttpUrl | None = Field(default=None, examples=["https://ai-gateway-service.internal"])
    neighbour_concurrency: int = Field(default=16, ge=1, le=256)
    tenant_cache_seconds: Seconds = 30
    tenant_stale_seconds: Seconds = 300
    terminology_cache_seconds: Seconds = 600


class GatewaySettings(Settings):
    """Payment gateways. Where they are is each tenant's configuration; which hosts that may name is decided here."""

    gateway_allowed_hosts: AllowedHosts = ()
    gateway_tls_ca_file: ExistingFile | None = None
    gateway_connect_timeout_seconds: Seconds = 3
    gateway_timeout_seconds: Seconds = 15  # a card network takes its time; past this, asking later is the better way
    gateway_concurrency: int = Field(default=8, ge=1, le=256)  # per tenant
    gateway_job_concurrency: int = Field(default=128, ge=1, le=1_024)  # of all tenants: many may stall at once
    gateway_recovery_interval_seconds: Interval = 15  # two short queries per tenant each time
    gateway_expiry_interval_seconds: Interval = 60
    gateway_silent_seconds: Seconds = 300  # a request not heard of for so long is asked about
    gateway_circuit_failures: int = Field(default=5, ge=1, le=1_000)
    gateway_circuit_open_seconds: Seconds = 5
    gateway_circuit_open_max_seconds: Seconds = 60


class FhirSettings(NeighbourClientSettings):
    """The FHIR gateway that documents are pushed to; without a URL nothing is."""

    fhir_gateway_url: HttpUrl | None = Field(default=None, examples=["https://interop-service.internal"])
    fhir_concurrency: int = Field(default=16, ge=1, le=256)
    fhir_tenant_concurrency: int = Field(default=4, ge=1, le=256)
    fhir_max_tries: int = Field(default=20, ge=1, le=1_000)
    fhir_retry_first_seconds: Seconds = 1.0


class ObjectStoreSettings(Settings):
    """Any S3. Without keys, the usual AWS credential chain applies."""

    object_store_bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", examples=["billing-statements"])
    object_store_endpoint_url: HttpUrl | None = Field(default=None, examples=["http://seaweedfs:8333"])
    object_store_region: str = "us-east-1"
    object_store_access_key_id: AccessKey | None = None
    object_store_secret_access_key: AccessKey | None = None
    kms_key_arn: str | None = Field(
        default=None, pattern=r"^arn:[^:]+:kms:", examples=["arn:aws:kms:me-central-1:000000000000:key/KEY-ID"]
    )


GROUPS: tuple[type[Settings], ...] = (
    RuntimeSettings,
    TelemetrySettings,
    DatabaseSettings,
    NatsSettings,
    ShimSettings,
    HandlersSettings,
    WorkerSettings,
    NeighbourSettings,
    FhirSettings,
    GatewaySettings,
    ObjectStoreSettings,
)

S = TypeVar("S", bound=Settings)


def load(settings_class: type[S]) -> S:
    """Read `settings_class` from the environment, or raise `SettingsError` naming every bad variable."""
    return _load(settings_class)


def load_objects() -> ObjectStoreSettings | None:
    """The object store's settings, or None where no bucket is named: the role then goes without."""
    named = os.environ.get("OBJECT_STORE_BUCKET") or os.environ.get(f"OBJECT_STORE_BUCKET{FILE_SUFFIX}")
    return _load(ObjectStoreSettings) if named else None


def check(*settings_classes: type[Settings]) -> None:
    """Check several groups at once, so that one error names every bad variable of a role."""
    problems: list[str] = []
    for settings_class in settings_classes:
        try:
            _load(settings_class)
        except SettingsError as error:
            problems.extend(error.problems)
    if problems:
        raise SettingsError(problems)


def _load(settings_class: type[S]) -> S:
    try:
        return settings_class()
    except ValidationError as error:
        problems = [_problem(settings_class, dict(detail)) for detail in error.errors(include_input=False)]
        # Not chained: the original error's text could carry values, which may be secrets.
        raise SettingsError(problems) from None


def _problem(settings_class: type[Settings], detail: dict[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    field = settings_class.model_fields.get(name)
    example = f"; for example {name.upper()}={field.examples[0]}" if field is not None and field.examples else ""
    what = "missing" if detail["type"] == "missing" else message
    return f"{name.upper()}: {what}{example}"
