"""A token issuer for development: a JWKS endpoint over real HTTP, and tokens to go with it.

Standalone: `python -m tools.sandbox.issuer TENANT [SCOPE…]` serves the keys until Ctrl-C and prints one token.
"""

import argparse
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey, KeyParameters, OKPKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

Algorithm = Literal["RS256", "ES256", "EdDSA"]
ALGORITHMS: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")
_DEFAULT_ALGORITHM: Algorithm = "ES256"
TENANT_CLAIM = "tenant"
JWKS_PATH = "/.well-known/jwks.json"
_START_TIMEOUT_SECONDS = 10
_RSA_BITS = 2048


class Keys:
    """An issuer's keys and the tokens signed with them; who serves the public halves is up to the caller.

    `rotate()` adds new keys and uses them from then on; the old ones stay published until `retire_old_keys()`.
    """

    def __init__(self, issuer: str, audience: str = "billing") -> None:
        self.issuer, self.audience = issuer, audience
        self._generations: list[dict[Algorithm, RSAKey | ECKey | OKPKey]] = [_generate()]

    @property
    def jwks_url(self) -> str:
        return f"{self.issuer}{JWKS_PATH}"

    def env(self) -> dict[str, str]:
        """What the shim needs to trust this issuer."""
        return {"JWKS_URL": self.jwks_url, "JWT_ISSUER": self.issuer, "JWT_AUDIENCE": self.audience}

    def mint(
        self,
        tenant: str,
        scopes: Sequence[str] = (),
        ttl_seconds: int = 300,
        *,
        algorithm: Algorithm = _DEFAULT_ALGORITHM,
        kid: str | None = None,
        **overrides: Any,
    ) -> str:
        """A signed token. `overrides` replace claims, and remove those given as None. `kid` forges the key id."""
        key = self._generations[-1][algorithm]
        return _sign(self.issuer, self.audience, key, tenant, scopes, ttl_seconds, kid=kid, overrides=overrides)

    def credentials(self) -> dict[str, Any]:
        """What another process needs to mint tokens of this issuer with `mint_with`: a private key among it."""
        key = self._generations[-1][_DEFAULT_ALGORITHM].as_dict(private=True)
        return {"issuer": self.issuer, "audience": self.audience, "key": dict(key)}

    def rotate(self) -> None:
        self._generations.append(_generate())

    def retire_old_keys(self) -> None:
        del self._generations[:-1]

    def document(self) -> dict[str, Any]:
        """The JWKS: the public half of every key that is not retired."""
        keys = [key.as_dict(private=False) for generation in self._generations for key in generation.values()]
        return {"keys": keys}


class Issuer(Keys):
    """Serves `jwks_url` from a thread of its own while started. `fetches` counts how often the keys were asked for."""

    def __init__(self, audience: str = "billing") -> None:
        self.fetches = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        super().__init__(f"http://127.0.0.1:{self._socket.getsockname()[1]}", audience)
        routes = [Route(JWKS_PATH, self._serve_keys)]
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="sandbox-issuer", daemon=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not self._server.started:
            if time.monotonic() > deadline:
                raise TimeoutError("the sandbox issuer did not start")
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(_START_TIMEOUT_SECONDS)
        self._socket.close()

    async def _serve_keys(self, request: Request) -> JSONResponse:
        self.fetches += 1
        return JSONResponse(self.document())

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


def mint_with(credentials: dict[str, Any], tenant: str, scopes: Sequence[str], ttl_seconds: int) -> str:
    """A token of an issuer that runs in another process, from its `credentials()`."""
    key = ECKey.import_key(credentials["key"])
    return _sign(credentials["issuer"], credentials["audience"], key, tenant, scopes, ttl_seconds)


def _sign(
    issuer: str,
    audience: str,
    key: RSAKey | ECKey | OKPKey,
    tenant: str,
    scopes: Sequence[str],
    ttl_seconds: int,
    *,
    kid: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> str:
    now = int(time.time())
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": f"user-of-{tenant}",
        TENANT_CLAIM: tenant,
        "scope": " ".join(scopes),
        "iat": now,
        "nbf": now,
        "exp": now + ttl_seconds,
        "jti": str(uuid.uuid4()),
    } | dict(overrides or {})
    algorithm = str(key.as_dict(private=False)["alg"])
    header = {"alg": algorithm, "typ": "JWT", "kid": kid or key.kid}
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(header, present, key, algorithms=[algorithm])


def _generate() -> dict[Algorithm, RSAKey | ECKey | OKPKey]:
    def parameters(algorithm: Algorithm) -> KeyParameters:
        return {"kid": f"{algorithm}-{uuid.uuid4().hex[:8]}", "use": "sig", "alg": algorithm}

    return {
        "RS256": RSAKey.generate_key(_RSA_BITS, parameters("RS256")),
        "ES256": ECKey.generate_key("P-256", parameters("ES256")),
        "EdDSA": OKPKey.generate_key("Ed25519", parameters("EdDSA")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A token issuer for development.")
    parser.add_argument("tenant")
    parser.add_argument("scopes", nargs="*")
    parser.add_argument("--ttl-seconds", type=int, default=3600)
    arguments = parser.parse_args()
    with Issuer() as issuer:
        for name, value in issuer.env().items():
            print(f"{name}={value}")
        print(f"TOKEN={issuer.mint(arguments.tenant, arguments.scopes, arguments.ttl_seconds)}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
