"""From samples to verdicts. Pure: no clock, no server.

Limits compare a run with itself: the last fifth of the samples with the second (the first is warm-up), of latency the last third
of the windows with the first. So they mean the same on any machine.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple

MEMORY_LIMIT_MB = 250.0
MEMORY_RATIO = 1.1
# Servers fill their own caches as the data grows: PostgreSQL its shared buffers, NATS the blocks and ids it keeps.
SERVER_MEMORY_RATIO = 1.25
# Windows full, buffers full, a checkpoint or two: what a server keeps has found its size in the first five minutes.
SERVERS_SETTLE_SECONDS = 300.0
SIZE_RATIO = 1.25
LATENCY_RATIO = 1.5
LATENCY_NOISE_MS = 5.0
# A pool that needs one more connection opens it and keeps it: that is no leak.
COUNT_SLACK = 2.0
BACKLOG_SECONDS = 1.0
# A relation below this says nothing about bytes per row.
SMALL_MB = 4.0
FEWEST_SAMPLES = 10
# Relations whose rows stay few: their size may not follow the number of events that passed.
FEW_ROWS = ("outbox", "tenant_book", "ledger_account")

Series = Mapping[str, Sequence[float]]
State = Literal["holds", "BROKEN", "not judged"]


class Window(NamedTuple):
    """Latencies in ms of the `requests` that were due in a window that began `at_seconds` after the load did."""

    at_seconds: float
    requests: int
    p50: float
    p95: float
    p99: float


class Verdict(NamedTuple):
    """`early` and `late` as they are compared; None where only one figure counts. `limit` says what was asked of `late`."""

    what: str
    early: float | None
    late: float
    limit: str
    state: State


class Recording(NamedTuple):
    """All that was seen: moments in seconds from the start of the load, a figure for each in every series, windows by way."""

    at_seconds: Sequence[float]
    series: Series
    windows: Mapping[str, Sequence[Window]]
    per_second: float


def judge(recording: Recording) -> list[Verdict]:
    """Every verdict on the samples. Raises ValueError for fewer samples than fifths can be made of."""
    if len(recording.at_seconds) < FEWEST_SAMPLES:
        raise ValueError(f"{len(recording.at_seconds)} samples; at least {FEWEST_SAMPLES} are needed")
    series = recording.series
    return [
        *_memory(recording),
        *_counts(recording),
        *_consumers(series),
        *_backlog(recording),
        *_bloat(series),
        *_latency(recording.windows),
    ]


def second_fifth(values: Sequence[float]) -> Sequence[float]:
    fifth = len(values) // 5
    return values[fifth : 2 * fifth]


def last_fifth(values: Sequence[float]) -> Sequence[float]:
    return values[-(len(values) // 5) :]


def _named(series: Series, prefix: str) -> list[tuple[str, Sequence[float]]]:
    return [(name.removeprefix(prefix), values) for name, values in sorted(series.items()) if name.startswith(prefix)]


def _ratio(what: str, early: float, late: float, most: float, *, slack: float = 0.0) -> Verdict:
    limit = f"≤ {most:g} ×" + (f" + {slack:g}" if slack else "")
    return Verdict(what, early, late, limit, "holds" if late <= early * most + slack else "BROKEN")


def _servers_settled(recording: Recording) -> bool:
    """Their second fifth has to lie behind what they settle in."""
    return recording.at_seconds[len(recording.at_seconds) // 5] >= SERVERS_SETTLE_SECONDS


def _memory(recording: Recording) -> list[Verdict]:
    found = []
    for name, values in _named(recording.series, "pss_mb."):
        early, late = median(second_fifth(values)), median(last_fifth(values))
        if name in ("nats", "postgres"):
            verdict = _ratio(f"memory of {name}, MB", early, late, SERVER_MEMORY_RATIO)
            found.append(verdict if _servers_settled(recording) else verdict._replace(state="not judged"))
            continue
        found.append(_ratio(f"memory of {name}, MB", early, late, MEMORY_RATIO))
        most = max(values)
        state: State = "holds" if most <= MEMORY_LIMIT_MB else "BROKEN"
        found.append(Verdict(f"most memory of {name}, MB", None, most, f"≤ {MEMORY_LIMIT_MB:g}", state))
    return found


def _counts(recording: Recording) -> list[Verdict]:
    """A pool may open a connection or two more, which is the slack; NATS's own counts have to come back to where they were.

    Go adds a thread to nats-server whenever all are in a system call, up to the most that ever were, and keeps it.
    """
    series = recording.series
    kinds = {
        "files.": "open files of {}",
        "threads.": "threads of {}",
        "connections.": "PostgreSQL connections of {}",
        "series.": "metric series of {}",
    }
    found = [
        _ratio(text.format(name), median(second_fifth(values)), median(last_fifth(values)), 1.0, slack=COUNT_SLACK)
        for prefix, text in kinds.items()
        for name, values in _named(series, prefix)
        if name != "postgres"  # its files are its connections' and its relations'
    ]
    if not _servers_settled(recording):
        found = [each._replace(state="not judged") if each.what == "threads of nats" else each for each in found]
    for name in ("connections", "subscriptions"):
        if values := series.get(f"nats.{name}"):
            found.append(_returns(f"NATS {name}", values))
    return found


def _returns(what: str, values: Sequence[float]) -> Verdict:
    """What goes up and down is no leak while it comes back: the least of the end against the most before."""
    return _ratio(what, max(second_fifth(values)), min(last_fifth(values)), 1.0)


def _consumers(series: Series) -> list[Verdict]:
    found = [_returns(f"consumers of {name}", values) for name, values in _named(series, "consumers.")]
    for name, text in (("nats.ephemeral_consumers", "ephemeral consumers"), ("nats.slow_consumers", "slow consumers")):
        if values := series.get(name):
            left = min(last_fifth(values))
            found.append(Verdict(f"{text} left", None, left, "0", "BROKEN" if left else "holds"))
    return found


def _backlog(recording: Recording) -> list[Verdict]:
    most = recording.per_second * BACKLOG_SECONDS
    found = []
    for name, text in (("commands.outstanding", "commands that wait"), ("outbox.unsent", "events that wait")):
        if values := recording.series.get(name):
            early, late = median(second_fifth(values)), median(last_fifth(values))
            state: State = "holds" if late <= most else "BROKEN"
            found.append(Verdict(text, early, late, f"≤ {most:,.0f}, a second's", state))
    return found


def _bloat(series: Series) -> list[Verdict]:
    found = []
    for name, table in _named(series, "table_mb."):
        index, rows = series[f"index_mb.{name}"], series[f"rows.{name}"]
        total = [sum(pair) for pair in zip(table, index, strict=True)]
        if name in FEW_ROWS:
            found.append(
                _ratio(f"size of {name}, MB", _most(second_fifth, total), _most(last_fifth, total), SIZE_RATIO, slack=1)
            )
        elif total[-1] >= SMALL_MB and min(rows[len(rows) // 5 :]) > 0:
            per_row = [megabytes * 2**20 / max(1.0, count) for megabytes, count in zip(total, rows, strict=True)]
            early, late = median(second_fifth(per_row)), median(last_fifth(per_row))
            found.append(_ratio(f"bytes per row of {name}, indexes included", early, late, SIZE_RATIO))
    return found


def _most(part: Callable[[Sequence[float]], Sequence[float]], values: Sequence[float]) -> float:
    return max(part(values))


def _latency(windows: Mapping[str, Sequence[Window]]) -> list[Verdict]:
    found = []
    for way, text in (("commands", "NATS commands"), ("http", "HTTP requests"), ("queries", "NATS queries")):
        seen = windows.get(way, ())
        if third := len(seen) // 3:
            # A hundredth of a few hundred requests is two or three of them: of these the twentieth says more.
            which = "p99" if way == "commands" else "p95"
            early = median(getattr(each, which) for each in seen[:third])
            late = median(getattr(each, which) for each in seen[-third:])
            found.append(_ratio(f"{which} of {text}, ms", early, late, LATENCY_RATIO, slack=LATENCY_NOISE_MS))
    return found
