"""What `billing dlq` does."""

import asyncio
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.cli.errors import FAILED, OK, USAGE, CliError
from tools.cli.output import console, note, print_json, print_table
from tools.cli.replay_act import runtime_settings
from tools.cli.replay_session import Asked

if TYPE_CHECKING:
    from tools.replay.dead_letters import Filter, Letter

_OUTCOME_SECONDS = 30.0


async def list_letters(wanted: "Filter", *, one_by_one: bool, as_json: bool) -> int:
    from tools.cli.replay_session import connected
    from tools.replay.dead_letters import by_reason, letters

    async with connected() as client:
        found = await letters(client, wanted)
    if as_json:
        print_json({"letters": [letter.as_json() for letter in found]})
    elif not found:
        print("no dead letters" if wanted.resolved else "no open dead letters")
    elif one_by_one:
        _print_letters(found)
    else:
        rows = [
            (len(group), code, name, f"{group[0].stored.recorded_at:%m-%d %H:%M}", _numbers(group), _short(reason))
            for (code, reason, name), group in by_reason(found).items()
        ]
        print_table(("letters#", "code", "group", "since", "numbers", "reason"), rows)
    return OK


def _print_letters(found: "list[Letter]") -> None:
    rows = [
        (
            letter.position,
            f"{letter.stored.recorded_at:%m-%d %H:%M:%S}",
            letter.subject,
            letter.code,
            letter.as_json()["attempts"],
            "resolved" if letter.resolved else "open",
        )
        for letter in found
    ]
    print_table(("number#", "since", "subject", "code", "attempts#", "state"), rows)


def _short(reason: str) -> str:
    """A third of the terminal, over a few lines at most; `billing dlq show` has the whole."""
    most = max(40, console().width // 2)
    return reason if len(reason) <= most else f"{reason[: most - 1]}…"


def _numbers(group: "list[Letter]") -> str:
    shown = ", ".join(str(letter.position) for letter in group[:5])
    return shown + (" …" if len(group) > 5 else "")


async def show_letters(position: int, *, as_json: bool) -> int:
    from tools.cli.replay_session import connected
    from tools.replay.dead_letters import Filter, letters, resolution

    async with connected() as client:
        (letter,) = await letters(client, Filter(positions=(position,)), bodies=True)
        marked = await resolution(client, letter)
    found = letter.as_json(body=True) | {"resolution": marked}
    if as_json:
        print_json(found)
        return OK
    names = (
        "code",
        "reason",
        "group",
        "tenant",
        "subject",
        "message_id",
        "attempts",
        "stream",
        "sequence",
        "recorded_at",
    )
    rows = [(name.replace("_", " "), found[name]) for name in (*names, "dead_since", "bytes")]
    print_table((f"letter {position}", ""), [*rows, ("resolution", marked or "open")])
    print_table(("header", "value"), sorted(letter.stored.headers.items()))
    _print_body(letter.stored.data)
    return OK


def _print_body(data: bytes) -> None:
    """Pretty where it is JSON; otherwise as it is, without what a terminal would obey."""
    import orjson

    try:
        console().print_json(data=orjson.loads(data))
    except (orjson.JSONDecodeError, RecursionError, ValueError):
        text = data.decode(errors="backslashreplace")
        print("".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text))


async def retry_letters(wanted: "Filter", asked: Asked) -> int:
    from tools.cli.replay_act import new_run
    from tools.cli.replay_session import checked_environment, checked_reason, confirm, connected, execute
    from tools.replay.dead_letters import letters
    from tools.replay.plan import refuse_money
    from tools.replay.pushes import is_push

    runtime = runtime_settings()
    async with connected() as client:
        found = await letters(client, wanted)
        if any(map(is_push, found)):
            return await _push_again(client, found, wanted, asked, runtime.environment)
        plan, selection, options = await _planned(client, found, asked)
        if not asked.execute or not plan.count:
            return _dry(plan, asked)
        reason = checked_reason(asked.reason)
        checked_environment(runtime.environment)
        refuse_money(plan, allow_money=asked.allow_money)
        confirm(f"Retry {plan.count:,} letters in {runtime.environment}?", plan.count, yes=asked.yes)
        make = new_run(asked, runtime, "redeliver", selection, reason, options)
        run = make(plan.bounds.first, plan.bounds.last, plan.count)
        ended, code = await execute(
            client, run, sorted(plan.groups), tenant=wanted.tenant, as_json=asked.as_json, make=_keeping
        )
        again = await _mark(client, found, ended.results, reason, run.replay_id)
    if again:
        note(f"{again:,} letters failed again and are new dead letters")
    return FAILED if again else code


async def _push_again(client: Any, found: "list[Letter]", wanted: "Filter", asked: Asked, environment: str) -> int:
    from tools.cli.replay_session import checked_environment, checked_reason, confirm
    from tools.replay import audit
    from tools.replay.dead_letters import letters
    from tools.replay.errors import ReplayError
    from tools.replay.pushes import is_push, send_again

    if not all(map(is_push, found)):
        raise ReplayError("some of these are pushes to the FHIR gateway: retry those by themselves, with --group fhir")
    if not asked.execute:
        if asked.as_json:
            print_json({"count": len(found), "pushes": True, "executed": False})
        else:
            note(f"dry run: {len(found):,} pushes would be tried again; add --execute and --reason")
        return OK
    reason = checked_reason(asked.reason)
    checked_environment(environment)
    confirm(f"Push {len(found):,} documents again in {environment}?", len(found), yes=asked.yes)
    actor = audit.operator()
    told = {"positions": [letter.position for letter in found], "reason": reason, "by": actor}
    await audit.record(client, "dead_letter.retried", wanted.tenant, told)
    sent = await send_again(client, await letters(client, wanted, bodies=True), reason=reason, actor=actor)
    if asked.as_json:
        print_json({"count": sent, "pushes": True, "executed": True})
    else:
        print(f"{sent:,} pushes are on their way again; one that fails is a new letter")
    return OK


def _keeping(*arguments: Any, **options: Any) -> Any:
    from tools.replay.run import Run

    return Run(*arguments, keep_results=True, **options)


async def _planned(client: Any, found: "list[Letter]", asked: Asked) -> tuple[Any, dict[str, Any], Any]:
    from adapters.nats.topology import DLQ_STREAM
    from tools.replay.checkpoint import Options
    from tools.replay.errors import ReplayError
    from tools.replay.plan import make_plan
    from tools.replay.selection import Selection
    from tools.replay.source import Range

    if not found:
        raise ReplayError("no open dead letter matches")
    positions = tuple(letter.position for letter in found)
    selection = Selection(stream=DLQ_STREAM, sequences=positions)
    plan = await make_plan(client, selection, Range(positions[0], positions[-1]))
    # Letters that fail again are what a retry is about: they end it only where nothing succeeds.
    options = Options(rate_per_second=asked.rate, max_refused_percent=99.0, allow_money=asked.allow_money)
    return plan, selection.as_json(), options


def _dry(plan: Any, asked: Asked) -> int:
    from tools.cli.replay_session import show_plan

    if asked.as_json:
        print_json(plan.as_json() | {"executed": False})
    else:
        show_plan(plan, dry_run=True)
        note(
            "dry run: nothing was sent; add --execute and --reason" if plan.count else "none of these can be sent again"
        )
    return OK if plan.count else USAGE


async def _mark(client: Any, found: "list[Letter]", results: dict[int, tuple[str, str]], reason: str, run: str) -> int:
    """Resolves the letters whose outcome was heard; the number that are dead letters again."""
    from tools.replay.audit import operator
    from tools.replay.dead_letters import resolve_letter

    again = 0
    for letter in found:
        if letter.position not in results:
            continue  # unheard or not sent: it stays open, and retrying it again is harmless
        status, code = results[letter.position]
        again += status == "rejected" and code in _BURIED
        await resolve_letter(
            client, letter, "retried", reason=reason, actor=operator(), outcome=status, outcome_code=code, replay_id=run
        )
    return again


# Refusals that the handlers answer by burying the message (handlers/answers.py).
_BURIED = ("command_failed", "malformed_command", "unknown_command", "message_id_missing", "tenant_mismatch")


async def edited(wanted: "Filter", body: str | None, asked: Asked) -> int:
    """One letter with another body, published as a command: what it does is part of the history."""
    from schemas import headers
    from tools.cli.command_client import CommandClient
    from tools.cli.replay_session import checked_environment, checked_reason, confirm, connected
    from tools.replay import audit
    from tools.replay.dead_letters import letters, resolve_letter
    from tools.replay.errors import ReplayError
    from tools.replay.messages import moves_money, why_not

    runtime = runtime_settings()
    async with connected() as client:
        (letter,) = await letters(client, wanted, bodies=True)
        command = letter.command()
        if command is None or (why := why_not(command)):
            raise ReplayError(
                f"letter {letter.position} cannot be sent: {why if command else 'it does not say what it was'}"
            )
        data = await asyncio.to_thread(_new_body, letter.stored.data, body)
        command_id = headers.command_id(command.message_id)
        if not asked.execute:
            print_json(
                {"subject": command.subject, "command_id": str(command_id), "body": data.decode(), "executed": False}
            )
            return OK
        reason = checked_reason(asked.reason)
        checked_environment(runtime.environment)
        if moves_money(command) and not asked.allow_money:
            raise ReplayError("the letter moves money; add --allow-money if that is meant")
        confirm(f"Send letter {letter.position} with the new body to {command.subject}?", 1, yes=asked.yes)
        actor = audit.operator()
        told = {"position": letter.position, "command_id": str(command_id), "reason": reason, "by": actor}
        await audit.record(client, "dead_letter.edited", _tenant(letter), told)
        async with CommandClient.on(client) as sender:
            attempt = f"{command_id}:edit-{letter.position}"
            sent = await sender.send(
                command.subject, data, attempt, actor=_actor_header(actor), wait_seconds=_OUTCOME_SECONDS
            )
        outcome = sent.outcome
        status = outcome.status if outcome else "unknown"
        code = outcome.error.code if outcome and outcome.error else ""
        more = {"outcome": status, "outcome_code": code, "sequence": sent.sequence}
        await resolve_letter(client, letter, "edited", reason=reason, actor=actor, **more)
    if asked.as_json:
        print_json({"position": letter.position, "command_id": str(command_id), **more})
    else:
        print(f"letter {letter.position}: {status} {code}".rstrip())
    return FAILED if status == "rejected" else OK


def _actor_header(actor: str) -> str | None:
    from schemas import headers

    return actor if headers.ACTOR_VALUE.fullmatch(actor) else None


def _new_body(old: bytes, given: str | None) -> bytes:
    from tools.cli.bodies import parse_bodies, read_source

    if given is not None:
        text = read_source(given)
    else:
        text = _in_editor(old)
        if text.strip() == old.strip():
            raise CliError("the body was not changed; nothing was sent", FAILED)
    bodies = parse_bodies(text, "the new body")
    if len(bodies) != 1:
        raise CliError("the new body is one JSON object", USAGE)
    return bodies[0].data


def _in_editor(old: bytes) -> bytes:
    import orjson

    try:
        text = orjson.dumps(orjson.loads(old), option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        text = old.decode(errors="replace")
    return _edited_text(text)


def _edited_text(text: str) -> bytes:
    """In a file that only this user may read, and that is gone afterwards: it holds a patient's data."""
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="billing-") as directory:
        path = Path(directory) / "body.json"
        path.write_text(text)
        try:
            subprocess.run([*editor, str(path)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CliError(f"{editor[0]}: {error}; nothing was sent", FAILED) from None
        return path.read_bytes()


async def discard_letters(wanted: "Filter", asked: Asked) -> int:
    from tools.cli.replay_session import checked_environment, checked_reason, confirm, connected
    from tools.replay import audit
    from tools.replay.dead_letters import letters, resolve_letter
    from tools.replay.errors import ReplayError

    runtime = runtime_settings()
    async with connected() as client:
        found = [letter for letter in await letters(client, wanted) if not letter.resolved]
        if not found:
            raise ReplayError("no open dead letter matches")
        positions = [letter.position for letter in found]
        if asked.execute:
            reason, actor = checked_reason(asked.reason), audit.operator()
            checked_environment(runtime.environment)
            confirm(f"Discard {len(found):,} letters?", len(found), yes=asked.yes)
            told = {"positions": positions, "reason": reason, "by": actor, "environment": runtime.environment}
            await audit.record(client, "dead_letter.discarded", wanted.tenant, told)
            for letter in found:
                await resolve_letter(client, letter, "discarded", reason=reason, actor=actor)
    if asked.as_json:
        print_json({"positions": positions, "executed": asked.execute})
    elif asked.execute:
        print(f"{len(found):,} letters discarded")
    else:
        _print_letters(found)
        note("dry run: nothing was changed; add --execute and --reason")
    return OK


def _tenant(letter: "Letter") -> str | None:
    return letter.tenant if letter.tenant != "_" else None
