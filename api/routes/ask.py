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

from api.dependencies import CallerDependency, EngineDependency
from api.problems import INTERNAL, PROBLEMS, failed_response
from api.schemas import (
    AnswerBody,
    AskBody,
    CompleteBody,
    CompletionBody,
    HeldBody,
    RetrieveBody,
    RetrieveResponse,
)
from rag.asking import Code
from rag.engine import Engine
from rag.types import AnswerEvent, Failed, Finished, Held, Message
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


_WAITS: dict[int | str, dict[str, Any]] = {
    202: {"model": HeldBody, "description": "The answer waits for a person's approval."}
}


@router.post("/ask", response_model=AnswerBody, responses={**PROBLEMS, **_STREAM, **_WAITS})
async def ask(
    body: AskBody, request: Request, engine: EngineDependency, caller: CallerDependency
) -> Response:
    """Answer a question, with citations.

    With `stream: true`, or `Accept: text/event-stream`, the answer comes as server-sent events:
    `retrieved`, then `token` and `cited` as they are written, between them `retried` and
    `tool_used`, then one of `finished`, `held` and `failed`.
    """
    stream = body.stream or "text/event-stream" in request.headers.get("accept", "")
    cache = body.cache and "no-cache" not in request.headers.get("cache-control", "")
    events = await asyncio.to_thread(
        _asked, body, engine, cache=cache, caller=caller, stream=stream
    )
    if stream:
        return EventSourceResponse(
            _sent(events, body, engine), headers={"Cache-Control": "no-store"}
        )
    last = await _unless_gone(request, _last(events))
    if isinstance(last, Finished):
        await _remember(body, engine, last)
        return JSONResponse(_answer(body, last))
    return _unfinished(last)


def _unfinished(last: AnswerEvent | None) -> Response:
    if isinstance(last, Failed):
        return failed_response(last)
    if isinstance(last, Held):
        return JSONResponse(event_json(last)[1], status_code=202)
    return Response(status_code=499)  # the client has gone; nobody reads this


@router.post("/complete", response_model=CompletionBody, responses={**PROBLEMS, **_STREAM})
async def complete(
    body: CompleteBody, request: Request, engine: EngineDependency, caller: CallerDependency
) -> Response:
    """Write what belongs at the cursor of a partial file; streams as `/ask` does."""
    stream = body.stream or "text/event-stream" in request.headers.get("accept", "")
    events = await asyncio.to_thread(
        engine.complete,
        Code(body.before, body.after, body.name),
        knowledge_base=body.knowledge_base,
        model=body.model,
        preset=body.preset,
        filters=body.filters.filters(),
        top_k=body.top_k,
        caller=caller,
        stream=stream,
    )
    if stream:
        return EventSourceResponse(_told(events), headers={"Cache-Control": "no-store"})
    last = await _unless_gone(request, _last(events))
    if isinstance(last, Finished):
        answer = answer_json(last.answer)
        shown = {key: answer[key] for key in ("model", "usage", "timings")}
        return JSONResponse({"completion": answer["answer"], **shown})
    return _unfinished(last)


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


def _asked(
    body: AskBody, engine: Engine, *, cache: bool, caller: str, stream: bool
) -> AsyncGenerator[AnswerEvent]:
    """All that waits for disks and decoders, in one thread."""
    return engine.ask(
        body.question,
        knowledge_base=body.knowledge_base,
        history=_history(body, engine),
        images=engine.images.from_data_urls(body.images),
        filters=body.filters.filters(),
        top_k=body.top_k,
        model=body.model,
        preset=body.preset,
        tools=body.tools,
        schema=body.output_schema,
        cache=cache,
        caller=caller,
        session_id=body.session_id or "",
        stream=stream,
    )


def _history(body: AskBody, engine: Engine) -> tuple[Message, ...]:
    if body.history is not None:
        return tuple(turn.message() for turn in body.history)
    if body.session_id is not None:
        return engine.sessions.history(body.session_id)
    return ()


async def _sent(
    events: AsyncGenerator[AnswerEvent], body: AskBody, engine: Engine
) -> AsyncIterator[bytes]:
    """The events of an answer; its end tells the session, which then remembers it."""

    async def remembered() -> AsyncGenerator[AnswerEvent]:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    await _remember(body, engine, event)
                yield event

    async for sent in _told(remembered(), session_id=body.session_id):
        yield sent


async def _told(events: AsyncGenerator[AnswerEvent], **more: str | None) -> AsyncIterator[bytes]:
    """Server-sent events; `more` is added to the last."""
    try:
        async with aclosing(events):
            async for event in events:
                name, data = event_json(event)
                yield _sse(name, data | more if isinstance(event, Finished) else data)
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
