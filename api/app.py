"""The server: `create_app(settings)`, as `rag serve` starts it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles

from api import problems
from api.dependencies import caller_of
from api.observe import Metrics
from api.routes import ask, knowledge, models, reviews, status
from api.safety import BodyLimit, SafeHeaders, SameOrigin
from rag import __version__
from rag.callers import Callers
from rag.config import Settings, secret
from rag.engine import Engine
from rag.errors import RagError

_WEB = Path(__file__).parent / "web"
_REFRESH_SECONDS = 0.3
_log = logging.getLogger("rag.api")


def create_app(settings: Settings | None = None, *, engine: Engine | None = None) -> FastAPI:
    """The application. Settings are read here, so that a wrong one stops the start.

    An `engine` given is served as it is, and closed with the server.
    """
    engine = engine or Engine.open(settings)
    app = FastAPI(
        title="RAG server",
        version=__version__,
        summary="Questions to your documents, answered with citations.",
        lifespan=_lifespan,
    )
    app.state.engine = engine
    app.state.callers = Callers(engine.settings.callers, secret)
    metrics = Metrics(engine)
    app.add_api_route("/metrics", metrics.response, tags=["status"], summary="For Prometheus")
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=engine.settings.max_request_mb * 1_000_000)
    app.add_middleware(SameOrigin)
    app.add_middleware(SafeHeaders)
    for routes in (ask, knowledge, models, reviews, status):
        app.include_router(routes.router, dependencies=[Depends(caller_of)])
    app.mount("/", StaticFiles(directory=_WEB, html=True), name="web")
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine: Engine = app.state.engine
    tasks = [asyncio.create_task(_warm(engine)), asyncio.create_task(_follow(engine))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await engine.aclose()


async def _warm(engine: Engine) -> None:
    """Opens the knowledge bases there are, so that the first question does not wait for it."""
    for name in engine.names():
        try:
            await asyncio.to_thread(engine.knowledge_base, name)
        except RagError as error:
            _log.warning("knowledge base %s: %s", name, error)


async def _follow(engine: Engine) -> None:
    """Takes up what other processes publish."""
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        # In a thread, for it waits while a knowledge base is being opened.
        for base in await asyncio.to_thread(engine.bases.opened):
            try:
                await asyncio.to_thread(base.store.refresh)
            except RagError as error:
                _log.warning("knowledge base %s: %s", base.name, error)
            except Exception:  # noqa: BLE001 - the next round may succeed, the server goes on
                _log.exception("knowledge base %s cannot be brought up to date", base.name)
