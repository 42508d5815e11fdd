"""Kong's declarative configuration for compose.yaml's profile `edge`: each of the shim's routes, each with the jwt plugin,
and the webhooks' without it.

    python -m tools.deploy.kong_config JWKS_URL ISSUER FILE

Kong OSS knows no JWKS: the issuer's current ES256 key is written in as it is now. After a rotation, run it again and reload Kong.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
from joserfc.jwk import ECKey

from gateway_shim.routes import ROUTES, WEBHOOKS, Route

UPSTREAM = "http://api:3035"
_PARAMETER = re.compile(r"\{(\w+)\}")


def jwt_plugin() -> dict[str, Any]:
    """No token in a query string, and expiry checked before the shim is asked."""
    config = {
        "uri_param_names": [],
        "claims_to_verify": ["exp", "nbf"],
        "key_claim_name": "iss",
        "run_on_preflight": True,
    }
    return {"name": "jwt", "config": config}


def declarative(issuer: str, public_key_pem: str) -> dict[str, Any]:
    """The whole configuration, as Kong's db-less mode reads it (JSON is YAML)."""
    credential = {"key": issuer, "algorithm": "ES256", "rsa_public_key": public_key_pem}
    return {
        "_format_version": "3.0",
        "services": [
            {
                "name": "billing-api",
                "url": UPSTREAM,
                "connect_timeout": 2_000,
                "read_timeout": 10_000,
                "retries": 0,  # a POST is not ours to repeat: the client has its Idempotency-Key
                "plugins": [{"name": "request-size-limiting", "config": {"allowed_payload_size": 1}}],
                "routes": [*(_route(route) for route in ROUTES), _webhooks()],
            }
        ],
        "consumers": [{"username": "billing-issuer", "jwt_secrets": [credential]}],
    }


def _route(route: Route) -> dict[str, Any]:
    path = _PARAMETER.sub(r"(?<\1>[^/]+)", route.path)
    return {
        "name": route.name,
        "methods": [route.method],
        "paths": [f"~{path}$"],
        "strip_path": False,
        "preserve_host": True,
        "plugins": [jwt_plugin()],
    }


def _webhooks() -> dict[str, Any]:
    """Without a token: payment gateways have none. The shim verifies their signatures."""
    webhooks = Route("POST", WEBHOOKS, "webhook.receive")
    return _route(webhooks) | {"plugins": []}


def signing_key(jwks: dict[str, Any]) -> str:
    """The newest ES256 key's public half as PEM. Raises ValueError where there is none."""
    keys = [key for key in jwks["keys"] if key.get("kty") == "EC" and key.get("crv") == "P-256"]
    if not keys:
        raise ValueError("the issuer publishes no ES256 key")
    pem: bytes = ECKey.import_key({name: keys[-1][name] for name in ("kty", "crv", "x", "y")}).as_pem(private=False)
    return pem.decode()


def main(jwks_url: str, issuer: str, file: Path) -> None:
    answer = httpx.get(jwks_url, timeout=10, trust_env=False)
    answer.raise_for_status()
    file.write_text(json.dumps(declarative(issuer, signing_key(answer.json())), indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
