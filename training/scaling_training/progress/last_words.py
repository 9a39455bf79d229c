"""The last report as a termination message, for an operator that is away when the report is posted. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from scaling_api.driver import MAX_TERMINATION_BYTES, ProgressReport


def last_words(report: ProgressReport, limit: int = MAX_TERMINATION_BYTES) -> str:
    """``report`` as JSON of at most ``limit`` bytes of UTF-8.

    One that is too long loses its stages and progress first, of which the operator can tell that they are done, then
    artifacts from the last one on (result.json in the run folder has them all). Empty when not even the metrics fit.
    """
    texts = (smaller.model_dump_json(by_alias=True, exclude_none=True) for smaller in _smaller_and_smaller(report))
    return next((text for text in texts if len(text.encode()) <= limit), "")


def _smaller_and_smaller(report: ProgressReport) -> Iterator[ProgressReport]:
    yield report
    report = report.model_copy(update={"progress": None, "stages": []})
    yield report
    while report.result is not None and report.result.artifacts:
        shorter = report.result.model_copy(update={"artifacts": report.result.artifacts[:-1]})
        report = report.model_copy(update={"result": shorter})
        yield report
