"""The model gateway under load: what its stack costs, and what its cache saves."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

from api.observe import Metrics
from benchmarks.corpus import questions
from benchmarks.load import Load, loaded
from benchmarks.options import Options
from benchmarks.processes import relaying, scripted, serving
from benchmarks.report import figure, p50, p95, title, watched
from benchmarks.stage import built
from rag.batch import Batch
from rag.config import Settings
from rag.engine import Engine
from rag.types import ChatModel, ChatRequest, Finished, Message

_CHUNKS = 2_000
_MODEL = "scripted"
_PRICE_IN, _PRICE_OUT = 1.25, 10.0  # US dollars per million tokens
_NEVER_REACHED = ({"day": 1e6}, {"model": "*", "day": 1e6, "month": 1e6})

_SLOW_SECONDS = 0.28
_SLOW_QUESTIONS = 100
_AT_ONCE = 32

_PAIRS = 200  # bare call and whole stack, in turns

_KEPT = 100
_REPLAYED = 2_000  # a round
_CONNECTIONS = 16

_STREAMS = 200
_WORDS = 200

_DAY = 1_000
_REPEATS = 400


def run(options: Options) -> None:
    folder = built(options, _CHUNKS)
    _concurrency(options, folder)
    _overhead(options, folder)
    _cached(options, folder)
    _streams(options, folder)
    _day(options, folder)


# --- questions at once ------------------------------------------------------------------------


def _concurrency(options: Options, folder: Path) -> None:
    title(f"{_SLOW_QUESTIONS} questions to a model that takes {1000 * _SLOW_SECONDS:.0f} ms")
    asked = questions(options, _SLOW_QUESTIONS)
    file = options.work / "questions.jsonl"
    file.write_text("".join(json.dumps({"question": text}) + "\n" for text in asked))
    with scripted("--seconds", str(_SLOW_SECONDS)) as model_url:
        engine = Engine(_settings(folder, model_url, cache=False))
        engine.knowledge_base(folder.name)
        alone, together, batched = asyncio.run(_taken(engine, folder.name, asked, file))
    figure("one after the other", alone, "s")
    figure(f"{_AT_ONCE} at once, Engine.ask", p50(together), "s")
    figure(f"{_AT_ONCE} at once, rag batch", p50(batched), "s")
    figure("Engine.ask: times faster", alone / p50(together), "x", ">= 20")
    figure("rag batch: times faster", alone / p50(batched), "x", ">= 20")


async def _taken(
    engine: Engine, name: str, asked: Sequence[str], file: Path
) -> tuple[float, list[float], list[float]]:
    async with _closing(engine):
        await _answered(engine, name, asked[:5], at_once=5)
        alone = await _answered(engine, name, asked, at_once=1)
        together, batched = [], []
        for place in range(3):
            together.append(await _answered(engine, name, asked, at_once=_AT_ONCE))
            batch = Batch(engine.ask, {"knowledge_base": name}, concurrency=_AT_ONCE)
            report = await batch.run(file, file.with_name(f"answers-{place}.jsonl"))
            if report.failed or report.answered != len(asked):
                raise SystemExit(f"The batch did not succeed: {report}")
            batched.append(report.seconds)
    return alone, together, batched


async def _answered(engine: Engine, name: str, asked: Sequence[str], *, at_once: int) -> float:
    waiting = iter(asked)

    async def work() -> None:
        for question in waiting:
            events = [event async for event in engine.ask(question, knowledge_base=name)]
            if not isinstance(events[-1], Finished):
                raise SystemExit(f"No answer: {events[-1]}")

    with watched() as watch:
        await asyncio.gather(*(work() for _ in range(at_once)))
    return watch.seconds


# --- the stack over the bare client -----------------------------------------------------------


def _overhead(options: Options, folder: Path) -> None:
    title("The whole stack over the bare `openai` client (audit, metrics, ledger on)")
    with scripted() as model_url:
        for budgets in ((), _NEVER_REACHED):
            settings = _settings(
                folder,
                model_url,
                budgets=budgets,
                audit_dir=options.work / "audit",
            )
            asyncio.run(_compared(options, Engine(settings), model_url))


async def _compared(options: Options, engine: Engine, model_url: str) -> None:
    Metrics(engine)
    model = engine.gateway.forced(_MODEL)
    client = AsyncOpenAI(base_url=model_url, api_key="none", max_retries=0)
    asked = questions(options, _PAIRS)
    async with _closing(engine), client:
        for stream in (False, True):
            bare: list[float] = []
            whole: list[float] = []
            for place, text in enumerate([*asked[:20], *asked]):
                calls = [(_bare(client, text, stream), bare), (_whole(model, text, stream), whole)]
                for call, times in calls if place % 2 else reversed(calls):
                    times.append(await _milliseconds(call))
            _tell(stream, bool(engine.settings.budgets), bare[20:], whole[20:])


def _tell(stream: bool, budgets: bool, bare: Sequence[float], whole: Sequence[float]) -> None:
    over = [w - b for w, b in zip(whole, bare, strict=True)]
    kind = f"{'stream' if stream else 'whole'}, {'with' if budgets else 'without'} budgets"
    figure(f"{kind}: bare call, p50", p50(bare), "ms")
    figure(f"{kind}: the stack adds, p50", p50(over), "ms", "<= 2")
    figure(f"{kind}: the stack adds, p95", p95(over), "ms")


async def _milliseconds(call: Callable[[], Awaitable[None]]) -> float:
    with watched() as watch:
        await call()
    return 1000 * watch.seconds


def _bare(client: AsyncOpenAI, text: str, stream: bool) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        messages: Any = [{"role": "user", "content": text}]
        if not stream:
            await client.chat.completions.create(model=_MODEL, messages=messages)
            return
        parts = await client.chat.completions.create(
            model=_MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
        )
        async for _ in parts:
            pass

    return call


def _whole(model: ChatModel, text: str, stream: bool) -> Callable[[], Awaitable[None]]:
    request = ChatRequest(messages=(Message("user", text),), stream=stream, max_tokens=1024)

    async def call() -> None:
        async for _ in model.chat(request):
            pass

    return call


# --- cached answers ---------------------------------------------------------------------------


def _cached(options: Options, folder: Path) -> None:
    title(f"Cached answers through HTTP, {_CONNECTIONS} connections, {_KEPT} questions in turn")
    asked = questions(options, _KEPT)
    with _served(folder) as (url, _):
        bodies = _bodies(folder.name, asked * (_REPLAYED // _KEPT))
        streamed = _bodies(folder.name, asked * (_REPLAYED // _KEPT), stream=True)
        _whole_answers(loaded(url, bodies[:_KEPT], _CONNECTIONS), _KEPT)
        as_json, as_stream = [], []
        for _ in range(options.rounds):
            as_json.append(_replayed(loaded(url, bodies, _CONNECTIONS)))
            as_stream.append(_replayed(loaded(url, streamed, _CONNECTIONS)))
    figure("JSON: answers per second, median round", p50(as_json), "/s", ">= 500")
    figure("streamed: answers per second, median round", p50(as_stream), "/s", ">= 500")
    figure("JSON: the best round", max(as_json), "/s")
    figure("streamed: the best round", max(as_stream), "/s")


def _replayed(load: Load) -> float:
    if load.count(b'"cached":true') + load.count(b'"cached": true') != _REPLAYED:
        raise SystemExit("Not every answer came from the cache.")
    return load.per_second


# --- streams at once --------------------------------------------------------------------------


def _streams(options: Options, folder: Path) -> None:
    title(f"{_STREAMS} streams of {_WORDS} chunks at once, each another question")
    asked = questions(options, _STREAMS * (options.rounds + 1))
    texts = iter([f"{place}: {text}" for place, text in enumerate(asked)])
    ours, bare, over = [], [], []
    with (
        scripted("--words", str(_WORDS)) as model_url,
        _served(folder, model_url) as (url, _),
        relaying(model_url) as relay,
    ):
        for place in range(options.rounds + 1):
            bodies = _bodies(folder.name, [next(texts) for _ in range(_STREAMS)], stream=True)
            whole = loaded(url, bodies, _STREAMS)
            _whole_answers(whole, _STREAMS)
            relayed = loaded(f"{relay}/ask", bodies, _STREAMS)
            _whole_answers(relayed, _STREAMS)
            if place:  # the first round opens all connections
                ours.append(_chunks(whole, b"event: token\n"))
                bare.append(_chunks(relayed, b'"content":"'))
                over.append(ours[-1] / bare[-1])
    figure("bare relay: chunks per second, median round", p50(bare), "/s")
    figure("/ask: chunks per second, median round", p50(ours), "/s")
    figure("/ask over the bare relay, median round", p50(over), "x", ">= 0.7")
    figure("errors", 0, "", "<= 0")


def _chunks(load: Load, mark: bytes) -> float:
    return load.count(mark) / load.seconds


# --- money ------------------------------------------------------------------------------------


def _day(options: Options, folder: Path) -> None:
    title(f"A day of {_DAY:,} questions, {_REPEATS} of them asked before in other words' clothes")
    generator = random.Random(11)
    new = [f"{place}: {text}" for place, text in enumerate(questions(options, _DAY - _REPEATS))]
    asked = new + [_dressed(text) for text in generator.choices(new, k=_REPEATS)]
    generator.shuffle(asked)
    with _served(folder) as (url, server):
        _whole_answers(loaded(url, _bodies(folder.name, asked), _CONNECTIONS), _DAY)
        told = httpx.get(f"{server}/metrics").text
    spent = _sum(told, "rag_model_cost_dollars_total")
    saved = _sum(told, "rag_cache_saved_dollars_total")
    figure("calls made", _sum(told, "rag_model_calls_total"))
    for result in ("miss", "hit", "joined"):
        figure(f"cache: {result}", _sum(told, f'rag_cache_asked_total{{result="{result}"}}'))
    figure("spent", spent, "dollars")
    figure("saved", saved, "dollars")
    figure("saved of what it would have cost", 100 * saved / (spent + saved), "%", ">= 39.9")


def _dressed(text: str) -> str:
    """The same question, written a little differently."""
    return f"  {text.upper().replace(' ', '  ')} ？"


def _sum(metrics: str, name: str) -> float:
    lines = re.findall(rf"^{re.escape(name)}\S* (\S+)$", metrics, re.MULTILINE)
    return sum(map(float, lines))


# --- shared -----------------------------------------------------------------------------------


@contextmanager
def _served(folder: Path, model_url: str = "") -> Iterator[tuple[str, str]]:
    """Addresses of a server's /ask and of the server itself."""
    if not model_url:
        with scripted() as url, _served(folder, url) as addresses:
            yield addresses
        return
    environment = {
        "RAG_INDEXES": str(folder.parent),
        "RAG_MODEL": _MODEL,
        "RAG_MODELS": json.dumps([_spec(model_url)]),
        "RAG_THRESHOLD": "0",
    }
    with serving(environment) as server:
        yield f"{server}/ask", server


def _settings(folder: Path, model_url: str, **more: Any) -> Settings:
    return Settings.read(
        indexes=folder.parent, model=_MODEL, models=[_spec(model_url)], threshold=0.0, **more
    )


def _spec(model_url: str) -> dict[str, Any]:
    prices = {"price_in": _PRICE_IN, "price_out": _PRICE_OUT}
    return {"name": _MODEL, "base_url": model_url, **prices}


def _bodies(name: str, asked: Sequence[str], *, stream: bool = False) -> list[dict[str, Any]]:
    return [{"question": text, "knowledge_base": name, "stream": stream} for text in asked]


def _whole_answers(load: Load, count: int) -> None:
    """Every reply came, and none ends in a failure."""
    if len(load.replies) != count or load.count(b"event: failed"):
        raise SystemExit(f"{count} asked, {len(load.replies)} answered: {load.replies[-1]!r}")


@asynccontextmanager
async def _closing(engine: Engine) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await engine.aclose()
