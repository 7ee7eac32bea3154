"""Questions over HTTP: `POST /ask` as JSON or as server-sent events, and `POST /retrieve`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, format_sse_event

from api.dependencies import EngineDependency
from api.problems import INTERNAL, PROBLEMS, failed_response
from api.schemas import AnswerBody, AskBody, RetrieveBody, RetrieveResponse
from rag.engine import Engine
from rag.types import AnswerEvent, Failed, Finished, Message
from rag.wire import answer_json, event_json, hit_json

router = APIRouter(tags=["questions"])
_log = logging.getLogger("rag.api")

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "example": 'event: token\ndata: {"text": "15 days [1]."}\n\n'
                'event: finished\ndata: {"answer": "15 days [1].", ...}\n\n'
            }
        }
    }
}


@router.post("/ask", response_model=AnswerBody, responses={**PROBLEMS, **_STREAM})
async def ask(body: AskBody, request: Request, engine: EngineDependency) -> Response:
    """Answer a question, with citations.

    With `stream: true`, or `Accept: text/event-stream`, the answer comes as server-sent events:
    `retrieved`, then `token` and `cited` as they are written, then `finished` or `failed`.
    """
    stream = body.stream or "text/event-stream" in request.headers.get("accept", "")
    history = await _history(body, engine)
    images = await asyncio.to_thread(engine.images.from_data_urls, body.images)
    events = await asyncio.to_thread(
        engine.ask,
        body.question,
        knowledge_base=body.knowledge_base,
        history=history,
        images=images,
        filters=body.filters.filters(),
        top_k=body.top_k,
        model=body.model,
        stream=stream,
    )
    if stream:
        return EventSourceResponse(
            _sent(events, body, engine), headers={"Cache-Control": "no-store"}
        )
    last = await _unless_gone(request, _last(events))
    if isinstance(last, Finished):
        await _remember(body, engine, last)
        return JSONResponse(_answer(body, last))
    if isinstance(last, Failed):
        return failed_response(last)
    return Response(status_code=499)  # the client has gone; nobody reads this


@router.post("/retrieve", response_model=RetrieveResponse, responses=PROBLEMS)
def retrieve(body: RetrieveBody, engine: EngineDependency) -> dict[str, Any]:
    """The best passages for a question, without an answer."""
    hits = engine.retrieve(
        body.question,
        knowledge_base=body.knowledge_base,
        top_k=body.top_k,
        filters=body.filters.filters(),
        threshold=body.threshold,
    )
    return {"hits": [hit_json(n, hit) for n, hit in enumerate(hits, 1)]}


async def _history(body: AskBody, engine: Engine) -> tuple[Message, ...]:
    if body.history is not None:
        return tuple(turn.message() for turn in body.history)
    if body.session_id is not None:
        return await asyncio.to_thread(engine.sessions.history, body.session_id)
    return ()


async def _sent(
    events: AsyncGenerator[AnswerEvent], body: AskBody, engine: Engine
) -> AsyncIterator[bytes]:
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    await _remember(body, engine, event)
                    yield _sse("finished", _answer(body, event))
                else:
                    yield _sse(*event_json(event))
    except Exception:  # noqa: BLE001 - too late for a status, and a stream must say how it ended
        _log.exception("an answer broke off")
        yield _sse(*event_json(INTERNAL))


def _sse(name: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False))


async def _last(events: AsyncGenerator[AnswerEvent]) -> AnswerEvent | None:
    last: AnswerEvent | None = None
    async with aclosing(events):
        async for event in events:
            last = event
    return last


async def _unless_gone(request: Request, work: Any) -> AnswerEvent | None:
    """The result; None, and the work cancelled, if the client went away before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _remember(body: AskBody, engine: Engine, finished: Finished) -> None:
    if body.session_id is not None:
        await asyncio.to_thread(
            engine.sessions.add,
            body.session_id,
            body.knowledge_base,
            body.question,
            finished.answer.text,
        )


def _answer(body: AskBody, finished: Finished) -> dict[str, Any]:
    return answer_json(finished.answer) | {"session_id": body.session_id}
