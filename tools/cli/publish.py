"""`billing publish` and `billing query`: what a client of the mesh does, from the command line."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from tools.cli.errors import FAILED, OK, UNAVAILABLE, USAGE, CliError
from tools.cli.output import Json, console, note, print_json

if TYPE_CHECKING:
    from tools.cli.bodies import Body
    from tools.cli.command_client import CommandClient, Published

# Published at a time: NATS acknowledges that many with one fsync, and the order on the stream stays that of the file.
_WINDOW = 256
_SHOWN_REFUSALS = 20
_QUERY_TIMEOUT_SECONDS = 10.0


class _Order(NamedTuple):
    """What to send, and how."""

    subject: str
    actor: str | None
    wait_seconds: float | None
    as_json: bool


def publish(
    subject: Annotated[str, typer.Argument(help="billing.v1.cmd.<tenant>.<aggregate>.<verb>")],
    source: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help="JSON, or JSON Lines for many; - is stdin; or the JSON itself.")
    ] = "-",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the outcome.")] = False,
    command_id: Annotated[
        str | None, typer.Option("--id", metavar="UUID", help="The command id; a new UUIDv7 without.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Send it that many times, each under an id of its own.")] = 1,
    actor: Annotated[str | None, typer.Option(help="Who acts: the Billing-Actor header.")] = None,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an outcome.")
    ] = 10.0,
    raw: Annotated[bool, typer.Option("--raw", help="Send the bytes as one message, JSON or not.")] = False,
    inbox_prefix: Annotated[str | None, typer.Option(help="For a user that may only listen below it.")] = None,
    as_json: Json = False,
) -> None:
    """Publish commands. Publishing again under the same id is safe: a command has one effect.

    Examples:

    billing publish billing.v1.cmd.kabul-central.account.open account.json --wait

    billing publish billing.v1.cmd.kabul-central.charge.capture charges.jsonl --wait

    Exit codes: 0 acknowledged (with --wait: applied), 1 refused or no stream takes the subject, 2 wrong arguments,
    3 NATS is away or no outcome came in time.
    """
    from tools.cli.bodies import Body, parse_bodies, read_source
    from tools.cli.servers import quiet

    quiet()
    text = read_source(source)
    bodies = [Body(1, text)] if raw else parse_bodies(text, "stdin" if source == "-" else source)
    bodies = [body for body in bodies for _ in range(count)]
    message_ids = _message_ids(command_id, len(bodies))
    order = _Order(subject, _checked_actor(actor), timeout_seconds if wait else None, as_json)
    _warn_of_subject(subject)
    raise typer.Exit(asyncio.run(_publish(order, list(zip(message_ids, bodies, strict=True)), inbox_prefix)))


def query(
    subject: Annotated[str, typer.Argument(help="billing.v1.qry.<tenant>.<aggregate>.<verb>")],
    body: Annotated[str, typer.Argument(metavar="[JSON]", help="The request; - is stdin.")] = "{}",
    timeout_seconds: Annotated[float, typer.Option("--timeout", min=0.1)] = _QUERY_TIMEOUT_SECONDS,
    inbox_prefix: Annotated[str | None, typer.Option(help="For a user that may only listen below it.")] = None,
    as_json: Json = False,
) -> None:
    """Ask, and print the answer. With --json the whole answer, position included; without, its result.

    Example: billing query billing.v1.qry.kabul-central.ledger.trial_balance

    Exit codes: 0 answered, 1 refused, 2 wrong arguments, 3 nobody answers.
    """
    from tools.cli.bodies import parse_bodies, read_source
    from tools.cli.servers import quiet

    quiet()
    bodies = parse_bodies(read_source(body), "the request")
    if len(bodies) != 1:
        raise CliError("a query takes one JSON object", USAGE)
    raise typer.Exit(asyncio.run(_query(subject, bodies[0].data, timeout_seconds, inbox_prefix, as_json=as_json)))


async def _query(subject: str, body: bytes, timeout_seconds: float, inbox_prefix: str | None, *, as_json: bool) -> int:
    from nats.errors import NoRespondersError

    from schemas.outcome import Answer
    from tools.cli.names import check_query_subject
    from tools.cli.servers import nats_client

    if (reason := check_query_subject(subject)) is not None:
        raise CliError(f"{subject}: {reason}", USAGE)
    async with nats_client(inbox_prefix=inbox_prefix) as client:
        try:
            reply = await client.request(subject, body, timeout=timeout_seconds)
        except NoRespondersError:
            raise CliError(f"{subject}: nobody answers; `billing handlers` serves the queries", UNAVAILABLE) from None
        except TimeoutError:
            reason = "no answer in time, or this user may not ask it"
            raise CliError(f"{subject}: {reason}", UNAVAILABLE) from None
    answer = Answer.model_validate_json(reply.data)
    if as_json:
        print_json(answer.model_dump(mode="json"))
    elif answer.error is not None:
        note(f"{answer.error.code}: {answer.error.message} {answer.error.details or ''}".rstrip())
    else:
        console().print_json(data=answer.result)
    return OK if answer.error is None else FAILED


async def _publish(order: _Order, messages: "list[tuple[str, Body]]", inbox_prefix: str | None) -> int:
    from tools.cli.command_client import CommandClient
    from tools.cli.servers import nats_client

    async with nats_client(inbox_prefix=inbox_prefix) as connection, CommandClient.on(connection) as client:
        if len(messages) == 1:
            message_id, body = messages[0]
            published = await client.send(
                order.subject, body.data, message_id, actor=order.actor, wait_seconds=order.wait_seconds
            )
            _print_one(published, as_json=order.as_json)
            return FAILED if _refused(published) else OK
        return await _publish_many(client, order, messages)


async def _publish_many(client: "CommandClient", order: _Order, messages: "list[tuple[str, Body]]") -> int:
    from rich.progress import Progress

    from tools.cli.summary import Summary

    summary = Summary()
    with Progress(console=console(stderr=True), disable=order.as_json, transient=True) as progress:
        task = progress.add_task("publishing", total=len(messages))
        for start in range(0, len(messages), _WINDOW):
            window = messages[start : start + _WINDOW]
            sending = (
                client.send(order.subject, body.data, message_id, actor=order.actor, wait_seconds=order.wait_seconds)
                for message_id, body in window
            )
            results = await asyncio.gather(*sending, return_exceptions=True)
            for (message_id, body), result in zip(window, results, strict=True):
                if isinstance(result, BaseException) and not isinstance(result, CliError):
                    raise result
                summary.add(body.line, message_id, result)
                if order.as_json:
                    print_json(summary.entry(body.line, message_id, result))
            progress.advance(task, len(window))
    if not order.as_json:
        summary.print(_SHOWN_REFUSALS)
    return summary.exit_code


def _print_one(published: "Published", *, as_json: bool) -> None:
    from tools.cli.summary import as_data

    if as_json:
        print_json(as_data(published))
        return
    duplicate = ", known already" if published.duplicate else ""
    print(f"{published.message_id}  stored as {published.stream} {published.sequence}{duplicate}")
    outcome = published.outcome
    if outcome is None:
        return
    print(f"{outcome.status}" + (f" at {outcome.position}" if outcome.position else ""))
    if outcome.result is not None:
        console().print_json(data=outcome.result)
    if outcome.error is not None:
        retry = " (retryable)" if outcome.error.retryable else ""
        note(f"{outcome.error.code}{retry}: {outcome.error.message} {outcome.error.details or ''}".rstrip())


def _refused(published: "Published") -> bool:
    return published.outcome is not None and published.outcome.error is not None


def _message_ids(command_id: str | None, count: int) -> Iterable[str]:
    import uuid_utils

    from schemas import headers

    if command_id is None:
        return [str(uuid_utils.uuid7()) for _ in range(count)]
    if count > 1:
        raise CliError(f"--id names one command, and there are {count}: leave it out", USAGE)
    if headers.command_id(command_id) is None:
        raise CliError(f"--id {command_id}: not <uuid> or <uuid>:<attempt>, in lower case", USAGE)
    return [command_id]


def _checked_actor(actor: str | None) -> str | None:
    from schemas import headers

    if actor is not None and not headers.ACTOR_VALUE.fullmatch(actor):
        raise CliError(f"--actor {actor!r}: 1 to 128 visible ASCII characters, no spaces", USAGE)
    return actor


def _warn_of_subject(subject: str) -> None:
    """An unknown verb of a known aggregate is taken by the stream and refused by its consumer group: say so before."""
    from schemas.registry import GROUPS
    from schemas.subjects import COMMAND_PREFIX, parse
    from tools.cli.names import check_command_subject

    reason = check_command_subject(subject)
    if reason is None:
        return
    if not subject.startswith(COMMAND_PREFIX + "."):
        raise CliError(f"{subject}: {reason}", USAGE)
    address = parse(subject)
    if address is not None and any(address.name.split(".")[0] in aggregates for aggregates in GROUPS.values()):
        note(f"warning: {subject}: {reason}")
