"""The `billing` command as a person or a script runs it: real processes against a real mesh."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from adapters.nats.topology import JOB_QUEUES
from tests.fixtures.servers import TEMPLATE
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT, binary

OPEN = "billing.v1.cmd.{tenant}.account.open"
ACCOUNT = {"patient": "Patient/p-1", "currency": "AFN"}
_TIMEOUT_SECONDS = 60


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Stdout as one JSON document: fails where anything else was printed."""
        return json.loads(self.out)


def billing(*arguments: str, env: Mapping[str, str], stdin: str = "") -> Result:
    result = subprocess.run(
        [binary("billing"), *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT), "COLUMNS": "200", **env},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
    )
    return Result(result.returncode, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    with Mesh.isolated(stack, template=TEMPLATE) as mesh:
        yield mesh


@pytest.fixture
def tenant(mesh: Mesh) -> str:
    return mesh.add_tenant(f"t-{uuid.uuid4().hex[:12]}").tenant_id


@pytest.fixture
def run(mesh: Mesh) -> Callable[..., Result]:
    """Runs `billing …` as the operator."""
    env = mesh.env("operator")
    return lambda *arguments, stdin="": billing(*arguments, env=env, stdin=stdin)


# --- roles and settings


@pytest.mark.parametrize("role", ["api", "handlers", "worker", "migrate"])
def test_a_role_without_settings_names_every_variable_and_exits_2(role: str) -> None:
    result = billing(role, env={})
    assert result.code == 2
    assert result.out == ""
    wanted = {"REGION: missing", "COUNTRY_PROFILE: missing", "NATS_URL: missing"}
    wanted |= {"JWKS_URL: missing"} if role == "api" else {"DATABASE_URL: missing"}
    assert all(text in result.err for text in wanted), result.err
    assert "Traceback" not in result.err


def test_a_malformed_setting_is_named_and_its_value_is_not_shown(mesh: Mesh) -> None:
    secret = "not-a-url-but-secret"
    result = billing("worker", env={**mesh.env("worker"), "DATABASE_URL": secret, "RELAY_SHARDS": "zero"})
    assert result.code == 2
    assert "DATABASE_URL" in result.err
    assert "RELAY_SHARDS" in result.err
    assert secret not in result.err


def test_an_unknown_consumer_group_is_refused(mesh: Mesh) -> None:
    result = billing("handlers", "--groups", "payments,refunds", env=mesh.env("handlers"))
    assert result.code == 2
    assert "refunds" in result.err
    assert "charges" in result.err  # what there is


def test_the_static_directory_is_refused_in_production(mesh: Mesh) -> None:
    result = billing("handlers", env={**mesh.env("handlers"), "ENVIRONMENT": "production"})
    assert result.code == 2
    assert "TENANT_DIRECTORY_FILE" in result.err


@pytest.mark.parametrize("arguments", [[], ["api"]])
def test_worker_true_selects_the_worker(mesh: Mesh, arguments: list[str]) -> None:
    # With the worker's variables alone: the shim would ask for JWKS_URL, the worker finds its port taken.
    env = {**mesh.env("worker"), "WORKER": "true", "METRICS_PORT": mesh["worker"].env["METRICS_PORT"]}
    result = billing(*arguments, env=env)
    assert result.code == 1
    assert '"role":"worker"' in result.err
    assert "role_failed" in result.err


def test_plain_billing_prints_help_and_knows_its_version() -> None:
    assert "publish" in billing(env={}).out
    version = billing("--version", env={})
    assert version.code == 0
    assert version.out.strip()


# --- migrate


def test_migrate_declares_everything_and_then_nothing(stack: Stack) -> None:
    with Mesh.isolated(stack, roles=()) as mesh:
        env = mesh.env("migrate")
        again = billing("migrate", "--json", env=env)
        assert (again.code, again.data) == (0, {"changes": []})
        assert "nothing to do" in billing("migrate", env=env).out
        mesh.stack.postgres.drop_database(mesh.database)
        mesh.stack.postgres.create_database(mesh.database)
        first = billing("migrate", "--phase", "expand", "--json", env=env)
        assert first.code == 0
        assert {change["kind"] for change in first.data["changes"]} == {"revision"}
        assert first.data["changes"][0]["name"] == "0001_mesh"


def test_migrate_says_which_server_is_away(mesh: Mesh) -> None:
    env = {**mesh.env("migrate"), "DATABASE_URL": "postgresql://billing_owner:secret@127.0.0.1:1/billing"}
    result = billing("migrate", env=env)
    assert result.code == 3
    assert "PostgreSQL" in result.err
    assert "DATABASE_URL" in result.err
    assert "secret" not in result.err


# --- publish


def test_publish_waits_for_the_outcome_and_a_second_time_says_duplicate(
    run: Callable[..., Result], tenant: str, tmp_path: Path
) -> None:
    body = tmp_path / "account.json"
    body.write_text(json.dumps(ACCOUNT, indent=2))
    command_id = str(uuid.uuid4())
    arguments = ("publish", OPEN.format(tenant=tenant), str(body), "--id", command_id, "--wait", "--json")
    first, second = run(*arguments), run(*arguments)
    assert (first.code, second.code) == (0, 0)
    assert first.data["outcome"]["status"] == "applied"
    assert first.data["duplicate"] is False
    assert first.data["message_id"] == command_id
    assert second.data["outcome"]["status"] == "duplicate"
    assert second.data["duplicate"] is True
    assert second.data["outcome"]["result"] == first.data["outcome"]["result"]


def test_publish_without_waiting_prints_the_acknowledgement(run: Callable[..., Result], tenant: str) -> None:
    result = run("publish", OPEN.format(tenant=tenant), "-", stdin=json.dumps(ACCOUNT))
    assert result.code == 0
    assert "BILLING_COMMANDS" in result.out


def test_a_refusal_names_its_code_and_exits_1(run: Callable[..., Result], tenant: str) -> None:
    refused = run(
        "publish", f"billing.v1.cmd.{tenant}.account.close", json.dumps({"account_id": str(uuid.uuid4())}), "--wait"
    )
    assert refused.code == 1
    assert "account_not_found" in refused.err
    malformed = run("publish", OPEN.format(tenant=tenant), "{}", "--wait", "--json")
    assert malformed.code == 1
    assert malformed.data["outcome"]["error"]["code"] == "malformed_command"
    stranger = run("publish", OPEN.format(tenant="t-unknown"), json.dumps(ACCOUNT), "--wait", "--json")
    assert stranger.data["outcome"]["error"]["code"] == "tenant_not_entitled"


def test_many_commands_from_json_lines(run: Callable[..., Result], tenant: str, tmp_path: Path) -> None:
    bodies = [{**ACCOUNT, "patient": f"Patient/{number}"} for number in range(400)]
    bodies[7] = {**ACCOUNT, "currency": "XXX"}
    lines = tmp_path / "accounts.jsonl"
    lines.write_text("\n".join(json.dumps(body) for body in bodies) + "\n")
    result = run("publish", OPEN.format(tenant=tenant), str(lines), "--wait", "--json")
    entries = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 1
    assert [entry["line"] for entry in entries] == list(range(1, 401))
    assert [entry["line"] for entry in entries if entry["outcome"]["status"] == "rejected"] == [8]
    sequences = [entry["sequence"] for entry in entries]
    assert sequences == sorted(sequences)
    table = run("publish", OPEN.format(tenant=tenant), str(lines), "--wait")
    assert "399" in table.out
    assert "malformed_command" in table.out


def test_count_sends_one_body_many_times(run: Callable[..., Result], tenant: str) -> None:
    sent = run("publish", OPEN.format(tenant=tenant), json.dumps(ACCOUNT), "--count", "30", "--wait", "--json")
    entries = [json.loads(line) for line in sent.out.splitlines()]
    assert len({entry["message_id"] for entry in entries}) == 30
    assert {entry["outcome"]["status"] for entry in entries} == {"applied"}


@pytest.mark.parametrize(
    ("name", "hint"), [("acount.open", "account.open"), ("payments.record", "payment.record"), ("x.y", "there are")]
)
def test_an_unknown_aggregate_is_an_error_with_close_matches(
    run: Callable[..., Result], tenant: str, name: str, hint: str
) -> None:
    result = run("publish", f"billing.v1.cmd.{tenant}.{name}", "{}", "--wait")
    assert result.code == 1
    assert "no stream takes this subject" in result.err
    assert hint in result.err


def test_an_unknown_verb_is_warned_of_and_refused(run: Callable[..., Result], tenant: str) -> None:
    result = run("publish", f"billing.v1.cmd.{tenant}.account.opne", "{}", "--wait")
    assert result.code == 1
    assert f"did you mean billing.v1.cmd.{tenant}.account.open" in result.err
    assert "unknown_command" in result.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["billing.v1.evt.t.account.opened", "{}"], "billing.v1.cmd.<tenant>"),
        (["billing.v1.cmd.t.account.open", "{"], "not JSON"),
        (["billing.v1.cmd.t.account.open", "-"], "empty"),
        (["billing.v1.cmd.t.account.open", "no-such-file.json"], "No such file"),
        (["billing.v1.cmd.t.account.open", "{}", "--id", "17"], "<uuid>"),
        (["billing.v1.cmd.t.account.open", "{}", "--id", str(uuid.uuid4()), "--count", "2"], "--id"),
        (["billing.v1.cmd.t.account.open", "{}", "--actor", "two words"], "--actor"),
    ],
)
def test_wrong_arguments_are_named_and_exit_2(run: Callable[..., Result], arguments: list[str], text: str) -> None:
    result = run("publish", *arguments)
    assert result.code == 2
    assert text in result.err
    assert result.out == ""


def test_a_line_that_is_not_json_is_named_before_anything_is_sent(run: Callable[..., Result], tenant: str) -> None:
    result = run("publish", OPEN.format(tenant=tenant), stdin='{"a": 1}\n{"b": \n')
    assert result.code == 2
    assert "line 2" in result.err


def test_a_tenants_own_user_publishes_and_hears_its_outcome_but_reaches_no_other(mesh: Mesh, tenant: str) -> None:
    env = {**mesh.env("operator"), "NATS_URL": mesh.tenant_nats_url(tenant)}
    prefix = ("--inbox-prefix", f"_INBOX.{tenant}")
    own = billing("publish", OPEN.format(tenant=tenant), json.dumps(ACCOUNT), "--wait", *prefix, env=env)
    assert own.code == 0, own.err
    other = billing("publish", OPEN.format(tenant="t-other"), json.dumps(ACCOUNT), *prefix, env=env)
    assert other.code == 3
    assert "may not publish" in other.err


def test_nats_away_or_refusing_is_said_without_the_password(mesh: Mesh) -> None:
    for url in ("nats://operator:secret@127.0.0.1:1", f"nats://operator:secret@127.0.0.1:{mesh.nats.port}"):
        result = billing("queues", env={**mesh.env("operator"), "NATS_URL": url, "NATS_CONNECT_TIMEOUT_SECONDS": "2"})
        assert result.code == 3
        assert "NATS" in result.err
        assert "secret" not in result.err


# --- query, queues, ledger


def test_query_prints_the_answer_and_its_refusals(run: Callable[..., Result], tenant: str) -> None:
    opened = run("publish", OPEN.format(tenant=tenant), json.dumps(ACCOUNT), "--wait", "--json").data["outcome"]
    account_id, position = opened["result"]["account_id"], opened["position"]
    subject = f"billing.v1.qry.{tenant}.account.get"
    found = run("query", subject, json.dumps({"account_id": account_id, "at_least": position}))
    assert found.code == 0
    assert found.data["account_id"] == account_id
    missing = run("query", subject, json.dumps({"account_id": str(uuid.uuid4())}), "--json")
    assert missing.code == 1
    assert missing.data["error"]["code"] == "account_not_found"
    misspelt = run("query", f"billing.v1.qry.{tenant}.account.gte", "{}")
    assert misspelt.code == 2
    assert "account.get" in misspelt.err


def test_queues_show_every_group_and_what_waits(mesh: Mesh, run: Callable[..., Result], tenant: str) -> None:
    shown = run("queues", "--json", "--interval", "0.2")
    assert shown.code == 0
    assert [row["group"] for row in shown.data["groups"]] == ["accounts", "charges", "invoices", "payments", "jobs"]
    assert [row["group"] for row in shown.data["jobs"]] == list(JOB_QUEUES)
    assert shown.data["replicas"] == {"handlers": 3, "handlers-canary": 1, "worker": 2}
    assert shown.data["relay"] is None, "the operator's own role does not see the outbox of all tenants"
    mesh["handlers"].stop()
    try:
        run("publish", OPEN.format(tenant=tenant), json.dumps(ACCOUNT), "--count", "5")
        relay = mesh.env("operator") | {"DATABASE_RELAY_URL": mesh.dsn("billing_relay")}
        looked = billing("queues", "--json", "--interval", "0.2", "--lag-per-replica", "1", env=relay).data
        waiting = looked["groups"][0]
        assert (waiting["wanted_replicas"], looked["replicas"]["handlers"]) == (5, 5)
        assert looked["relay"] == {"depth": 0, "oldest_age_seconds": 0.0}
        assert (waiting["depth"], waiting["waiting"], waiting["pulls"]) == (5, 5, 0)
        assert waiting["oldest_age_seconds"] > 0
        table = run("queues", "--interval", "0.2").out
        assert "nobody fetches" in table
        nobody = run("query", f"billing.v1.qry.{tenant}.account.list")
        assert nobody.code == 3
        assert "nobody answers" in nobody.err
        timeout = run("publish", OPEN.format(tenant=tenant), json.dumps(ACCOUNT), "--wait", "--timeout", "0.5")
        assert timeout.code == 3
        assert "is queued" in timeout.err
    finally:
        mesh["handlers"].start()


def test_ledger_verify_finds_what_was_tampered_with(mesh: Mesh, run: Callable[..., Result], tenant: str) -> None:
    opened = run("publish", OPEN.format(tenant=tenant), json.dumps(ACCOUNT), "--wait", "--json").data["outcome"]
    payment = {
        "account_id": opened["result"]["account_id"],
        "amount": {"amount_minor": 125_000, "currency": "AFN"},
        "method": "cash",
    }
    paid = run("publish", f"billing.v1.cmd.{tenant}.payment.record", json.dumps(payment), "--wait", "--json")
    assert paid.code == 0, paid.out
    _wait_for_empty_outbox(mesh)
    clean = run("ledger", "verify", "--tenant", tenant, "--scan-events", "--json")
    assert clean.code == 0, clean.out
    assert clean.data["ok"] is True
    assert clean.data["tenants"][0]["transfers"] == 1
    assert clean.data["tenants"][0]["events_checked"] is True
    assert tenant in run("ledger", "verify").out  # found in the directory and the streams

    mesh.stack.postgres.execute(
        f"ALTER TABLE ledger_transfer DISABLE TRIGGER USER; UPDATE ledger_transfer SET amount_minor = 124000 WHERE "
        f"tenant_id = '{tenant}'; ALTER TABLE ledger_transfer ENABLE TRIGGER USER",
        mesh.database,
    )
    broken = run("ledger", "verify", "--tenant", tenant, "--json")
    assert broken.code == 1
    assert "hash_chain" in {found["check"] for found in broken.data["tenants"][0]["mismatches"]}
    assert "hash_chain" in run("ledger", "verify", "--tenant", tenant).out


def test_ledger_verify_without_nats_says_what_it_left_out(mesh: Mesh, tenant: str) -> None:
    env = {name: value for name, value in mesh.env("operator").items() if name != "NATS_URL"}
    result = billing("ledger", "verify", "--tenant", tenant, "--json", env=env)
    assert result.code == 0
    assert result.data["tenants"][0]["events_checked"] is False
    assert "event stream was not checked" in result.err


def _wait_for_empty_outbox(mesh: Mesh) -> None:
    import time

    deadline = time.monotonic() + 10
    while mesh.stack.postgres.execute("SELECT count(*) FROM outbox", mesh.database) != "0":
        assert time.monotonic() < deadline, "the relay does not empty the outbox"
        time.sleep(0.05)
