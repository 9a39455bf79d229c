"""Has a decision's actions carried out, patiently: what the API server refuses or fails at is asked for again.

That is no failure of the look: the status that was decided is written all the same, and the next one shows what stands
against it. Nor is it asked for at every look, but after a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import assert_never

from .decide.types import Action, CreateWorkers, DeleteAttempt, DeleteJob, DeletePods, EnsureAttempt
from .executor import Executor, RefusedError
from .names_taken import NameTakenError
from .notes import Notes
from .ownership import Target
from .refusals import refused
from .runtime.errors import AlreadyExistsError, ApiError, ConflictError, ServerUnavailableError
from .runtime.objects import Key
from .templates import AttemptGoneError

logger = logging.getLogger(__name__)

# What an earlier job of the name has left over goes within seconds, or a driver's grace period.
LEFT_OVER_PAUSE_S = 2.0
# A server that fails for so long (a webhook that is down, a full etcd) is shown to people, like one that refuses.
FAILING_SHOWN_AFTER_S = 5.0
# Of the time that a reconcile has: the rest is for the status, which shows what takes so long. More than one request's.
ACT_LIMIT_S = 40.0


class ActionRunner:
    """`look_again` has a job looked at once more; `clock` is in seconds since the epoch."""

    def __init__(
        self,
        executor: Executor,
        *,
        look_again: Callable[[Key], None],
        clock: Callable[[], float],
        random_unit: Callable[[], float],
    ) -> None:
        self._executor = executor
        self._look_again = look_again
        self._clock = clock
        self._random_unit = random_unit

    async def run(self, target: Target, notes: Notes, actions: Sequence[Action], now: float) -> float | None:
        """Carry out `actions`; seconds until what was refused may be tried again, if something was.

        Raises ApiError for what may well go better in a moment.
        """
        key, refusal = target.key, notes.refusal
        notes.released.update(uid for action in actions if isinstance(action, DeletePods) for _, uid in action.pods)
        if refusal is not None and now < refusal.retry_at:
            deletions = [action for action in actions if not isinstance(action, EnsureAttempt | CreateWorkers)]
            await self._run_all(target, deletions)
            return refusal.retry_at - now
        failing_since, notes.failing_since = notes.failing_since, None
        try:
            complete = await self._run_all(target, actions)
        except RefusedError as error:
            return self._refused(key, notes, str(error))
        except NameTakenError as error:
            return self._refused(key, notes, str(error), pause_s=LEFT_OVER_PAUSE_S if error.goes_by_itself else None)
        except AttemptGoneError as error:
            notes.unusable = {error.attempt: str(error)}
            self._look_again(key)
            return None
        except (ConflictError, AlreadyExistsError):
            raise
        except ApiError as error:
            notes.failing_since = failing_since if failing_since is not None else now
            if self._clock() - notes.failing_since < FAILING_SHOWN_AFTER_S:
                raise
            sentence = f"The API server keeps failing and is asked again: {error}"
            return self._refused(key, notes, sentence, least_s=error.retry_after_s or 0.0)
        notes.refusal = None
        # What was refused is no longer, which the next look shows in the status.
        if refusal is not None or not complete:
            self._look_again(key)
        return None

    async def _run_all(self, target: Target, actions: Sequence[Action]) -> bool:
        """Carry out `actions` in order; False when something was left for the next reconcile.

        As Executor.run, but for ACT_LIMIT_S at most: ServerUnavailableError then names what took so long.
        """
        complete, at_work = True, ""
        try:
            async with asyncio.timeout(ACT_LIMIT_S):
                for action in actions:
                    at_work = _in_words(action)
                    complete = await self._executor.run(target, action) and complete
        except TimeoutError as error:
            sentence = f"{at_work} had not come to an end after {ACT_LIMIT_S:.0f} s"
            raise ServerUnavailableError(0, "Timeout", sentence) from error
        return complete

    def _refused(
        self, key: Key, notes: Notes, sentence: str, *, pause_s: float | None = None, least_s: float = 0.0
    ) -> float:
        """Remember that the server refuses; seconds until it is asked again."""
        known, now = notes.refusal, self._clock()
        notes.refusal = refused(known, sentence, now=now, unit=self._random_unit(), pause_s=pause_s, least_s=least_s)
        if known is None or notes.refusal.sentence != known.sentence:
            logger.warning("%s", sentence)
            self._look_again(key)  # the next look shows it in the status
        return notes.refusal.retry_at - now


def _in_words(action: Action) -> str:
    """What carrying out `action` is."""
    match action:
        case EnsureAttempt():
            return f"creating the head, Service and NetworkPolicy of attempt {action.attempt}"
        case CreateWorkers():
            return f"creating worker pods of attempt {action.attempt}"
        case DeletePods():
            return "deleting pods"
        case DeleteAttempt():
            return f"deleting Secret, Service and NetworkPolicy of attempt {action.attempt}"
        case DeleteJob():
            return "deleting the job"
        case _:
            assert_never(action)
