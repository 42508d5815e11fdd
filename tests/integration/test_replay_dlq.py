"""`billing dlq`: dead letters by reason, again, edited and again, discarded."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from nats.aio.client import Client

from adapters.nats.topology import DLQ_STREAM
from tests.fixtures.servers import TEMPLATE
from tests.integration.pipeline_support import stream_messages
from tests.integration.replay_support import account, act, billing, books, handled, on_nats, payment, publish
from tools.stack import Stack
from tools.stack.mesh import Mesh


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    with Mesh.isolated(stack, template=TEMPLATE, roles=("handlers", "worker")) as running:
        yield running


@pytest.fixture
def letters(mesh: Mesh, tenant: str) -> dict[int, dict[str, Any]]:
    """Three malformed payments and one unknown command as dead letters, by number."""
    mesh.add_tenant(tenant)

    async def send(client: Client) -> None:
        account_id = str(uuid.uuid4())
        await publish(client, tenant, "account.open", [account(account_id)])
        await handled(client)
        broken = [{**payment(account_id, 100 + number), "method": "barter"} for number in range(3)]
        await publish(client, tenant, "payment.record", broken)
        await publish(client, tenant, "payment.conjure", [{}])
        await handled(client)

    on_nats(mesh, send)
    found = billing(mesh, "dlq", "list", "--tenant", tenant, "--json").data["letters"]
    return {letter["position"]: letter for letter in found}


def _open(mesh: Mesh, tenant: str) -> list[int]:
    return [letter["position"] for letter in billing(mesh, "dlq", "list", "--tenant", tenant, "--json").data["letters"]]


def test_letters_are_grouped_by_reason_and_shown_whole(
    mesh: Mesh, tenant: str, letters: dict[int, dict[str, Any]]
) -> None:
    assert sorted(letter["code"] for letter in letters.values()) == ["malformed_command"] * 3 + ["unknown_command"]
    first = min(letters)
    assert letters[first]["attempts"] == 1
    assert letters[first]["stream"] == "BILLING_COMMANDS"
    assert "method" in letters[first]["reason"]
    table = billing(mesh, "dlq", "list", "--tenant", tenant).out
    rows = [line.split() for line in table.splitlines() if "_command" in line]
    assert [row[:2] for row in rows] == [["3", "malformed_command"], ["1", "unknown_command"]]
    shown = billing(mesh, "dlq", "show", str(first), "--json").data
    assert json.loads(shown["body"])["method"] == "barter"
    assert shown["headers"]["Billing-Dlq-Subject"] == f"billing.v1.cmd.{tenant}.payment.record"
    assert shown["resolution"] is None


def test_a_retry_that_fails_again_says_so_and_leaves_a_new_letter(
    mesh: Mesh, tenant: str, letters: dict[int, dict[str, Any]]
) -> None:
    first = min(letters)
    dry = billing(mesh, "dlq", "retry", str(first), "--json")
    assert (dry.code, dry.data["count"], dry.data["executed"]) == (0, 1, False)
    done = act(mesh, "dlq", "retry", str(first))
    assert done.code == 1
    assert "failed again" in done.err
    now = _open(mesh, tenant)
    assert first not in now
    (new,) = set(now) - set(letters)
    again = billing(mesh, "dlq", "show", str(new), "--json").data
    # It is still known as the message it was first.
    assert again["headers"]["Billing-Replay-Sequence"] == str(letters[first]["sequence"])
    assert again["message_id"].split(":")[0] == letters[first]["message_id"]


def test_an_edited_letter_is_applied_under_its_own_id(
    mesh: Mesh, tenant: str, letters: dict[int, dict[str, Any]]
) -> None:
    first = min(letters)
    before = books(mesh, tenant)[tenant][0]
    body = json.loads(billing(mesh, "dlq", "show", str(first), "--json").data["body"]) | {"method": "bank"}
    done = act(mesh, "dlq", "retry", str(first), "--body", json.dumps(body))
    assert (done.code, done.data["outcome"]) == (0, "applied"), done.err
    assert books(mesh, tenant)[tenant][0] == before + 1
    assert first not in _open(mesh, tenant)
    resolution = billing(mesh, "dlq", "show", str(first), "--json").data["resolution"]
    assert (resolution["resolution"], resolution["reason"]) == ("edited", "a test")
    query = billing(
        mesh, "query", f"billing.v1.qry.{tenant}.command.get", json.dumps({"command_id": letters[first]["message_id"]})
    )
    assert query.code == 0, query.err


def test_money_is_not_moved_by_an_edit_nobody_allowed(
    mesh: Mesh, tenant: str, letters: dict[int, dict[str, Any]]
) -> None:
    first = min(letters)
    refused = billing(mesh, "dlq", "retry", str(first), "--body", "{}", "--execute", "--yes", "--reason", "x")
    assert refused.code == 2
    assert "--allow-money" in refused.err
    assert first in _open(mesh, tenant)


def test_discarded_letters_stay_with_who_and_why(mesh: Mesh, tenant: str, letters: dict[int, dict[str, Any]]) -> None:
    arguments = ("dlq", "discard", "--code", "malformed_command", "--tenant", tenant)
    assert "dry run" in billing(mesh, *arguments).err
    assert set(_open(mesh, tenant)) == set(letters)
    done = billing(mesh, *arguments, "--execute", "--yes", "--reason", "test messages", "--json")
    assert (done.code, len(done.data["positions"])) == (0, 3)
    assert [letters[position]["code"] for position in _open(mesh, tenant)] == ["unknown_command"]
    shown = billing(mesh, "dlq", "show", str(min(letters)), "--json").data
    assert shown["resolution"]["reason"] == "test messages"
    assert "@" in shown["resolution"]["actor"]
    stored = on_nats(mesh, lambda client: stream_messages(client, DLQ_STREAM, f"billing.v1.dlq.*.{tenant}"))
    assert len(stored) == 4  # nothing is deleted
    everything = billing(mesh, "dlq", "list", "--tenant", tenant, "--all", "--json").data["letters"]
    assert sum(letter["resolved"] for letter in everything) == 3


def test_letters_that_are_not_there_are_named(mesh: Mesh) -> None:
    result = billing(mesh, "dlq", "show", "900000")
    assert result.code == 2
    assert "no dead letter at 900000" in result.err
    unknown = billing(mesh, "dlq", "list", "--code", "no_such_code")
    assert unknown.code == 2
    assert "no such code" in unknown.err
