"""One export's files on their way to the object store, and the manifest that makes them an export.

Each file appears whole under its key when everything was written; the manifest, last of all, says that they belong together.
A reader begins with the manifest: files without one are left over from an attempt that failed, and the next writes them again.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Any, NamedTuple, Self

import orjson

from adapters.gl.layout import COLUMNS, CONTENT_TYPES, EXTENSIONS, LAYOUT, GlCodes, Line, amount_text
from adapters.gl.writers import WRITERS, Writer, writer_version
from adapters.objects import ObjectStore, Upload
from adapters.postgres.ledger_stream import Entry, Side
from schemas.gl import ControlTotal, GlFile, GlForm, GlFormat


class Place(NamedTuple):
    """Where an export goes. All that its bytes depend on is in the folder's name: what stands under a key never changes."""

    folder: str
    formats: tuple[GlFormat, ...]

    def key(self, format: GlFormat) -> str:
        return f"{self.folder}/ledger.{EXTENSIONS[format]}"

    @property
    def manifest_key(self) -> str:
        """One manifest for each set of formats, so that asking for a further one leaves the first manifest alone."""
        return f"{self.folder}/manifest-{'-'.join(self.formats)}.json"


def place(
    *,
    region: str,
    tenant_id: str,
    scope: str,
    form: GlForm,
    formats: Sequence[GlFormat],
    extent: tuple[int, int],
    mapping: Mapping[str, GlCodes],
) -> Place:
    """`scope` is the period or the range asked for; `extent` the first and last sequence that it really holds."""
    ordered = tuple(sorted(formats))
    inputs: list[object] = [LAYOUT, form, sorted((code, *codes) for code, codes in mapping.items())]
    inputs += [writer_version(format) for format in ordered if format == "parquet"]
    digest = sha256(orjson.dumps(inputs)).hexdigest()[:16]
    first, last = extent
    return Place(f"{region}/{tenant_id}/gl/{scope}/{form}-{first:012}-{last:012}-{digest}", ordered)


class MissingMapping(Exception):
    """Ledger accounts in the range have no GL code; `codes` names all of them."""

    def __init__(self, codes: Sequence[str]) -> None:
        super().__init__(f"no GL code for ledger account {', '.join(codes)}; set them with gl.map")
        self.codes = tuple(codes)


class Unbalanced(Exception):
    """Debits and credits of what was written differ: a bug or a damaged ledger, never to be delivered."""


class Files:
    """Entries in, files out. Use `writing`, then `GlFile`s are in `stored` once the block has ended well."""

    def __init__(self, form: GlForm, mapping: Mapping[str, GlCodes]) -> None:
        self._form, self._mapping = form, mapping
        self._writers: dict[GlFormat, tuple[Writer, Upload]] = {}
        self._missing: set[str] = set()
        self._lines = 0
        self._debits: dict[str, int] = defaultdict(int)
        self._credits: dict[str, int] = defaultdict(int)
        self._sums: dict[tuple[str, str], list[int]] = {}
        self.stored: tuple[GlFile, ...] = ()

    @classmethod
    @asynccontextmanager
    async def writing(
        cls, store: ObjectStore, where: Place, form: GlForm, mapping: Mapping[str, GlCodes]
    ) -> AsyncIterator[Self]:
        """The end of the block completes every file. An exception inside leaves none of them.

        Raises MissingMapping, Unbalanced, ObjectStoreError.
        """
        files = cls(form, mapping)
        uploads: dict[GlFormat, Upload] = {}
        async with AsyncExitStack() as stack:
            for format in where.formats:
                upload = await stack.enter_async_context(
                    store.upload(where.key(format), content_type=CONTENT_TYPES[format])
                )
                uploads[format] = upload
                files._writers[format] = (WRITERS[format](form), upload)
            yield files
            await files._finish()
        files.stored = tuple(_file(format, upload, files._lines) for format, upload in uploads.items())

    def formatted(self, entries: Sequence[Entry]) -> list[tuple[Upload, bytes]]:
        """What entries, in order, come to in each file, for `send`. All computation, no waiting: fit for a thread.

        Once a mapping is found missing nothing more comes of it, only missing codes are gathered.
        """
        lines: list[Line] = []
        for entry in entries:
            currency, amount = entry.transfer.currency, entry.transfer.amount_minor
            for name, side in (("debit", entry.debit), ("credit", entry.credit)):
                codes = self._mapping.get(side.code or "")
                if codes is None:
                    self._missing.add(side.code or "?")
                elif self._form == "detail":
                    lines.append(_detail(entry, name, side, codes))
                else:
                    self._sum(side.code or "", currency, name, amount)
            self._debits[currency] += amount
            self._credits[currency] += amount
        return [] if self._missing or not lines else self._written(lines)

    async def send(self, parts: Sequence[tuple[Upload, bytes]]) -> None:
        for upload, data in parts:
            if data:
                await upload.write(data)

    @property
    def totals(self) -> tuple[ControlTotal, ...]:
        return tuple(
            ControlTotal(currency=currency, debits_minor=self._debits[currency], credits_minor=self._credits[currency])
            for currency in sorted(self._debits)
        )

    def _sum(self, code: str, currency: str, name: str, amount: int) -> None:
        entries_debit_credit = self._sums.setdefault((code, currency), [0, 0, 0])
        entries_debit_credit[0] += 1
        entries_debit_credit[1 if name == "debit" else 2] += amount

    async def _finish(self) -> None:
        if self._missing:
            raise MissingMapping(sorted(self._missing))
        if self._form == "summary":
            await self.send(self._written(self._summary()))
        for writer, upload in self._writers.values():
            await upload.write(writer.finish())

    def _summary(self) -> list[Line]:
        lines: list[Line] = []
        debits: dict[str, int] = defaultdict(int)
        credits: dict[str, int] = defaultdict(int)
        for (code, currency), (entries, debit, credit) in sorted(self._sums.items()):
            codes = self._mapping[code]
            debits[currency] += debit
            credits[currency] += credit
            amounts = amount_text(debit, currency), amount_text(credit, currency)
            lines.append((code, codes.gl_code, codes.gl_name, currency, entries, *amounts))
        if (debits, credits) != (self._debits, self._credits) or debits != credits:
            raise Unbalanced("the summary's debits and credits are not those of the entries")
        return lines

    def _written(self, lines: Sequence[Line]) -> list[tuple[Upload, bytes]]:
        self._lines += len(lines)
        return [(upload, writer.write(lines)) for writer, upload in self._writers.values()]


def manifest(body: Mapping[str, Any], files: Sequence[GlFile], totals: Sequence[ControlTotal]) -> bytes:
    """The manifest: `body` and what was written. Same export, same bytes: no job, no time."""
    document = {
        **body,
        "layout": LAYOUT,
        "columns": COLUMNS[body["form"]],
        "totals": [total.model_dump(mode="json") for total in totals],
        "files": [file.model_dump(mode="json") for file in files],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _detail(entry: Entry, name: str, side: Side, codes: GlCodes) -> Line:
    transfer = entry.transfer
    amount, none = amount_text(transfer.amount_minor, transfer.currency), amount_text(0, transfer.currency)
    return (
        transfer.sequence,
        name,
        transfer.effective_on.isoformat(),
        transfer.recorded_at.isoformat(timespec="microseconds"),
        transfer.kind,
        str(transfer.document_id),
        str(transfer.reverses_document_id) if transfer.reverses_document_id else None,
        str(side.account_id) if side.account_id else None,
        side.party_id,
        side.code,
        codes.gl_code,
        codes.gl_name,
        transfer.currency,
        amount if name == "debit" else none,
        amount if name == "credit" else none,
    )


def _file(format: GlFormat, upload: Upload, lines: int) -> GlFile:
    stored = upload.stored
    if stored is None:
        raise RuntimeError("an upload ended well without having stored anything")
    return GlFile(format=format, key=stored.key, sha256=stored.sha256.hex(), bytes=stored.size_bytes, rows=lines)
