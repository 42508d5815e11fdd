"""schemathesis against the running shim: every answer is a documented one, and no 5xx but the documented 503."""

import asyncio
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.codes import Code
from schemas.outcome import Answer, Outcome, problem
from schemas.registry import QUERIES
from tests.integration.shim_peer import Peer, Received, applied, peer, refused, sample, silent
from tests.integration.shim_support import ALL_SCOPES, api
from tools.sandbox.issuer import Issuer
from tools.stack import NatsServer

# Beside the coverage phase, which tries every constraint of every schema, about 80 cases per operation.
LONG = bool(os.environ.get("BILLING_LONG"))
EXAMPLES_PER_OPERATION = 50 if LONG else 4
TIMEOUT_SECONDS = 3_000 if LONG else 300
SEED = 20_261_123  # a run that fails on a pull request must fail again on the next

# 500 stays an error: it is documented for commands that were dead-lettered, and nothing here should make one.
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as one:
        yield one


def _answers(handlers: Peer) -> None:
    """In turn: mostly applied, every refusal there is except the 500, now and then silence."""
    codes = [code for code in Code if code is not Code.COMMAND_FAILED]
    refusals = itertools.cycle(codes)
    turn = itertools.count()

    def decide(command: Received) -> Outcome | None:
        number = next(turn)
        if number % 40 == 39:
            return silent(command)  # type: ignore[func-returns-value]
        return refused(next(refusals))(command) if number % 2 else applied(command)

    def answer(_tenant: str, name: str, _body: object) -> Answer:
        if next(turn) % 4 == 3:
            return Answer(error=problem(next(refusals)))
        return Answer(result=sample(QUERIES[name].result), position="0/1A2B3C")

    handlers.decide, handlers.answer = decide, answer


@pytest.mark.timeout(TIMEOUT_SECONDS + 30)
async def test_every_answer_is_documented(nats_server: NatsServer, issuer: Issuer, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    async with peer(nats_server) as handlers, api(nats_server, issuer, reply_timeout_seconds=0.1) as shim:
        _answers(handlers)
        token = issuer.mint(shim.tenant, ALL_SCOPES, ttl_seconds=TIMEOUT_SECONDS + 60)
        # One worker: it computes more than it waits, and CPython 3.11 may fail to parse in two threads at once ("AST constructor
        # recursion depth mismatch").
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(config), "run", f"{shim.base_url}/openapi.json"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--phases", "examples,coverage,fuzzing", "--checks", ",".join(CHECKS)),
            *("--max-examples", str(EXAMPLES_PER_OPERATION), "--seed", str(SEED), "--workers", "1"),
            *("--warnings", "off", "--continue-on-failure", "--suppress-health-check", "all"),
            cwd=tmp_path,
            env=os.environ | {"NO_COLOR": "1", "COLUMNS": "140"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = output.decode(errors="replace")
        assert process.returncode == 0, text[-20_000:]
        generated = re.search(r"(\d+) generated", text)
        assert generated and int(generated[1]) > 1_000, "it must have tried something: " + text[-2_000:]
        assert {command.name for command in handlers.received} and handlers.queried
        seen = {
            status: await shim.metric("billing_http_requests_total", status=str(status))
            for status in (200, 201, 202, 503)
        }
        assert all(seen.values()), f"the answers have to include {seen}"
