"""What routes are given."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from rag.engine import Engine


def engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


EngineDependency = Annotated[Engine, Depends(engine_of)]
