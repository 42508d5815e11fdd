"""`billing canary check`: the four rollback triggers, asked of any Prometheus with the queries that Argo Rollouts asks."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from tools.cli.errors import FAILED, OK, UNAVAILABLE, USAGE, CliError
from tools.cli.output import Json, note, print_json, print_table

if TYPE_CHECKING:
    import httpx

app = typer.Typer(no_args_is_help=True, help="The rollback triggers of a release that is being tried.")

# In a checkout, and in the image, where the chart itself is not.
_TRIGGER_FILES = (
    Path(__file__).resolve().parents[2] / "charts" / "billing" / "canary.json",
    Path("/usr/share/billing/canary.json"),
)
# PromQL allows no empty place between two commas; this matches every series, also those without a job.
EVERYTHING = 'job=~".*"'
_TIMEOUT_SECONDS = 30.0

Verdict = Literal["ok", "breached", "unknown"]


class Trigger(NamedTuple):
    """One entry of charts/billing/canary.json; `value`, `samples` and `age_seconds` are PromQL with placeholders."""

    name: str
    title: str
    unit: str
    why: str
    breached: Literal["above", "below"]
    limit: float
    value: str
    samples: str
    minimum_samples: int
    age_seconds: str
    maximum_age_seconds: int

    @property
    def query(self) -> str:
        """What is judged; the same text as `billing.canaryQuery` of the chart makes. Empty without enough fresh samples."""
        return (
            f"({self.value}) and on() (({self.samples}) >= {self.minimum_samples}) "
            f"and on() (({self.age_seconds}) <= {self.maximum_age_seconds})"
        )

    def is_breached_by(self, value: float) -> bool:
        return value < self.limit if self.breached == "below" else value > self.limit


class Selection(NamedTuple):
    """Label matchers, and how far back."""

    scope: str = EVERYTHING
    api: str = EVERYTHING
    handlers: str = EVERYTHING
    window: str = "30m"

    def fill(self, query: str, trigger: Trigger) -> str:
        values = {"scope": self.scope, "api": self.api, "handlers": self.handlers, "window": self.window}
        for name, value in (*values.items(), ("minimum", str(trigger.minimum_samples))):
            query = query.replace(f"${name}", value)
        return query


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    verdict: Verdict
    value: float | None
    limit: float
    unit: str
    samples: float | None
    age_seconds: float | None
    reason: str


@app.command()
def check(
    prometheus: Annotated[
        str, typer.Option(metavar="URL", help="Base URL of the Prometheus that scrapes the release.")
    ],
    scope: Annotated[str, typer.Option(help="""Labels of everything, e.g. 'namespace="billing"'.""")] = EVERYTHING,
    api: Annotated[
        str, typer.Option(help="""Labels of the shim's pods to judge, e.g. 'rollouts_pod_template_hash="5d8f"'.""")
    ] = EVERYTHING,
    handlers: Annotated[str, typer.Option(help="Labels of the handlers' pods to judge.")] = EVERYTHING,
    window: Annotated[str, typer.Option(help="How far back to look, as PromQL writes it.")] = "30m",
    triggers_file: Annotated[
        Path | None, typer.Option("--triggers", exists=True, dir_okay=False, help="Instead of the chart's canary.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Availability < 99.5 %, payment p95 > 3 s, ledger integrity mismatches > 0, error rate > 2 %: roll back if any holds.

    Each is judged only on enough samples that are fresh; where there are none, the answer is neither yes nor no.

    Example: billing canary check --prometheus http://prometheus:9090 --scope 'namespace="billing"'

    Exit codes: 0 all hold, 1 roll back, 2 a query is refused (labels, window), 3 not to be judged: Prometheus is away, too few
    samples, or old ones.
    """
    import httpx

    triggers = load_triggers(triggers_file)
    selection = Selection(scope, api, handlers, window)
    with httpx.Client(base_url=prometheus.rstrip("/"), timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
        findings = [judge(client, trigger, selection) for trigger in triggers]
    code = exit_code(findings)
    if as_json:
        print_json({"verdict": _OUTCOMES[code], "triggers": [asdict(finding) for finding in findings]})
    else:
        columns = ("trigger", "value#", "limit#", "samples#", "age#", "verdict", "")
        print_table(columns, (_row(trigger, finding) for trigger, finding in zip(triggers, findings, strict=True)))
        note(_OUTCOMES[code])
    raise typer.Exit(code)


_OUTCOMES = {OK: "go on", FAILED: "roll back", UNAVAILABLE: "cannot be judged: neither go on nor roll back on this"}


def load_triggers(file: Path | None = None) -> list[Trigger]:
    """The triggers of the chart. Raises CliError where there is no such file."""
    path = file or next((path for path in _TRIGGER_FILES if path.exists()), None)
    if path is None:
        raise CliError("the chart's canary.json is not here; name it with --triggers", USAGE)
    try:
        return [Trigger(**each) for each in json.loads(path.read_text(encoding="utf-8"))["triggers"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CliError(f"{path.name}: not a file of triggers ({error})", USAGE) from None


def exit_code(findings: list[Finding]) -> int:
    """A breach counts even where another trigger could not be judged."""
    verdicts = {finding.verdict for finding in findings}
    if "breached" in verdicts:
        return FAILED
    return UNAVAILABLE if "unknown" in verdicts else OK


def judge(client: "httpx.Client", trigger: Trigger, selection: Selection) -> Finding:
    """Ask the query that counts, then the samples and their age, to say why it may be silent."""
    value = _ask(client, selection.fill(trigger.query, trigger))
    samples = _ask(client, selection.fill(trigger.samples, trigger))
    age_seconds = _ask(client, selection.fill(trigger.age_seconds, trigger))
    if value is None:
        verdict: Verdict = "unknown"
        reason = _silence(trigger, samples, age_seconds)
    else:
        verdict = "breached" if trigger.is_breached_by(value) else "ok"
        reason = ""
    return Finding(trigger.name, verdict, value, trigger.limit, trigger.unit, samples, age_seconds, reason)


def _silence(trigger: Trigger, samples: float | None, age_seconds: float | None) -> str:
    if samples is None or age_seconds is None:
        return "no data"
    if samples < trigger.minimum_samples:
        return f"{samples:.0f} samples, {trigger.minimum_samples} are needed"
    if age_seconds > trigger.maximum_age_seconds:
        return f"last seen {age_seconds:.0f} s ago, {trigger.maximum_age_seconds} s at most"
    return "no value"


def _ask(client: "httpx.Client", query: str) -> float | None:
    """The value of a query that has one; None where it has none, or not a number."""
    import httpx

    try:
        answer = client.get("/api/v1/query", params={"query": query})
    except httpx.HTTPError as error:
        raise CliError(f"Prometheus: {type(error).__name__}; check --prometheus", UNAVAILABLE) from None
    try:
        document: dict[str, Any] = answer.json()
    except ValueError:
        raise CliError(f"Prometheus: HTTP {answer.status_code} without JSON; check --prometheus", UNAVAILABLE) from None
    if document.get("errorType") == "bad_data":
        raise CliError(f"Prometheus refuses a query: {document.get('error')}", USAGE)
    if document.get("status") != "success":
        raise CliError(f"Prometheus: {document.get('error', f'HTTP {answer.status_code}')}", UNAVAILABLE)
    result = document["data"]["result"]
    if len(result) > 1:
        raise CliError(f"a trigger's query has {len(result)} values instead of one: {query}", USAGE)
    value = float(result[0]["value"][1]) if result else math.nan
    return None if math.isnan(value) else value


def _row(trigger: Trigger, finding: Finding) -> tuple[str, ...]:
    sign = "≥" if trigger.breached == "below" else "≤"
    age = "-" if finding.age_seconds is None else f"{finding.age_seconds:,.0f} s"
    samples = "-" if finding.samples is None else f"{finding.samples:,.0f}"
    shown = _shown(finding.value, trigger.unit)
    limit = f"{sign} {_shown(trigger.limit, trigger.unit)}"
    return (trigger.title, shown, limit, samples, age, finding.verdict, finding.reason)


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return {"ratio": f"{value * 100:.2f} %", "seconds": f"{value:.2f} s"}.get(unit, f"{value:,.0f}")
