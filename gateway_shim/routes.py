"""The route table: adding a capability to the HTTP surface is one line here.

Path parameters are fields of the command's or query's body; the rest of a command is the HTTP body, the rest of a query
is the query string. A query with free text is a POST with a body: URLs end up in logs.
"""

import re
from typing import NamedTuple

from schemas.base import CommandBody, QueryBody
from schemas.registry import COMMANDS, QUERIES, CommandSpec, QuerySpec

_PARAMETER = re.compile(r"\{(\w+)\}")


class Route(NamedTuple):
    """`status` is what a newly applied command answers: 201 where it makes something, else 200."""

    method: str
    path: str
    name: str
    status: int = 200

    @property
    def command(self) -> CommandSpec | None:
        return COMMANDS.get(self.name)

    @property
    def spec(self) -> CommandSpec | QuerySpec:
        return COMMANDS[self.name] if self.name in COMMANDS else QUERIES[self.name]

    @property
    def model(self) -> type[CommandBody] | type[QueryBody]:
        spec = self.spec
        return spec.payload if isinstance(spec, CommandSpec) else spec.request

    @property
    def path_parameters(self) -> tuple[str, ...]:
        return tuple(_PARAMETER.findall(self.path))


ROUTES = (
    Route("POST", "/v1/accounts", "account.open", 201),
    Route("PATCH", "/v1/accounts/{account_id}", "account.update"),
    Route("POST", "/v1/accounts/{account_id}/close", "account.close"),
    Route("POST", "/v1/price-lists", "pricelist.publish", 201),
    Route("POST", "/v1/charges", "charge.capture", 201),
    Route("POST", "/v1/charges/{charge_id}/void", "charge.void"),
    Route("POST", "/v1/invoices", "invoice.create", 201),
    Route("POST", "/v1/invoices/{invoice_id}/issue", "invoice.issue"),
    Route("POST", "/v1/invoices/{invoice_id}/void", "invoice.void"),
    Route("POST", "/v1/invoices/{invoice_id}/write-off", "invoice.write_off"),
    Route("POST", "/v1/credit-notes", "credit_note.issue", 201),
    Route("POST", "/v1/payments", "payment.record", 201),
    Route("POST", "/v1/payments/{payment_id}/allocations", "payment.allocate", 201),
    Route("POST", "/v1/payments/{payment_id}/unallocate", "payment.unallocate"),
    Route("POST", "/v1/payments/{payment_id}/refunds", "payment.refund", 201),
    Route("POST", "/v1/payments/{payment_id}/reverse", "payment.reverse"),
    Route("POST", "/v1/payments/charges", "payment.charge", 201),
    Route("POST", "/v1/payments/{payment_id}/capture", "payment.capture"),
    Route("POST", "/v1/payments/{payment_id}/cancel", "payment.cancel"),
    Route("POST", "/v1/payments/{payment_id}/disputes", "payment.dispute", 201),
    Route("POST", "/v1/periods", "period.open", 201),
    Route("POST", "/v1/periods/{period}/close", "period.close"),
    Route("POST", "/v1/periods/{period}/reopen", "period.reopen"),
    Route("POST", "/v1/ledger/accounts", "ledger.define_account", 201),
    Route("POST", "/v1/ledger/adjustments", "ledger.adjust", 201),
    Route("POST", "/v1/statement-runs", "statement.run", 201),
    Route("POST", "/v1/gl/mappings", "gl.map"),
    Route("POST", "/v1/gl/exports", "gl.export", 201),
    Route("POST", "/v1/jobs/{job_id}/cancel", "job.cancel"),
    Route("POST", "/v1/jobs/{job_id}/retry", "job.retry"),
    Route("GET", "/v1/accounts", "account.list"),
    Route("GET", "/v1/accounts/{account_id}", "account.get"),
    Route("GET", "/v1/accounts/{account_id}/balance", "account.balance"),
    Route("GET", "/v1/accounts/{account_id}/activity", "account.activity"),
    Route("GET", "/v1/charges", "charge.list"),
    Route("GET", "/v1/charges/{charge_id}", "charge.get"),
    Route("POST", "/v1/charges/code-suggestions", "charge.suggest_codes"),
    Route("GET", "/v1/invoices", "invoice.list"),
    Route("GET", "/v1/invoices/{invoice_id}", "invoice.get"),
    Route("GET", "/v1/payments", "payment.list"),
    Route("GET", "/v1/payments/{payment_id}", "payment.get"),
    Route("GET", "/v1/payments/holds", "payment.holds"),
    Route("GET", "/v1/ledger/trial-balance", "ledger.trial_balance"),
    Route("GET", "/v1/ledger/transfers", "ledger.transfers"),
    Route("GET", "/v1/ledger/verification", "ledger.verify"),
    Route("GET", "/v1/reports/aging", "report.aging"),
    Route("GET", "/v1/reports/revenue", "report.revenue"),
    Route("GET", "/v1/commands/{command_id}", "command.get"),
    Route("GET", "/v1/jobs", "job.list"),
    Route("GET", "/v1/jobs/{job_id}", "job.get"),
    Route("GET", "/v1/statements", "statement.list"),
    Route("GET", "/v1/statements/{statement_id}", "statement.get"),
    Route("GET", "/v1/gl/exports", "gl.list"),
    Route("GET", "/v1/gl/exports/{job_id}", "gl.get"),
)


# What payment gateways tell: signed by them, without a token (gateway_shim/webhooks.py).
WEBHOOKS = "/v1/webhooks/{adapter}/{tenant}"


def by_path() -> dict[str, dict[str, Route]]:
    """Path template → method → route, in the order in which they are tried: `/v1/charges/code-suggestions` is no charge's id."""
    found: dict[str, dict[str, Route]] = {}
    for route in sorted(ROUTES, key=lambda route: len(route.path_parameters)):
        found.setdefault(route.path, {})[route.method] = route
    return found
