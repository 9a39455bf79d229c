"""The one error that a user is expected to read and act upon."""

from __future__ import annotations

from scaling_api.redaction import redacted


class UserError(Exception):
    """Something in the user's spec, data, code or storage is wrong, and another attempt would meet it again.

    The message is one sentence: what is wrong (field path, value) and what is allowed or what to do. The
    driver shows it as it is and ends with ExitCode.REFUSED. It survives pickling, so it may cross processes. URIs in
    it, also in what a store's driver said, are shown without their secrets.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))
