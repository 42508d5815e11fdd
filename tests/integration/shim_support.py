"""The shim under test: the real role in this event loop, on real ports, against a real NATS server and issuer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from adapters.settings import NatsSettings, RuntimeSettings, ShimSettings, TelemetrySettings
from gateway_shim.serve import ApiSettings, running
from schemas.registry import COMMANDS, QUERIES
from tools.sandbox.issuer import Issuer
from tools.stack import NatsServer
from tools.stack.ports import free_ports

ALL_SCOPES = sorted({spec.scope for spec in COMMANDS.values()} | {spec.scope for spec in QUERIES.values()})


@dataclass
class Api:
    """A running shim and a client of it. `headers()` carries a token of `tenant` with every scope."""

    http: httpx.AsyncClient
    base_url: str
    metrics_url: str
    issuer: Issuer
    tenant: str

    def headers(self, *, key: str | None = None, token: str | None = None, **extra: str) -> dict[str, str]:
        bearer = token or self.issuer.mint(self.tenant, ALL_SCOPES)
        found = {"Authorization": f"Bearer {bearer}"} | {name.replace("_", "-"): each for name, each in extra.items()}
        return found | {"Idempotency-Key": key} if key is not None else found

    async def post(self, path: str, body: Any = None, *, key: str | None = None, **extra: str) -> httpx.Response:
        return await self.http.post(path, json=body, headers=self.headers(key=key, **extra))

    async def get(self, path: str, **parameters: Any) -> httpx.Response:
        return await self.http.get(path, params=parameters or None, headers=self.headers())

    async def metric(self, name: str, **labels: str) -> float:
        """The value of one sample on `/metrics`; 0 where it is not there."""
        text = (await self.http.get(f"{self.metrics_url}/metrics")).text
        samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def api_settings(server: NatsServer, issuer: Issuer, secrets_dir: Path | None = None, **overrides: Any) -> ApiSettings:
    """Settings of the role on free ports; `overrides` are fields of ShimSettings."""
    http_port, metrics_port = free_ports(2)
    shim: dict[str, Any] = {
        "jwks_url": issuer.jwks_url,
        "jwt_issuer": issuer.issuer,
        "jwt_audience": issuer.audience,
        "http_host": "127.0.0.1",
        "http_port": http_port,
        "jwt_leeway_seconds": 0,
        "reply_timeout_seconds": 10,
    } | overrides
    return ApiSettings(
        ShimSettings(**shim),
        NatsSettings(nats_url=SecretStr(server.url("shim")), nats_replicas=1),
        RuntimeSettings(
            region="test-1",
            country_profile="AFG",
            metrics_host="127.0.0.1",
            metrics_port=metrics_port,
            secrets_dir=secrets_dir,
        ),
        TelemetrySettings(),
    )


@asynccontextmanager
async def api(
    server: NatsServer, issuer: Issuer, tenant: str = "clinic", secrets_dir: Path | None = None, **overrides: Any
) -> AsyncIterator[Api]:
    """A running shim and a client of it; `overrides` are fields of ShimSettings."""
    async with running(api_settings(server, issuer, secrets_dir, **overrides), stop=asyncio.Event()) as ports:
        base_url = f"http://127.0.0.1:{ports.http}"
        async with httpx.AsyncClient(base_url=base_url, timeout=30) as http:
            yield Api(http, base_url, f"http://127.0.0.1:{ports.metrics}", issuer, tenant)


def payment(**overrides: Any) -> dict[str, Any]:
    """A valid body of POST /v1/payments."""
    body = {"account_id": str(uuid4()), "amount": {"amount_minor": 125_000, "currency": "AED"}, "method": "cash"}
    return body | overrides


def account(**overrides: Any) -> dict[str, Any]:
    """A valid body of POST /v1/accounts."""
    return {"patient": "Patient/123", "currency": "AFN"} | overrides
