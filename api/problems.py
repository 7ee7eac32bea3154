"""Errors of the library as HTTP answers: one status per kind, one JSON shape for all."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from rag import errors
from rag.types import Failed
from rag.wire import error_json

# The first class that fits decides.
_STATUS: tuple[tuple[type[errors.RagError], int], ...] = (
    (errors.InputError, 400),
    (errors.CallerError, 403),
    (errors.NotFoundError, 404),
    (errors.BudgetError, 402),
    (errors.CircuitOpenError, 503),
    (errors.FileTooLargeError, 413),
    (errors.LoadError, 422),
    (errors.FingerprintError, 409),
    (errors.BusyError, 409),
    (errors.ModelBusyError, 503),
    (errors.ModelError, 502),
    (errors.EmbedderError, 503),
    (errors.RagError, 500),
)
_CODES = {kind.code: status for kind, status in reversed(_STATUS)}


# What is told of a bug: nothing, for its words may hold anything.
INTERNAL = Failed(
    "internal", "The server made a mistake.", "Its log tells more; please report it.", False
)


class Problem(BaseModel):
    """What went wrong, what to do next, and whether trying again may help."""

    code: str
    message: str
    hint: str
    retryable: bool


class ProblemResponse(BaseModel):
    error: Problem


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": ProblemResponse, "description": "The request cannot be used."},
    402: {"model": ProblemResponse, "description": "The budget for models is used up."},
    403: {"model": ProblemResponse, "description": "The caller's key is unknown or too weak."},
    404: {"model": ProblemResponse, "description": "There is no such thing."},
    502: {"model": ProblemResponse, "description": "The chat model failed."},
}


def status_of(error: errors.RagError) -> int:
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def failed_response(failed: Failed) -> JSONResponse:
    """An answer that failed before it was sent."""
    status = _CODES.get(failed.code, 502 if failed.code.startswith("model") else 500)
    return problem(status, failed.code, failed.message, failed.hint, failed.retryable)


def install(app: FastAPI) -> None:
    @app.exception_handler(errors.RagError)
    async def known(_request: Request, error: errors.RagError) -> JSONResponse:
        return JSONResponse(error_json(error), status_code=status_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        what = "; ".join(
            f"{'.'.join(str(p) for p in e['loc'][1:]) or 'body'}: {e['msg']}"
            for e in error.errors()
        )
        return problem(422, "invalid", f"The request is not valid: {what}.", "See /docs.")

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, "http", f"{error.detail}.", "See /docs.")

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, _error: Exception) -> JSONResponse:
        return failed_response(INTERNAL)  # the server's log has the traceback


def problem(
    status: int, code: str, message: str, hint: str, retryable: bool = False
) -> JSONResponse:
    """One error in the one shape."""
    body = Problem(code=code, message=message, hint=hint, retryable=retryable)
    return JSONResponse({"error": body.model_dump()}, status_code=status)
