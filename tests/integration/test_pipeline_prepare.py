"""What is known before the transaction: entitlement, residency, charge codes; and neighbours that are away."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.neighbours.ports import CodedItem
from adapters.neighbours.static import StaticNeighbours
from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.tenant import TenantProfile
from tests.fixtures.servers import Database
from tests.integration.pipeline_support import Rig, Sent, rigged
from tools.stack import NatsServer

LOINC, LOCAL = "http://loinc.org", "urn:hospital:local"


class SometimesAway(StaticNeighbours):
    """Both neighbours, answering from the file, or saying that they cannot."""

    away: Code | None = None

    async def profile(self, tenant_id: str) -> TenantProfile | Problem:
        if self.away == Code.TENANT_SERVICE_UNAVAILABLE:
            return problem(self.away)
        return await super().profile(tenant_id)

    async def validate(self, items: Iterable[CodedItem]) -> Mapping[CodedItem, Problem | None]:
        if self.away == Code.TERMINOLOGY_UNAVAILABLE:
            return {item: problem(self.away) for item in items}
        return await super().validate(items)


@pytest.fixture
async def rig(nats_server: NatsServer, database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(nats_server, database, tmp_path) as started:
        yield started


@pytest.fixture
def neighbours(rig: Rig) -> SometimesAway:
    """In place of the rig's: LOINC has every code, the local system has A1 only."""
    known = json.loads(rig.tenants.path.read_text())
    path = rig.tenants.path.with_name("neighbours.json")
    path.write_text(json.dumps(known | {"code_systems": {LOINC: "*", LOCAL: ["A1"]}}))
    found = SometimesAway(path)
    rig.preparation._directory = rig.preparation._terminology = found
    return found


def known(neighbours: SometimesAway, tenant: str, **profile: Any) -> None:
    given = {"tenant_id": tenant, "name": tenant, "region": "local-1", "country_profile": "AFG"} | profile
    neighbours._tenants[tenant] = TenantProfile(**given)


async def open_account(rig: Rig, tenant: str) -> Sent:
    sent = await rig.send(tenant, "account.open", {"patient": "Patient/1", "currency": "AFN"})
    await rig.apply("accounts", 1)
    return sent


async def code_of(rig: Rig, sent: Sent) -> Code:
    outcome = await rig.outcome(sent)
    assert outcome.status == "rejected" and outcome.error is not None
    assert outcome.error.retryable is outcome.error.code.retryable
    return outcome.error.code


async def stored(rig: Rig, sent: Sent) -> list[str]:
    rows = await rig.rows("SELECT status FROM inbox WHERE command_id = $1", sent.command_id)
    return [row["status"] for row in rows]


@pytest.mark.parametrize(
    ("profile", "code"),
    [
        (None, Code.TENANT_NOT_ENTITLED),
        ({"entitled": False}, Code.TENANT_NOT_ENTITLED),
        ({"region": "me-central-1"}, Code.RESIDENCY_VIOLATION),
        ({"region": "me-central-1", "entitled": False}, Code.TENANT_NOT_ENTITLED),
    ],
)
async def test_a_tenant_that_may_not_is_refused_for_good(
    rig: Rig, tenant: str, neighbours: SometimesAway, profile: dict[str, Any] | None, code: Code
) -> None:
    if profile is not None:
        known(neighbours, tenant, **profile)
    sent = await open_account(rig, tenant)
    assert await code_of(rig, sent) == code
    assert await stored(rig, sent) == ["rejected"]
    assert await rig.rows("SELECT 1 FROM account WHERE tenant_id = $1", tenant) == []


async def test_a_tenant_of_another_region_that_opted_in_is_served(
    rig: Rig, tenant: str, neighbours: SometimesAway
) -> None:
    known(neighbours, tenant, region="me-central-1", cross_region_opt_in=True)
    assert (await rig.outcome(await open_account(rig, tenant))).status == "applied"


async def test_only_codes_the_terminology_knows_are_charged(rig: Rig, tenant: str, neighbours: SometimesAway) -> None:
    """One batch: each refusal is its own command's."""
    known(neighbours, tenant)
    account = uuid4()
    await rig.send(tenant, "account.open", {"account_id": account, "patient": "Patient/1", "currency": "AFN"})
    await rig.apply("accounts", 1)
    cases = {
        (LOINC, "1234-5"): None,
        (LOCAL, "A1"): None,
        (LOCAL, "A2"): Code.CHARGE_CODE_UNKNOWN,
        ("urn:nobody:has:it", "A1"): Code.CHARGE_CODE_UNKNOWN,
    }
    sent = {case: await rig.send(tenant, "charge.capture", charge(account, *case)) for case in cases}
    await rig.apply("charges", len(cases))
    for case, code in cases.items():
        if code is None:
            assert (await rig.outcome(sent[case])).status == "applied"
        else:
            assert await code_of(rig, sent[case]) == code
    assert len(await rig.rows("SELECT 1 FROM charge WHERE tenant_id = $1", tenant)) == 2


def charge(account: object, system: str, code: str) -> dict[str, Any]:
    price = {"amount_minor": 100, "currency": "AFN"}
    return {"account_id": account, "code_system": system, "code": code, "quantity": 1, "unit_price": price}


@pytest.mark.parametrize("away", [Code.TENANT_SERVICE_UNAVAILABLE, Code.TERMINOLOGY_UNAVAILABLE])
async def test_a_retryable_refusal_is_not_stored_and_applied_later_under_the_same_id(
    rig: Rig, tenant: str, neighbours: SometimesAway, away: Code
) -> None:
    known(neighbours, tenant)
    account = uuid4()
    await rig.send(tenant, "account.open", {"account_id": account, "patient": "Patient/1", "currency": "AFN"})
    await rig.apply("accounts", 1)
    neighbours.away = away
    first = await rig.send(tenant, "charge.capture", charge(account, LOINC, "1-8"))
    await rig.apply("charges", 1)
    assert await code_of(rig, first) == away
    assert await stored(rig, first) == []
    assert await rig.unfinished("charges") == 0

    neighbours.away = None
    retry, more = [
        await rig.send(
            tenant,
            "charge.capture",
            first.body,
            command_id=first.command_id,
            message_id=f"{first.command_id}:{attempt}",
        )
        for attempt in (2, 3)
    ]
    await rig.apply("charges", 2)
    assert [(await rig.outcome(each)).status for each in (retry, more)] == ["applied", "duplicate"]
    assert len(await rig.rows("SELECT 1 FROM charge WHERE tenant_id = $1", tenant)) == 1


async def test_what_needs_no_terminology_goes_on_without_it(rig: Rig, tenant: str, neighbours: SometimesAway) -> None:
    known(neighbours, tenant)
    neighbours.away = Code.TERMINOLOGY_UNAVAILABLE
    assert (await rig.outcome(await open_account(rig, tenant))).status == "applied"


async def test_a_neighbour_that_raises_postpones_its_share_only(
    rig: Rig, tenant: str, neighbours: SometimesAway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in a look-up is a bug or an outage nobody foresaw: the command is tried again."""
    other = f"{tenant}-b"
    known(neighbours, tenant)
    known(neighbours, other)
    answer = neighbours.profile

    async def raising(tenant_id: str) -> TenantProfile | Problem:
        if tenant_id == tenant:
            raise RuntimeError
        return await answer(tenant_id)

    monkeypatch.setattr(neighbours, "profile", raising)
    unlucky, lucky = [
        await rig.send(each, "account.open", {"patient": "Patient/1", "currency": "AFN"}) for each in (tenant, other)
    ]
    await rig.apply("accounts", 2)
    assert (await rig.outcome(lucky)).status == "applied"
    assert await rig.silent(unlucky)
    monkeypatch.undo()
    await rig.apply("accounts", 1)
    assert (await rig.outcome(unlucky)).status == "applied"
