"""Why a document cannot be made. Messages name fields and characters, never a whole value: they are logged."""

from typing import NamedTuple


class DocumentError(Exception):
    """`code` is stable and goes on the job; `retryable` is always False: the same content fails again."""

    code = "document_failed"
    retryable = False


class LogoUnusable(DocumentError):
    code = "logo_unusable"


class Missing(NamedTuple):
    """A character without a glyph, and the fields it stands in."""

    character: str
    fields: tuple[str, ...]

    def __str__(self) -> str:
        points = " ".join(f"U+{ord(each):04X}" for each in self.character)
        return f"{points} in {', '.join(self.fields) or 'an unknown field'}"


class GlyphMissing(DocumentError):
    """The fonts cannot show a character. `missing` has one entry per character, in order of first use."""

    code = "glyph_missing"

    def __init__(self, missing: tuple[Missing, ...]) -> None:
        self.missing = missing
        super().__init__(f"no font has {'; '.join(map(str, missing))}")
