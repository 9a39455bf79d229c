"""Several requests at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from .runtime.errors import ApiError


async def all_done(calls: Sequence[Any]) -> None:
    """Await all calls, then raise the first refusal, else the first error: none is cut off half-way."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise next((error for error in errors if not isinstance(error, ApiError)), errors[0])
