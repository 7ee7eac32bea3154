"""Errors as endings of questions, and the failures that end a run."""

from __future__ import annotations

from rag.batch.report import Ending
from rag.errors import RagError
from rag.types import Failed

_SAME_FAILURES = 5
_BEYOND_ONE_QUESTION = {
    *("config", "model_auth", "caller", "budget", "input", "not_found"),
    *("embedder", "embedder_unavailable", "fingerprint", "damaged_store"),
}


class FirstFailures:
    """Ends a run that cannot succeed: its first questions all failed with one and the same error.

    After any other ending it watches no more.
    """

    def __init__(self) -> None:
        self._first: Ending | None = None
        self._left = _SAME_FAILURES

    def saw(self, ending: Ending) -> None:
        if not self._left:
            return
        self._first = self._first or ending
        if not isinstance(ending, Failed) or ending != self._first or not _is_hopeless(ending):
            self._left = 0
            return
        self._left -= 1
        if not self._left:
            raise _error(ending)


def _is_hopeless(failed: Failed) -> bool:
    return not failed.retryable and failed.code in _BEYOND_ONE_QUESTION


def failed_with(error: RagError) -> Failed:
    return Failed(error.code, error.message, error.hint, error.retryable)


def _error(failed: Failed) -> RagError:
    """The error that a Failed was made of."""
    kinds = [RagError]
    for kind in kinds:
        if kind.code == failed.code:
            return kind(failed.message, failed.hint)
        kinds += kind.__subclasses__()
    return RagError(failed.message, failed.hint)
