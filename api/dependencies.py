"""What routes are given.

Coroutines, though nothing here waits: FastAPI would send functions to a thread and back.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Request

from rag.callers import Callers
from rag.engine import Engine


async def engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def caller_of(
    request: Request, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> str:
    """The caller's name, by `Authorization: Bearer KEY`; "" without one. Raises CallerError."""
    callers: Callers = request.app.state.callers
    scheme, _, key = (authorization or "").partition(" ")
    return callers.named(key.strip() if scheme.lower() == "bearer" else None)


EngineDependency = Annotated[Engine, Depends(engine_of)]
CallerDependency = Annotated[str, Depends(caller_of)]
