"""Tokens: nobody gets in but with a token that the issuer signed as it is, and everyone else gets a 401 or 403."""

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OctKey

from gateway_shim.auth import Authenticator, Principal
from gateway_shim.jwks import Jwks, usable_keys
from gateway_shim.problems import HttpProblem
from tests.fuzz.mangling import cut, examples, json_bytes, mangled, nasty
from tools.sandbox.issuer import ALGORITHMS, Algorithm, Issuer, Keys

ASKED_MOST_SECONDS = 5.0


class Gate(NamedTuple):
    """The shim's own way in, an issuer it trusts, and one it does not, of the same name."""

    issuer: Issuer
    others: Keys
    authenticator: Authenticator

    async def ask(self, header: str) -> Principal | int:
        """Whoever it is, or the status of the refusal."""
        try:
            return await self.authenticator.authenticate([header])
        except HttpProblem as refusal:
            return refusal.status

    def good(self, algorithm: Algorithm = "ES256", **claims: Any) -> str:
        usual: dict[str, Any] = {"tenant": "clinic", "scopes": ["billing.read"], "ttl_seconds": 3_600}
        token: str = self.issuer.mint(**(usual | {"algorithm": algorithm} | claims))
        return token


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    """One for all examples; the issuer is asked once, over HTTP."""
    with Issuer() as issuer:
        # Each example has a loop of its own: a connection must not outlive the one it was made in.
        http = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0))
        keys = Jwks(issuer.jwks_url, http, cache_seconds=600)
        authenticator = Authenticator(keys, issuer=issuer.issuer, audience="billing", leeway_seconds=0)
        yield Gate(issuer, Keys(issuer.issuer), authenticator)


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


async def test_a_good_token_gets_in(gate: Gate) -> None:
    """Else all the others would be refused for nothing."""
    for algorithm in ALGORITHMS:
        found = await gate.ask(f"Bearer {gate.good(algorithm)}")
        assert isinstance(found, Principal) and found.tenant_id == "clinic"


@examples(150)
@given(st.sampled_from(ALGORITHMS), st.data())
async def test_a_token_that_was_changed_anywhere_is_refused(
    gate: Gate, algorithm: Algorithm, data: st.DataObject
) -> None:
    token = gate.good(algorithm)
    changed = data.draw(cut(token.encode())).decode("latin-1")
    found = await gate.ask(f"Bearer {changed}")
    if isinstance(found, Principal):
        # Only the unused bits of a signature's last character may differ, and what they mean does not.
        assert changed.strip().rsplit(".", 1)[0] == token.rsplit(".", 1)[0]
    else:
        assert found in (401, 403)


@examples(150)
@given(st.sampled_from(ALGORITHMS), st.data())
async def test_claims_nobody_signed_are_refused(gate: Gate, algorithm: Algorithm, data: st.DataObject) -> None:
    head, body, signature = gate.good(algorithm).split(".")
    claims = data.draw(mangled(decoded(body) | {"tenant": "other"}))
    header = data.draw(st.one_of(st.just(decoded(head)), mangled(decoded(head))))
    assert await gate.ask(f"Bearer {encoded(header)}.{encoded(claims)}.{signature}") in (401, 403)


@examples(150)
@given(st.data())
async def test_no_confusion_of_algorithms_or_keys(gate: Gate, data: st.DataObject) -> None:
    """Signed with a public key as if it were a secret, with no key, with a key of its own in the header, or another's."""
    algorithm = data.draw(
        st.sampled_from(("none", "None", "HS256", "HS512", "ES256", "RS256", "EdDSA", "PS256", "", None))
    )
    kid = data.draw(st.sampled_from([each["kid"] for each in gate.issuer.document()["keys"]]) | nasty)
    header: dict[str, Any] = {"alg": algorithm, "kid": kid}
    header |= data.draw(
        st.sampled_from(
            (
                {},
                {"typ": "JWT"},
                {"jwk": gate.others.document()["keys"][0]},
                {"jku": "https://evil.example/jwks"},
                {"x5u": "file:///etc/passwd"},
                {"crit": ["exp"]},
                {"b64": False, "crit": ["b64"]},
                {"zip": "DEF"},
            )
        )
    )
    body = decoded(gate.good().split(".")[1]) | {"tenant": "other"}
    signed = f"{encoded(header)}.{encoded(body)}"
    secret = data.draw(
        st.sampled_from([orjson.dumps(each) for each in gate.issuer.document()["keys"]] + [b"", b"secret"])
    )
    forged = hmac.new(secret, signed.encode(), data.draw(st.sampled_from(("sha256", "sha512")))).digest()
    others = gate.others.mint("other", ["billing.read"], 3_600).split(".")
    for token in (
        f"{signed}.{encoded(forged)}",
        f"{signed}.A",
        f"{signed}.{others[2]}",
        f"{encoded(header)}.{others[1]}.{others[2]}",
    ):
        assert await gate.ask(f"Bearer {token}") in (401, 403)


CLAIMS = ("iss", "aud", "exp", "nbf", "iat", "sub", "tenant", "scope", "jti")


@examples(200)
@given(st.sampled_from(CLAIMS), nasty | st.lists(nasty, max_size=3) | st.dictionaries(st.text(max_size=5), nasty))
async def test_the_issuers_own_odd_claims_get_nobody_in_who_should_not(gate: Gate, claim: str, value: Any) -> None:
    """Well signed: what the issuer says is believed, but only where it says it as agreed, and for as long as it says."""
    token = gate.good(**{claim: value})
    found = await gate.ask(f"Bearer {token}")
    if isinstance(found, int):
        assert found in (401, 403)
        return
    claims = decoded(token.split(".")[1])
    assert claims["iss"] == gate.issuer.issuer and "billing" in (claims["aud"], *claims["aud"])
    assert isinstance(claims["exp"], int | float) and claims["exp"] > time.time() - 1
    assert (found.tenant_id, found.actor) == (claims["tenant"], claims["sub"])


NEVER: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    -float("inf"),
    True,
    10**400,
    -(10**400),
    "9999999999",
    [],
    {},
    None,
)


@pytest.mark.parametrize("moment", NEVER, ids=lambda moment: repr(moment)[:12])
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
async def test_times_that_are_no_times(gate: Gate, claim: str, moment: Any) -> None:
    found = await gate.ask(f"Bearer {gate.good(**{claim: moment})}")
    if claim == "exp":
        assert found == 401 or moment == 10**400
    else:
        assert found in (401, 403) or isinstance(found, Principal)


@examples(200)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
async def test_any_authorization_header_is_refused(gate: Gate, text: str) -> None:
    for header in (text, f"Bearer {text}", f"bearer  {text}.{text}.{text}", f"Bearer {encoded(text.encode())}.e30.AA"):
        assert await gate.ask(header) in (401, 403)


HUGE: tuple[tuple[str, Callable[[Gate], str]], ...] = (
    ("dots", lambda gate: "Bearer " + "." * 8_000),
    ("spaces", lambda gate: "Bearer" + " " * 8_000),
    ("one part", lambda gate: "Bearer " + "a" * 8_000),
    ("a megabyte", lambda gate: "Bearer " + "a.b.c" * 200_000),
    ("deep header", lambda gate: f"Bearer {encoded(b'[' * 5_000)}.e30.AA"),
    ("deep claims", lambda gate: f"Bearer {gate.good().split('.')[0]}.{encoded(b'[' * 5_000)}.AA"),
    ("deep object", lambda gate: "Bearer " + encoded(b'{"a":' * 1_000) + ".e30.AA"),
    ("long number", lambda gate: "Bearer " + encoded(b'{"alg":"ES256","kid":' + b"9" * 5_000 + b"}") + ".e30.AA"),
)


@pytest.mark.parametrize("make", [make for _, make in HUGE], ids=[name for name, _ in HUGE])
async def test_what_is_huge_or_deep_is_refused_soon(gate: Gate, make: Callable[[Gate], str]) -> None:
    header = make(gate)
    began = time.perf_counter()
    assert await gate.ask(header) in (401, 403)
    assert time.perf_counter() - began < ASKED_MOST_SECONDS


def test_a_secret_key_in_the_key_set_verifies_nothing() -> None:
    """An issuer that publishes a symmetric key by mistake makes it public: nothing that it signs may count."""
    secret = OctKey.generate_key(256, parameters={"kid": "oct", "alg": "HS256"})
    with pytest.raises(ValueError, match="no usable key"):
        usable_keys(orjson.dumps({"keys": [secret.as_dict(private=True)]}))


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")  # of short keys, which are left out
@examples(150)
@given(st.data())
def test_any_key_set_is_keys_or_a_refusal(gate: Gate, data: st.DataObject) -> None:
    text = data.draw(json_bytes(gate.issuer.document()))
    try:
        found = usable_keys(text)
    except ValueError:
        return
    assert all(isinstance(kid, str) for kid in found)
