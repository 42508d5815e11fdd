"""Why a target is missed: the CPU figures of the same run, what they allow at most, and what would change them."""

from collections.abc import Callable, Mapping
from typing import Any

Document = Mapping[str, Any]

_NOT_MEASURED = "A closed loop of one client, which would tell, was not measured."
_NAMES = {"api": "shim", "nats": "nats-server", "postgres": "PostgreSQL"}


def throughput(document: Document) -> str:
    """Of the headline: the consumer is one process, and everything shares the cores."""
    used, cores = document["cpu_us_per_payment"]["mesh"], document["environment"]["cores"]
    rate = document["end_to_end"]["to_last_event"]["payments_per_second"]
    busy, one, all_cores = (rate * used["total"] / 1e6, 1e6 / used["consumer"], cores * 1e6 / used["total"])
    return (
        f"A payment costs {used['total']:,.0f} µs of CPU ({_shares(used)}): {rate:,.0f}/s keep {busy:.1f} of {cores} "
        f"cores busy. One consumer process cannot pass {one:,.0f}/s, nor all {cores} cores {all_cores:,.0f}/s. The "
        "rest of the time they wait: commits for the disk, the consumer for the database. More cores and a second "
        "handlers process change it; on these cores only fewer µs do."
    )


def tenants(number: int) -> Callable[[Document], str]:
    """Of many tenants: what a transaction costs whatever is in it, from two sizes of it."""

    def why(document: Document) -> str:
        few, many = document["cpu_us_per_payment"]["mesh"], _of_tenants(document, number)
        used, cores = many["cpu_us_per_payment"], document["environment"]["cores"]
        total, size, large = sum(used.values()), many["transaction_size"], document["cost"]["transaction_size"]
        each = max(0.0, total - few["total"]) / max(1e-9, 1 / size - 1 / large)
        return (
            f"{size:,.0f} commands a transaction, where {document['workload']['tenants']} tenants have {large:,.0f}: "
            f"a transaction is one tenant's. A payment costs {total:,.0f} µs of CPU ({_shares(used)}), of which a "
            f"transaction's own share, some {each:,.0f} µs whatever is in it, is {each / size:,.0f}. {cores} cores "
            f"so allow {cores * 1e6 / total:,.0f}/s. Fetches that wait for more of a tenant's commands, cheaper "
            "transactions or more cores would change it."
        )

    return why


def ceiling(document: Document) -> str:
    used = document["cpu_us_per_payment"]["mesh"]
    alone, beside = document["ceiling_per_second"], used["nats"] + used["worker"]
    return (
        f"The database alone, without NATS, does {alone:,.0f}/s with both its ends on the same cores. Of the "
        f"{used['total']:,.0f} µs of a payment nats-server and the relay take {beside:,.0f}; of the consumer's "
        f"{used['consumer']:,.0f}, fetching, decoding, answering and acknowledging come on top of it. Cores of their "
        "own would change it."
    )


def lone(document: Document) -> str:
    alone = _clients(document, 1)
    if alone is None:
        return _NOT_MEASURED
    used, batch = alone["nats"]["cpu_us"], document["cpu_us_per_payment"]["mesh"]["total"]
    return (
        f"A command that comes alone costs {used['total']:,.0f} µs of CPU in all ({_shares(used)}), "
        f"{used['total'] / batch:,.0f} times as much as one of many: each wake-up, transaction and fsync is for one. "
        "Fewer hops or faster cores would change it."
    )


def shim(document: Document) -> str:
    alone = _clients(document, 1)
    if alone is None:
        return _NOT_MEASURED
    http, nats = alone["http"], alone["nats"]
    return (
        f"A lone request costs the shim {http['cpu_us']['api']:,.0f} µs of CPU and its client "
        f"{http['cpu_us']['client']:,.0f} (over NATS {nats['cpu_us']['client']:,.0f}), and makes two more hops "
        "between processes. Asked without a pause, when the shim's log line and metrics of the request before are "
        f"in the way, p50 is {http['p50'] - nats['p50']:,.1f} ms more. A core that is not shared with the database "
        "would change it."
    )


def half_rate(document: Document) -> str:
    half, used = document["half_rate"], document["cpu_us_per_payment"]["mesh"]
    return (
        f"The maximum is of a stream that is full, at {document['cost']['transaction_size']:,.0f} commands a "
        f"transaction and {used['total']:,.0f} µs of CPU a payment. At {half['offered_per_second']:,}/s batches are "
        f"what came meanwhile, and a command of a small batch costs more: {half['per_second']:,.0f}/s were answered, "
        f"p50 {half['p50']:,.0f} ms. The client shares the cores, too; cores of its own would change it."
    )


def replay(document: Document) -> str:
    found = document["replay"]
    return (
        f"Applied commands go again at {found['replay_per_second']:,.0f}/s, and first went at "
        f"{found['first_per_second']:,.0f}/s. A replayed command is published, fetched, decoded, found in the inbox, "
        "answered and acknowledged; it saves the decision and the rows. The faster the first application, the "
        "smaller the ratio."
    )


def relay(document: Document) -> str:
    return (
        f"{document['relay_events_per_second']:,.0f} events/s: one select, one atomic batch and one delete for up to "
        "500 of a shard group, each after the one before. A faster disk or more shard groups would change it."
    )


def memory(document: Document) -> str:
    found = ", ".join(f"{name} {used:,.0f} MB" for name, used in document["cost"]["memory_mb"].items())
    return f"At the end of a run: {found}."


def _shares(used: Mapping[str, float]) -> str:
    parts = {name: figure for name, figure in used.items() if name != "total" and figure >= 0.5}
    return ", ".join(f"{_NAMES.get(name, name)} {figure:,.0f}" for name, figure in parts.items())


def _of_tenants(document: Document, number: int) -> dict[str, Any]:
    return next(each for each in document["tenants"] if each["tenants"] == number)


def _clients(document: Document, number: int) -> dict[str, Any] | None:
    return next((each for each in document.get("shim", []) if each["clients"] == number), None)
