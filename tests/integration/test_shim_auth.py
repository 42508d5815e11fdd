"""Tokens: who gets in, and why the others do not."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from gateway_shim import auth, jwks
from tests.integration.shim_peer import Peer, peer
from tests.integration.shim_support import Api, api, payment
from tools.sandbox.issuer import ALGORITHMS, Algorithm, Issuer
from tools.stack import NatsServer


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    with Issuer() as one:
        yield one


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as one:
        yield one


@pytest.fixture
async def handlers(nats_server: NatsServer) -> AsyncIterator[Peer]:
    async with peer(nats_server) as one:
        yield one


@pytest.fixture
async def shim(nats_server: NatsServer, shared_issuer: Issuer, tenant: str) -> AsyncIterator[Api]:
    async with api(nats_server, shared_issuer, tenant) as one:
        yield one


async def _get(shim: Api, token: str | None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await shim.http.get("/v1/accounts", headers=headers)


def _refusal(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    if response.status_code == 401:
        assert response.headers["WWW-Authenticate"].startswith('Bearer realm="billing"')
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_each_algorithm_is_accepted(shim: Api, handlers: Peer, algorithm: Algorithm) -> None:
    token = shim.issuer.mint(shim.tenant, ["billing.read"], algorithm=algorithm)
    assert (await _get(shim, token)).status_code == 200
    assert handlers.queried[0][:2] == (shim.tenant, "account.list")


async def test_no_token(shim: Api) -> None:
    assert _refusal(await _get(shim, None)) == (401, "token_missing")


CLAIMS: tuple[tuple[dict[str, Any], tuple[int, str]], ...] = (
    ({"exp": None}, (401, "token_invalid")),
    ({"exp": "tomorrow"}, (401, "token_invalid")),
    ({"iss": "https://elsewhere.example"}, (401, "token_invalid")),
    ({"iss": None}, (401, "token_invalid")),
    ({"aud": "ehr"}, (401, "token_invalid")),
    ({"aud": ["ehr", "lab"]}, (401, "token_invalid")),
    ({"aud": None}, (401, "token_invalid")),
    ({"sub": None}, (401, "token_invalid")),
    ({"sub": "two words"}, (401, "token_invalid")),
    ({"sub": "line\r\nBilling-Actor: root"}, (401, "token_invalid")),
    ({"tenant": None}, (403, "tenant_claim_invalid")),
    ({"tenant": "*"}, (403, "tenant_claim_invalid")),
    ({"tenant": "a.b"}, (403, "tenant_claim_invalid")),
    ({"tenant": "a\n", "sub": "u"}, (403, "tenant_claim_invalid")),
    ({"tenant": ["clinic"]}, (403, "tenant_claim_invalid")),
    ({"tenant": "x" * 65}, (403, "tenant_claim_invalid")),
    ({"scope": None}, (403, "scope_missing")),
    ({"scope": "billing.readonly billing"}, (403, "scope_missing")),
    ({"scope": ["billing.read"]}, (401, "token_invalid")),
)


async def test_claims(shim: Api) -> None:
    """One row per way a well-signed token can be unacceptable."""
    for claims, expected in CLAIMS:
        token = shim.issuer.mint(**({"tenant": shim.tenant, "scopes": ["billing.read"]} | claims))
        assert _refusal(await _get(shim, token)) == expected, claims


async def test_a_token_of_another_time(shim: Api) -> None:
    now = int(time.time())
    expired = shim.issuer.mint(shim.tenant, ["billing.read"], exp=now - 60)
    assert _refusal(await _get(shim, expired)) == (401, "token_expired")
    early = shim.issuer.mint(shim.tenant, ["billing.read"], nbf=now + 600)
    assert _refusal(await _get(shim, early)) == (401, "token_invalid")


async def test_an_audience_among_several_is_accepted(shim: Api, handlers: Peer) -> None:
    token = shim.issuer.mint(shim.tenant, ["billing.read"], aud=["ehr", "billing"])
    assert (await _get(shim, token)).status_code == 200
    assert handlers.queried


async def test_a_missing_scope_is_named(shim: Api, handlers: Peer) -> None:
    token = shim.issuer.mint(shim.tenant, ["billing.read"])
    response = await shim.http.post("/v1/payments", json=payment(), headers=shim.headers(key="k", token=token))
    assert _refusal(response) == (403, "scope_missing")
    assert 'scope="billing.payments.write"' in response.headers["WWW-Authenticate"]
    assert not handlers.received


def _forge(header: dict[str, str], claims: dict[str, object], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


async def test_forged_tokens(shim: Api, shared_issuer: Issuer) -> None:
    """alg none, HMAC with the public key as its secret, a key of one's own under a known kid, a key inside the header."""
    keys = (await shim.http.get(shared_issuer.jwks_url)).json()["keys"]
    rsa, ec = (next(key for key in keys if key["kty"] == kind) for kind in ("RSA", "EC"))
    now = int(time.time())
    claims: dict[str, object] = {
        "iss": shared_issuer.issuer,
        "aud": shared_issuer.audience,
        "sub": "mallory",
        "tenant": shim.tenant,
        "scope": "billing.read",
        "exp": now + 300,
    }
    own, own_rsa = ECKey.generate_key("P-256"), RSAKey.generate_key(2048)
    public_pem = RSAKey.import_key(rsa).as_pem(private=False)
    forged = {
        "none": _forge({"alg": "none", "kid": ec["kid"]}, claims),
        "None": _forge({"alg": "None", "kid": ec["kid"]}, claims, b"x"),
        "no alg": _forge({"kid": ec["kid"]}, claims, b"x"),
        "hmac": _hmac({"alg": "HS256", "kid": rsa["kid"]}, claims, public_pem),
        "other key": jwt.encode({"alg": "ES256", "kid": ec["kid"]}, claims, own),
        "other type of key": jwt.encode({"alg": "RS256", "kid": ec["kid"]}, claims, own_rsa),
        "jwk header": jwt.encode({"alg": "ES256", "kid": ec["kid"], "jwk": own.as_dict(private=False)}, claims, own),
        "no kid": jwt.encode({"alg": "ES256"}, claims, own),
        "unknown crit": _forge({"alg": "ES256", "kid": ec["kid"], "crit": ["exp"]}, claims, b"x" * 64),  # type: ignore[dict-item]
        "header is a list": "WyJhbGciXQ.e30.eA",
        "header is a bomb": base64.urlsafe_b64encode(b"[" * 1500).rstrip(b"=").decode() + ".e30.eA",
        "not base64": "a.b.c",
        "two parts": "e30.e30",
        "unsigned claims changed": _swap_claims(shared_issuer.mint(shim.tenant, []), claims),
    }
    answers = {name: _refusal(await _get(shim, token)) for name, token in forged.items()}
    assert answers == dict.fromkeys(forged, (401, "token_invalid"))


def _hmac(header: dict[str, str], claims: dict[str, object], secret: bytes) -> str:
    signed = _forge(header, claims).rstrip(".")
    signature = hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _swap_claims(token: str, claims: dict[str, object]) -> str:
    header, _, signature = token.split(".")
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{header}.{payload}.{signature}"


async def test_other_forms_of_the_header(shim: Api) -> None:
    token = shim.issuer.mint(shim.tenant, ["billing.read"])
    for value in ("Basic dTpw", token, f"Bearer {token} {token}", "Bearer " + "a" * 9000 + ".b.c"):
        response = await shim.http.get("/v1/accounts", headers={"Authorization": value})
        assert _refusal(response) == (401, "token_invalid"), value
    twice = [("Authorization", f"Bearer {token}")] * 2
    assert _refusal(await shim.http.get("/v1/accounts", headers=twice)) == (401, "token_invalid")


async def test_keys_rotate(nats_server: NatsServer, issuer: Issuer, handlers: Peer) -> None:
    async with api(nats_server, issuer) as shim:
        before = issuer.mint(shim.tenant, ["billing.read"])
        assert (await _get(shim, before)).status_code == 200
        issuer.rotate()
        after = issuer.mint(shim.tenant, ["billing.read"])
        assert (await _get(shim, after)).status_code == 200, "an unknown kid fetches the keys again"
        assert (await _get(shim, before)).status_code == 200, "the old key is still published"
        assert issuer.fetches == 2
        assert len(handlers.queried) == 3


async def test_a_withdrawn_key_ends_with_the_cache(nats_server: NatsServer, issuer: Issuer, handlers: Peer) -> None:
    async with api(nats_server, issuer, jwks_cache_seconds=0.001) as shim:
        before = issuer.mint(shim.tenant, ["billing.read"])
        assert (await _get(shim, before)).status_code == 200
        issuer.rotate()
        issuer.retire_old_keys()
        assert _refusal(await _get(shim, before)) == (401, "token_invalid")
        assert len(handlers.queried) == 1


async def test_made_up_key_ids_do_not_reach_the_issuer(nats_server: NatsServer, issuer: Issuer) -> None:
    async with api(nats_server, issuer) as shim:
        tokens = [issuer.mint(shim.tenant, ["billing.read"], kid=f"made-up-{number}") for number in range(40)]
        answers = await asyncio.gather(*(_get(shim, token) for token in tokens))
        assert {_refusal(answer) for answer in answers} == {(401, "token_invalid")}
        assert issuer.fetches <= 2, "one for the empty cache, one for an unknown key"


async def test_one_fetch_for_many_first_requests(nats_server: NatsServer, issuer: Issuer, handlers: Peer) -> None:
    async with api(nats_server, issuer) as shim:
        token = issuer.mint(shim.tenant, ["billing.read"])
        answers = await asyncio.gather(*(_get(shim, token) for _ in range(40)))
        assert {answer.status_code for answer in answers} == {200}
        assert issuer.fetches == 1 and len(handlers.queried) == 40


async def test_known_keys_outlive_their_issuer(nats_server: NatsServer, issuer: Issuer, handlers: Peer) -> None:
    async with api(nats_server, issuer, jwks_cache_seconds=0.001) as shim:
        token = issuer.mint(shim.tenant, ["billing.read"])
        assert (await _get(shim, token)).status_code == 200
        issuer.stop()
        assert (await _get(shim, token)).status_code == 200
        assert len(handlers.queried) == 2


async def test_without_any_keys_it_is_a_503(nats_server: NatsServer, issuer: Issuer) -> None:
    async with api(nats_server, issuer) as shim:
        token = issuer.mint(shim.tenant, ["billing.read"])
        issuer.stop()
        response = await _get(shim, token)
        assert _refusal(response) == (503, "issuer_unavailable")
        assert response.headers["Retry-After"]


def test_only_public_signature_keys_are_used() -> None:
    good = ECKey.generate_key("P-256", {"kid": "good"}).as_dict(private=False)
    refused = [
        OctKey.generate_key(256, {"kid": "hmac"}).as_dict(private=True),
        good | {"kid": "for encryption", "use": "enc"},
        ECKey.generate_key("P-521", {"kid": "curve"}).as_dict(private=False),
        {name: value for name, value in good.items() if name != "kid"},
        good | {"kid": "broken", "x": "!"},
        good | {"kid": 7},
        {"kty": "AKP", "kid": "post-quantum"},
        "not a key",
    ]
    assert list(jwks.usable_keys(json.dumps({"keys": [*refused, good]}).encode())) == ["good"]
    for document in (b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"<html>", json.dumps({"keys": refused}).encode()):
        with pytest.raises(ValueError):
            jwks.usable_keys(document)


async def test_a_token_that_was_verified_still_expires(nats_server: NatsServer, issuer: Issuer, handlers: Peer) -> None:
    async with api(nats_server, issuer) as shim:
        expires_at = int(time.time()) + 2
        token = issuer.mint(shim.tenant, ["billing.read"], exp=expires_at)
        assert (await _get(shim, token)).status_code == 200
        assert (await _get(shim, token)).status_code == 200
        await asyncio.sleep(expires_at + 0.05 - time.time())  # the clock is what it is about
        assert _refusal(await _get(shim, token)) == (401, "token_expired")


async def test_verified_tokens_are_kept_in_a_bounded_number(
    nats_server: NatsServer, issuer: Issuer, handlers: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of `jwt.decode` is a token that was not known."""
    verified: list[str] = []
    decode = jwt.decode

    def counted(token: str, *arguments: Any, **named: Any) -> jwt.Token:
        verified.append(token)
        return decode(token, *arguments, **named)

    monkeypatch.setattr(auth, "MAX_VERIFIED", 2)
    monkeypatch.setattr(jwt, "decode", counted)
    async with api(nats_server, issuer) as shim:
        first, second, third = (issuer.mint(shim.tenant, ["billing.read"]) for _ in range(3))
        for token in (first, second, first, third, second, first):
            assert (await _get(shim, token)).status_code == 200
    assert verified == [first, second, third, first]
