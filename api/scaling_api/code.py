"""Code of the user's: functions that the spec names, and where their modules come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from scaling_api.base import Model
from scaling_api.constraints import Pattern

# The authority holds no colon, so that nobody writes a password where logs will show it.
PLACE = Pattern(
    r"[a-z][a-z0-9+]*://[^\s:]*[^\s:/][^\s:]*|[^\s:]([^:\n\r\t]*[^\s:])?",
    "a place of files: write a path, or an address such as s3://bucket/folder without blanks and passwords",
)
FACTORY = Pattern(
    r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*",
    "a function's name: write package.module:function",
)
SHA256 = Pattern(r"[0-9a-f]{64}", "a SHA-256: write 64 digits and letters a to f, as sha256sum prints them")

Place = Annotated[str, StringConstraints(min_length=1, max_length=1024), PLACE]
FactoryPath = Annotated[str, StringConstraints(min_length=3, max_length=256), FACTORY]
Sha256 = Annotated[str, StringConstraints(min_length=64, max_length=64), SHA256]


class Arguments(Model):
    """Arguments of a function of the user's: any names, any values."""

    model_config = ConfigDict(extra="allow", frozen=True)


class CodeSpec(Model):
    """Modules of the user's, beside those in the image."""

    uri: Place = Field(
        description="A .py file, a .zip or .tar.gz, or a folder: a path that every pod has, or an address such as "
        "s3://bucket/code.zip. What lies in it can be imported by the factories."
    )
    sha256: Sha256 | None = Field(None, description="Of the file; another content is then refused. Not for folders.")
