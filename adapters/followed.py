"""A secret setting that came from a file: `get_secret_value()` gives what the file holds now, checked as it was at the start.

Whoever opens a connection asks for the value then; what was opened with an older one lives on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from pydantic import PlainValidator, SecretStr

from adapters.secrets import SecretFile

log = structlog.get_logger()

Check = Callable[[str], None]  # raises ValueError, without the value in it


class FileText(str):
    """The content of a setting's file, which still knows where it came from."""

    __slots__ = ("name", "path")

    path: Path
    name: str

    @classmethod
    def read(cls, name: str, path: Path, content: str) -> "FileText":
        text = cls(content)
        text.name, text.path = name, path
        return text


class FollowedSecret(SecretStr):
    """A SecretStr whose value follows its file; one that does not pass the check leaves the last good one in use."""

    def __init__(self, text: FileText, check: Check) -> None:
        super().__init__(str(text))
        self._name, self._file, self._check = text.name, SecretFile(text.path), check
        self._refused: str | None = None

    def get_secret_value(self) -> str:
        secret = self._file.get()
        value = self._secret_value if secret is None else secret.reveal().strip()
        if value not in (self._secret_value, self._refused):
            try:
                self._check(value)
            except ValueError as error:
                self._refused = value
                log.warning("secret_setting_refused", setting=self._name, why=str(error))
            else:
                self._secret_value, self._refused = value, None
        return self._secret_value


def followed(check: Check) -> PlainValidator:
    """For `Annotated[SecretStr, followed(check)]`: checked now, and again whenever its file changes."""

    def validated(value: Any) -> SecretStr:
        if isinstance(value, FollowedSecret):
            return value
        if not isinstance(value, str | SecretStr):
            raise ValueError("not a text")
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        check(text)
        return FollowedSecret(text, check) if isinstance(text, FileText) else SecretStr(text)

    return PlainValidator(validated)
