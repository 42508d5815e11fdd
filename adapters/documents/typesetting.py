"""typst, once per process: fonts from pip packages, standards on, errors that name the character and its field.

Without PDF/A typst drops what no font has without a word; with it, it refuses (FACTS §6). So the standards stay on even
where nobody asks for an archive format.
"""

import atexit
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import fontpkg_amiri  # type: ignore[import-untyped]
import orjson
import pymupdf_fonts  # type: ignore[import-untyped]
import typst

from adapters.documents.errors import DocumentError, GlyphMissing, LogoUnusable, Missing

MAX_LOGO_BYTES = 1_048_576  # 600 dpi of the 60 × 15 mm slot is well under this; it is embedded in every statement
_MAX_LOGOS = 256  # files kept beside the fonts; a worker that serves more tenants writes some of them again
_STANDARDS = ["a-2a", "ua-1"]
_FIRAGO = {"FiraGO-Regular.ttf": "figo", "FiraGO-Bold.ttf": "figbo"}
_AMIRI = ("Amiri-Regular.ttf", "Amiri-Bold.ttf")
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}

_UNSHOWN = re.compile(r'the text `"(.*?)"` could not be displayed|disallowed codepoint `"(.*?)"`')
_ESCAPE = re.compile(r"\\u\{([0-9a-f]+)\}")
# Two documents typeset at once share typst's caches, and now and then the bytes of one differ (seen in tests). Each uses every
# core by itself anyway; a worker scales by replicas.
_one_at_a_time = threading.Lock()


def pdf(template: bytes, data: dict[str, Any], source: object, logo: bytes | None, timestamp: datetime) -> bytes:
    """A tagged PDF/A-2a, PDF/UA-1 document. The same arguments give the same bytes.

    `data` reaches the template as `sys.inputs.data` (JSON) and gets `logo`, the path of the image or None. `source` is the
    dataclass that `data` was made of: errors name its fields.
    Raises GlyphMissing, LogoUnusable or DocumentError. Thread-safe; blocks, and lets other threads run meanwhile.
    """
    return _compile(template, data, source, logo, format="pdf", pdf_standards=_STANDARDS, timestamp=timestamp)[0]


def images(template: bytes, data: dict[str, Any], logo: bytes | None, timestamp: datetime, ppi: int) -> list[bytes]:
    """The same pages as PNG files, for people and golden tests. Raises like `pdf`, except that glyphs may be missing."""
    return _compile(template, data, None, logo, format="png", ppi=ppi, timestamp=timestamp)


def _compile(template: bytes, data: dict[str, Any], source: object, logo: bytes | None, **options: Any) -> list[bytes]:
    inputs = {"data": orjson.dumps({**data, "logo": _logo_path(logo)}).decode()}
    try:
        with _one_at_a_time:
            made = _compiler().compile(template, sys_inputs=inputs, **options)
    except typst.TypstError as error:
        raise _explained(error, source, logo) from None
    if made is None:
        raise DocumentError("typst returned no document")
    return made if isinstance(made, list) else [made]


def _explained(error: typst.TypstError, source: object, logo: bytes | None) -> DocumentError:
    reported = [_unescaped(first or second) for first, second in _UNSHOWN.findall(error.diagnostic)]
    if reported:
        return GlyphMissing(tuple(Missing(each, _fields_with(each, source)) for each in dict.fromkeys(reported)))
    if logo is not None and "image" in error.message:
        return LogoUnusable("the logo cannot be decoded")
    return DocumentError(f"typst: {error.message}")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def _fields_with(characters: str, source: object) -> tuple[str, ...]:
    return tuple(path for path, text in _texts(source) if characters in text)


def _texts(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string below `value` with its path: `activity[3].description`."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, tuple):
        for index, each in enumerate(value):
            yield from _texts(each, f"{path}[{index}]")
    elif is_dataclass(value):
        for field in fields(value):
            yield from _texts(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)


_MAKING_HOME = threading.Lock()


@cache
def _compiler() -> typst.Compiler:
    """The process's own, over its fonts. It refuses to be entered twice: see `_one_at_a_time`."""
    return typst.Compiler(root=str(_home()), font_paths=_fonts(), ignore_system_fonts=True)


def forget() -> None:
    """Removes what the process keeps on disk, as its ordinary end does: for one that ends without `atexit`."""
    if _directory.cache_info().currsize:
        _directory().cleanup()
        for made in (_compiler, _fonts, _directory):
            made.cache_clear()


@cache
def _directory() -> "tempfile.TemporaryDirectory[str]":
    """Of the process's own, for fonts and logos: typst reads both by path. It goes when the process ends."""
    directory = tempfile.TemporaryDirectory(prefix="billing-documents-")
    atexit.register(directory.cleanup)
    return directory


def _home() -> Path:
    # `cache` lets two threads that come first make one each: a logo would then lie where the compiler does not look.
    with _MAKING_HOME:
        return Path(_directory().name)


@cache
def _fonts() -> typst.Fonts:
    """FiraGO, which covers every letter we need and extracts as written; Amiri for what it lacks. No system fonts: the same
    bytes on every machine."""
    folder = _home() / "fonts"
    folder.mkdir(exist_ok=True)
    for file_name, name in _FIRAGO.items():
        (folder / file_name).write_bytes(pymupdf_fonts.myfont(name))
    for file_name in _AMIRI:
        (folder / file_name).write_bytes((fontpkg_amiri.ROOT / "files" / file_name).read_bytes())
    return typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(folder)])


def _logo_path(logo: bytes | None) -> str | None:
    """The path of the logo below the compiler's root; the name is its hash, so that writing it twice is harmless."""
    if logo is None:
        return None
    suffix = next((suffix for signature, suffix in _SIGNATURES.items() if logo.startswith(signature)), None)
    if suffix is None or len(logo) > MAX_LOGO_BYTES:
        raise LogoUnusable(f"a logo is a PNG or JPEG of at most {MAX_LOGO_BYTES} bytes")
    folder = _home() / "logos"
    folder.mkdir(exist_ok=True)
    path = folder / f"{sha256(logo).hexdigest()}{suffix}"
    if not path.exists():
        _forget_logos(folder)
        unfinished = path.with_suffix(f".{threading.get_ident()}.partial")
        unfinished.write_bytes(logo)
        unfinished.replace(path)
    return f"/{folder.name}/{path.name}"


def _forget_logos(folder: Path) -> None:
    kept = list(folder.iterdir())
    if len(kept) >= _MAX_LOGOS:
        for path in kept:
            path.unlink(missing_ok=True)
