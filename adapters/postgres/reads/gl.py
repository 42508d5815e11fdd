"""Queries about GL exports. An export is there once it is written: until then its job says how far it is."""

from typing import Any

from sqlalchemy import Row, bindparam, select

from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.paging import Keyset, page
from adapters.postgres.tables import gl_export
from schemas.codes import Code
from schemas.gl import ControlTotal, GetGlExport, GlExportPage, GlExportView, GlFile, ListGlExports
from schemas.outcome import Problem, problem

_EXPORTS = select(gl_export).where(owned(gl_export), gl_export.c.status == "written")
_EXPORT = _EXPORTS.where(gl_export.c.id == bindparam("job_id"))
_NEWEST_FIRST = Keyset.by_time(gl_export.c.recorded_at, gl_export.c.id)


async def get(asking: Asking, query: GetGlExport) -> GlExportView | Problem:
    row = (await asking.connection.execute(_EXPORT, {**asking.parameters, "job_id": query.job_id})).one_or_none()
    return _view(row) if row is not None else problem(Code.GL_EXPORT_NOT_FOUND)


async def listed(asking: Asking, query: ListGlExports) -> GlExportPage | Problem:
    statement, parameters = _EXPORTS, dict[str, Any](asking.parameters)
    if query.period is not None:
        statement = statement.where(gl_export.c.period == bindparam("period"))
        parameters["period"] = query.period
    found = await page(asking.connection, statement, _NEWEST_FIRST, query, **parameters)
    if isinstance(found, Problem):
        return found
    return GlExportPage(items=tuple(_view(row) for row in found.rows), next_cursor=found.next_cursor)


def _view(row: Row[Any]) -> GlExportView:
    return GlExportView(
        job_id=row.id,
        period=row.period,
        form=row.form,
        transfers=row.transfers,
        first_sequence=row.first_sequence,
        last_sequence=row.last_sequence,
        totals=tuple(ControlTotal(**total) for total in row.totals),
        manifest_key=row.manifest_key,
        manifest_sha256=row.manifest_sha256,
        first_hash=row.first_hash,
        last_hash=row.last_hash,
        files=tuple(GlFile(**file) for file in row.files),
        recorded_at=row.recorded_at,
    )
