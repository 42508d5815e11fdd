"""One import from start to end on a connection that is there: what the command line does, and what a demo or a test can call."""

import time
from collections.abc import Callable

from nats.aio.client import Client

from tools.fhir_import.asking import ledger_says
from tools.fhir_import.plan import Plan, Step
from tools.fhir_import.report import Report
from tools.fhir_import.runner import Runner

WAIT_SECONDS = 60.0


def _nothing(_: Step) -> None:
    """Nobody watches."""


async def run_plan(
    connection: Client, plan: Plan, wait_seconds: float = WAIT_SECONDS, done: Callable[[Step], None] = _nothing
) -> Report:
    """Sends a plan (`plan_import(load_files(find_files(paths)), tenant)`), then asks the ledger for the totals.

    `report.exit_code(strict=True)` is 0 where everything arrived. Refusals are in the report; raises nothing for them.
    """
    began = time.perf_counter()
    runner = Runner(connection, plan, wait_seconds, done)
    await runner.run()
    seconds = time.perf_counter() - began
    invoices = {document.invoice_id for documents in runner.documents.values() for document in documents}
    opened = {
        each.step.body["account_id"] for each in runner.sent if each.command == "account.open" and each.has_effect
    }
    lanes = [lane for lane in plan.lanes if str(lane.account_id) in opened]
    ledger = await ledger_says(connection, plan.tenant_id, lanes, invoices, runner.position)
    return Report(plan, runner.sent, ledger, seconds, dry_run=False)
