"""URIs as they may be shown: without what may be a secret.

A URI can carry one in its userinfo (``https://user:password@host``), in its query (``?X-Amz-Signature=…``) or in its
fragment. Which parameter is a secret depends on the store, so all values go; names stay, to tell what was there.
"""

from __future__ import annotations

import re

HIDDEN = "***"

# Up to a space or a quotation mark; punctuation at the end belongs to the sentence around it.
_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>[^\s\"'<>`]+)")
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_SENTENCE = re.compile(r"[;:,.)\]}!?]+$")
_VALUES = re.compile(r"=[^&#]+")
# Azure's drivers name a container there: abfs://container@account.dfs.core.windows.net
_NAMES_BEFORE_AT = frozenset({"abfs", "abfss", "wasb", "wasbs", "az", "adl"})


def redacted(text: str) -> str:
    """The text, a URI or a sentence with URIs in it, with ``***`` in place of userinfo and of query values.

    What is redacted already stays as it is.
    """
    return _URI.sub(_shown, text) if "://" in text else text


def _shown(found: re.Match[str]) -> str:
    scheme, rest = found["scheme"], found["rest"]
    ending = _SENTENCE.search(rest)
    end = ending.group() if ending else ""
    rest = rest[: len(rest) - len(end)]
    # fsspec chains URIs by "::"; each has its own parts, and all but the first its own scheme.
    return "::".join([_of_one(scheme, *_split(part)) for part in _CHAIN.split(rest)]) + end


def _split(part: str) -> tuple[str, str]:
    prefix, separator, rest = part.rpartition("://")
    return f"{prefix}{separator}", rest


def _of_one(scheme: str, prefix: str, rest: str) -> str:
    inner = prefix.removesuffix("://") or scheme
    before, mark, after = _cut(rest)
    userinfo, at, host = before.partition("/")[0].rpartition("@")
    path = before[len(userinfo) + len(at) + len(host) :]
    if at and not (inner.lower() in _NAMES_BEFORE_AT and ":" not in userinfo):
        userinfo = HIDDEN
    start = prefix or f"{scheme}://"
    return f"{start}{userinfo}{at}{host}{path}{mark}{_hide_values(after)}"


def _cut(rest: str) -> tuple[str, str, str]:
    """Before the query or fragment, the mark, and what follows."""
    found = re.search(r"[?#]", rest)
    return (rest[: found.start()], found.group(), rest[found.end() :]) if found else (rest, "", "")


def _hide_values(parameters: str) -> str:
    if not parameters:
        return ""
    # A query that is no list of names and values may be a token as a whole.
    return _VALUES.sub(f"={HIDDEN}", parameters) if "=" in parameters else HIDDEN
