"""How a run ended, as an exit code and a sentence, and leaving with them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from scaling_api import driver as contract
from scaling_api.driver import ExitCode, ProgressReport, Termination
from scaling_api.reasons import Failure
from scaling_api.redaction import redacted
from scaling_training.engine import EngineError
from scaling_training.engine.run import StoppedError
from scaling_training.errors import UserError
from scaling_training.factory import place_of, raised_by, told
from scaling_training.ledger import AttemptTakenError, SupersededError
from scaling_training.progress.last_words import last_words
from scaling_training.storage import StorageAwayError

log = logging.getLogger(__name__)

FAILED = 1
_MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: with a result and the last report of it, or with what went wrong."""

    code: int
    termination: Termination | None = None
    result: Mapping[str, Any] | None = None
    report: ProgressReport | None = None


def ending_of(run: Callable[[], Ending], superseded: Callable[[], str]) -> Ending:
    """Every way in which a run can end; ``superseded`` says by whom, or nothing."""
    try:
        return run()
    except UserError as error:
        return badly(ExitCode.REFUSED, Failure.USER_ERROR, str(error))
    except StoppedError as error:
        if by := superseded():
            return badly(ExitCode.STOPPED, Failure.STOPPED, by)
        kept = "what was done is saved" if error.saved else "what was done since the last save is lost, and done again"
        return badly(ExitCode.STOPPED, Failure.STOPPED, f"stopped on request; {kept}")
    except SupersededError as error:
        return badly(ExitCode.STOPPED, Failure.STOPPED, str(error))
    except EngineError as error:
        return badly(FAILED, error.reason, str(error))
    except StorageAwayError as error:
        return badly(FAILED, Failure.STORAGE_AWAY, str(error))
    except AttemptTakenError as error:
        return badly(FAILED, Failure.DRIVER_FAILED, str(error))
    except SystemExit as error:
        if raised_by(error, "ray"):
            # Its answer to a SIGTERM that came while it was starting.
            return badly(ExitCode.STOPPED, Failure.STOPPED, "stopped on request before training began")
        sentence = f"the job's own code {told(error)}; raise an exception instead"
        return badly(ExitCode.REFUSED, Failure.USER_ERROR, sentence)
    except MemoryError:
        return badly(FAILED, Failure.OUT_OF_MEMORY, "the driver ran out of memory: raise spec.cluster.head's limit")
    except Exception as error:
        log.exception("The driver failed")
        place = place_of(error)
        where = f", at {place}" if place else ""
        return badly(FAILED, Failure.DRIVER_FAILED, f"{type(error).__name__}: {error}{where}")


def badly(code: int, reason: Failure, message: str) -> Ending:
    """An ending without a result, for this reason."""
    return Ending(code, Termination(reason=reason, message=redacted(message)[:_MESSAGE_LIMIT]))


def leave(ending: Ending) -> NoReturn:
    """Leave the termination message, and end this process with the exit code."""
    if ending.termination is not None:
        log.error("%s: %s", ending.termination.reason, ending.termination.message)
        _write_termination(ending.termination.model_dump_json(by_alias=True))
    elif ending.report is not None:
        _write_termination(last_words(ending.report))
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is left to do, and Python's own ending takes a second over Ray's and torch's threads.
    os._exit(int(ending.code))


def _write_termination(message: str) -> None:
    try:
        Path(contract.TERMINATION_LOG).write_text(message)
    except OSError as error:
        log.warning("The termination message could not be written: %s", error)
