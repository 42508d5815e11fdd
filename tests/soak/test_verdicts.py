"""What leaks is seen, and named; what goes up and down, fills and settles is not."""

import random
from collections.abc import Callable

import pytest

from tools.soak.report import markdown, picture
from tools.soak.sampling import of_streams
from tools.soak.verdicts import Recording, Verdict, Window, judge

COUNT = 100
AT = [18.0 * number for number in range(COUNT)]
Grow = Callable[[int], float]


def recording(**changed: Grow) -> Recording:
    """A sound run with noise; `changed` series by name, `_` for the dot, as functions of the sample's number."""
    noise = random.Random(1)

    def flat(value: float, spread: float) -> list[float]:
        return [value + noise.uniform(-spread, spread) for _ in AT]

    series: dict[str, list[float]] = {
        "pss_mb.handlers": flat(130, 4),
        "pss_mb.worker": flat(140, 1),
        "pss_mb.api": flat(85, 1),
        "pss_mb.nats": flat(300, 20),
        "pss_mb.postgres": flat(500, 20),
        "files.handlers": [20 + number % 7 for number in range(COUNT)],
        "threads.handlers": [5.0] * COUNT,
        "connections.billing_app": [8 + number % 3 for number in range(COUNT)],
        "series.handlers": [340.0] * COUNT,
        "nats.connections": [4.0] * COUNT,
        "nats.subscriptions": [250 + number % 2 for number in range(COUNT)],
        "nats.ephemeral_consumers": [number % 2 for number in range(COUNT)],
        "nats.slow_consumers": [0.0] * COUNT,
        "consumers.BILLING_COMMANDS": [10.0] * COUNT,
        "commands.outstanding": flat(80, 70),
        "outbox.unsent": flat(80, 70),
        "table_mb.outbox": [10 + number % 2 for number in range(COUNT)],
        "index_mb.outbox": [8.0] * COUNT,
        "rows.outbox": [0.0] * COUNT,
        "table_mb.payment": [1.0 + number for number in range(COUNT)],
        "index_mb.payment": [1.0 + number for number in range(COUNT)],
        "rows.payment": [10_000.0 * (1 + number) for number in range(COUNT)],
    }
    series |= {name.replace("_", ".", 1): [grow(n) for n in range(COUNT)] for name, grow in changed.items()}
    return Recording(AT, series, {"commands": windows(lambda number: 60 + number % 30)}, 1_000)


def windows(p99: Grow) -> list[Window]:
    return [Window(at, 1_000, 10.0, 20.0, p99(number)) for number, at in enumerate(AT)]


def broken(found: Recording) -> list[str]:
    return [verdict.what for verdict in judge(found) if verdict.state == "BROKEN"]


def test_a_sound_run_breaks_nothing_and_everything_is_judged() -> None:
    verdicts = judge(recording())
    assert {verdict.state for verdict in verdicts} == {"holds"}
    assert {"memory of handlers, MB", "p99 of NATS commands, ms", "size of outbox, MB"} <= {
        each.what for each in verdicts
    }


LEAKS: tuple[tuple[str, Grow, str], ...] = (
    ("pss.mb.handlers", lambda n: 130 + 0.25 * n, "memory of handlers, MB"),
    ("pss.mb.api", lambda n: 85 + 0.2 * n, "memory of api, MB"),
    ("pss.mb.worker", lambda n: 255.0, "most memory of worker, MB"),
    ("pss.mb.nats", lambda n: 300 + 3 * n, "memory of nats, MB"),
    ("files.handlers", lambda n: 20 + n // 10 + n % 4, "open files of handlers"),
    ("threads.handlers", lambda n: 5 + n // 12, "threads of handlers"),
    ("connections.billing_app", lambda n: 8 + n // 10, "PostgreSQL connections of billing_app"),
    ("series.handlers", lambda n: 340 + n, "metric series of handlers"),
    ("nats.connections", lambda n: 4 + n // 40, "NATS connections"),
    ("nats.subscriptions", lambda n: 250 + n // 30, "NATS subscriptions"),
    ("consumers.BILLING_COMMANDS", lambda n: 10 + n // 40, "consumers of BILLING_COMMANDS"),
    ("nats.ephemeral_consumers", lambda n: float(n > 50), "ephemeral consumers left"),
    ("nats.slow_consumers", lambda n: float(n > 30), "slow consumers left"),
    ("commands.outstanding", lambda n: 50.0 * n, "commands that wait"),
    ("outbox.unsent", lambda n: 40.0 * n, "events that wait"),
    ("table.mb.outbox", lambda n: 10 + 0.2 * n, "size of outbox, MB"),
    ("index.mb.outbox", lambda n: 8 + 0.2 * n, "size of outbox, MB"),
    ("index.mb.payment", lambda n: 1 + n * (1 + n / 60), "bytes per row of payment, indexes included"),
)


@pytest.mark.parametrize(("name", "grow", "what"), LEAKS, ids=[what for *_, what in LEAKS])
def test_a_leak_is_seen_and_named(name: str, grow: Grow, what: str) -> None:
    found = recording()
    spelled = name.replace("pss.mb", "pss_mb").replace("table.mb", "table_mb").replace("index.mb", "index_mb")
    assert spelled in found.series
    leaking = found._replace(series={**found.series, spelled: [grow(number) for number in range(COUNT)]})
    assert broken(leaking) == [what]


def test_latency_that_grows_is_seen_and_a_stall_is_not_taken_for_growth() -> None:
    found = recording()
    grown = found._replace(windows={"commands": windows(lambda number: 60 + number)})
    assert broken(grown) == ["p99 of NATS commands, ms"]
    stall = found._replace(windows={"commands": windows(lambda number: 5_000 if number in (80, 81) else 60)})
    assert broken(stall) == []


def test_a_pool_that_grew_to_what_it_needs_is_no_leak() -> None:
    found = recording()
    series = {**found.series, "connections.billing_app": [8.0] * 50 + [10.0] * 50}
    assert broken(found._replace(series=series)) == []


def test_servers_are_not_judged_before_they_settled() -> None:
    """Ids of the duplicate window fill NATS for five minutes; a short run sees only that."""
    found = recording()
    short = found._replace(
        at_seconds=[number * 2.0 for number in range(COUNT)],
        series={**found.series, "pss_mb.nats": [50.0 + 5 * number for number in range(COUNT)]},
    )
    states = {verdict.what: verdict.state for verdict in judge(short)}
    assert (states["memory of nats, MB"], states["memory of handlers, MB"]) == ("not judged", "holds")


def test_threads_of_nats_are_judged_once_it_settled() -> None:
    """Go keeps the threads that its busiest moment needed; when it has had that, more of them are a leak."""
    found = recording()
    found = found._replace(series={**found.series, "threads.nats": [9.0 + number for number in range(COUNT)]})
    for at_seconds, state in ((found.at_seconds, "BROKEN"), ([2.0 * number for number in range(COUNT)], "not judged")):
        states = {verdict.what: verdict.state for verdict in judge(found._replace(at_seconds=at_seconds))}
        assert states["threads of nats"] == state


def test_too_few_samples_are_no_run() -> None:
    with pytest.raises(ValueError, match="samples"):
        judge(recording()._replace(at_seconds=AT[:9]))


def test_a_consumer_without_a_name_is_ephemeral() -> None:
    def consumer(durable: str | None, waiting: int) -> dict[str, object]:
        config = {"durable_name": durable} if durable else {}
        return {"name": "x", "config": config, "num_pending": waiting, "num_ack_pending": 1}

    consumers = [consumer("payments", 5), consumer(None, 0)]
    stream = {"name": "BILLING_COMMANDS", "state": {"bytes": 2**20, "messages": 7}, "consumer_detail": consumers}
    found = of_streams({"account_details": [{"name": "$G", "stream_detail": [stream]}]})
    assert (found["nats.ephemeral_consumers"], found["commands.outstanding"], found["nats.in_hand"]) == (1, 7, 2)
    assert (found["stream_mb.BILLING_COMMANDS"], found["consumers.BILLING_COMMANDS"]) == (1.0, 2)


def test_the_page_names_what_is_broken() -> None:
    from tools.bench.summary import environment
    from tools.soak.run import Plan, Result, document

    verdicts = [*judge(recording()), Verdict("dead letters", None, 3, "0", "BROKEN")]
    result = Result(Plan(), {}, recording(), {"payment.record": 5}, [], {"handlers": 300.0}, False)
    made = document(result, verdicts, environment("16", "2.15"))
    page = markdown(made)
    assert "**Broken: dead letters**" in page and "{" not in page
    assert picture(made).count("<path") > 10
