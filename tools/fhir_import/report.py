"""What an import came to: counts per resource type, refusals, remarks, and each patient's totals in bundle and ledger."""

from collections import Counter
from typing import Any, NamedTuple

from tools.cli.errors import FAILED, OK, UNAVAILABLE, CliError
from tools.cli.output import note, print_table
from tools.fhir_import.asking import LedgerSays
from tools.fhir_import.bundles import MAPPED
from tools.fhir_import.plan import Lane, Plan
from tools.fhir_import.runner import Sent

_SHOWN = 20
_REFERENCE_WIDTH = 13  # a kind and a few characters of the id
_COLUMNS = {
    "seen": "seen",
    "unmapped": "unmapped",
    "planned": "commands",
    "applied": "applied",
    "duplicate": "duplicate",
    "rejected": "rejected",
    "not_sent": "not sent",
    "unanswered": "unanswered",
}
_ALWAYS = ("seen", "unmapped", "planned")
_STATUSES = ("applied", "duplicate", "rejected", "not_sent", "unanswered")


class Report(NamedTuple):
    """`ledger` is by account id, empty on a dry run; `sent` too."""

    plan: Plan
    sent: list[Sent]
    ledger: dict[str, LedgerSays | CliError]
    seconds: float
    dry_run: bool

    def exit_code(self, *, strict: bool) -> int:
        statuses = {each.status for each in self.sent}
        if "unanswered" in statuses or any(isinstance(each, CliError) for each in self.ledger.values()):
            return UNAVAILABLE
        if statuses & {"rejected", "not_sent"} or not self.plan.files or (strict and self.plan.unmapped):
            return FAILED
        return OK

    def resources(self) -> dict[str, dict[str, int]]:
        """Per resource type: how many were seen and could not be mapped, and what became of their commands."""
        unmapped = {(each.resource.partition("/")[0], each.resource) for each in self.plan.unmapped}
        unmapped_by_type = Counter(kind for kind, _ in unmapped)
        planned = Counter(step.resource.partition("/")[0] for step in self.plan.steps)
        became = Counter[tuple[str, str]]((each.step.resource.partition("/")[0], each.status) for each in self.sent)
        kinds = [kind for kind in MAPPED if kind in self.plan.seen or unmapped_by_type[kind]]
        return {
            kind: {"seen": self.plan.seen.get(kind, 0), "unmapped": unmapped_by_type[kind], "planned": planned[kind]}
            | {status: became[kind, status] for status in _STATUSES}
            for kind in kinds
        }

    def patients(self) -> list[dict[str, Any]]:
        return [self._patient(lane) for lane in self.plan.lanes]

    def _patient(self, lane: Lane) -> dict[str, Any]:
        says = self.ledger.get(str(lane.account_id))
        row: dict[str, Any] = {
            "patient": lane.patient,
            "account_id": str(lane.account_id),
            "currency": lane.currency,
            "bundle": {"billed_minor": lane.declared.billed_minor, "paid_minor": lane.declared.paid_minor},
            "ledger": None,
            "agrees": None,
        }
        if isinstance(says, LedgerSays):
            row["ledger"] = says._asdict()
            row["agrees"] = (says.billed_minor, says.paid_minor) == tuple(row["bundle"].values())
        return row

    def as_data(self) -> dict[str, Any]:
        refused = [
            {
                "resource": each.step.resource,
                "command": each.command,
                "command_id": str(each.command_id),
                "status": each.status,
                "code": each.code,
                "text": each.text,
            }
            for each in self.sent
            if not each.has_effect
        ]
        return {
            "tenant": self.plan.tenant_id,
            "dry_run": self.dry_run,
            "bundles": self.plan.files,
            "seconds": round(self.seconds, 3),
            "commands": len(self.sent) or len(self.plan.steps),
            "seen": dict(sorted(self.plan.seen.items())),
            "resources": self.resources(),
            "patients": self.patients(),
            "refused": refused,
            "remarks": [remark.as_data() for remark in self.plan.remarks],
        }

    def print(self) -> None:
        """Tables for a terminal. A file's name may be a patient's: it is shown for whole files only."""
        counts = self.resources()
        # Columns of nothing but zeros go: the table has to fit 80 columns.
        names = [name for name in _COLUMNS if name in _ALWAYS or any(row[name] for row in counts.values())]
        rows = [(kind, *(f"{row[name]:,}" for name in names)) for kind, row in counts.items()]
        print_table(("resource", *(f"{_COLUMNS[name]}#" for name in names)), rows)
        self._print_patients()
        self._print_refused()
        self._print_remarks()
        rate = f", {len(self.sent) / self.seconds:,.0f} commands/s" if self.sent and self.seconds else ""
        what = (
            f"{len(self.plan.steps):,} commands planned, none sent" if self.dry_run else f"{len(self.sent):,} commands"
        )
        print(f"{self.plan.files:,} bundles, {what} in {self.seconds:.1f} s{rate}")

    def _print_patients(self) -> None:
        rows = []
        for row in self.patients():
            ledger = row["ledger"] or dict.fromkeys(LedgerSays._fields)
            bundle, words = row["bundle"], {None: "-", True: "agree", False: "DIFFER"}
            billed = f"{bundle['billed_minor']:,}", _number(ledger["billed_minor"])
            paid = f"{bundle['paid_minor']:,}", _number(ledger["paid_minor"])
            rows.append((_short(row["patient"]), row["currency"], *billed, *paid, words[row["agrees"]]))
        differing = [row for row in rows if row[-1] == "DIFFER"]
        columns = ("patient", "cur", "billed#", "ledger#", "paid#", "ledger#", "totals")
        shown = differing or rows
        print_table(columns, shown[:_SHOWN], title="Bundles' totals and the ledger's, in minor units")
        if len(rows) > len(shown[:_SHOWN]):
            agreeing = sum(row[-1] == "agree" for row in rows)
            note(f"{len(rows)} accounts, {agreeing} agree, {len(differing)} differ; --json or --report has all")

    def _print_refused(self) -> None:
        refused = [each for each in self.sent if not each.has_effect]
        if refused:
            rows = [
                (each.step.resource, each.command, each.code or each.status, each.text) for each in refused[:_SHOWN]
            ]
            print_table(("resource", "command", "code", "reason"), rows, title="Without effect")
        if len(refused) > _SHOWN:
            note(f"… and {len(refused) - _SHOWN} more; --json or --report has all")

    def _print_remarks(self) -> None:
        unmapped = self.plan.unmapped
        if unmapped:
            rows = [(each.resource or each.source, each.code, each.path, each.text) for each in unmapped[:_SHOWN]]
            print_table(("what", "code", "where", "why"), rows, title="Not imported")
        if len(unmapped) > _SHOWN:
            note(f"… and {len(unmapped) - _SHOWN} more; --json or --report has all")
        notes = Counter(
            (each.code, each.text if each.resource == "" else "")
            for each in self.plan.remarks
            if each.severity == "note"
        )
        if notes:
            noted = [(code, f"{count:,}", text) for (code, text), count in sorted(notes.items())]
            print_table(("note (docs/fhir-import.md)", "times#", ""), noted)


def _short(reference: str) -> str:
    """A reference that leaves the sums their room on 80 columns; --json has it whole."""
    return reference if len(reference) <= _REFERENCE_WIDTH else f"{reference[: _REFERENCE_WIDTH - 1]}…"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
