"""What the report says beside the counts: what was not imported and why, and what was imported with a choice made."""

from typing import Any, Literal, NamedTuple

Severity = Literal["unmapped", "note"]


class Remark(NamedTuple):
    """`resource` is `Type/id`, empty for a whole file; `path` is inside it. Texts hold ids, codes and paths, never names.

    `source` is the file as the operator named it. File names may hold names of patients: it is shown for whole files only.
    """

    severity: Severity
    code: str
    resource: str
    path: str
    text: str
    source: str

    def as_data(self) -> dict[str, Any]:
        return self._asdict()


class Unmapped(Exception):
    """Ends the mapping of one resource: what stands in the way, where, in a sentence."""

    def __init__(self, code: str, path: str, text: str) -> None:
        super().__init__(text)
        self.code, self.path, self.text = code, path, text
