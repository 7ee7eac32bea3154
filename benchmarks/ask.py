"""What `/ask` adds to the model call: a real server, the bundled embedder, a scripted model."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from openai import OpenAI

from benchmarks.corpus import questions
from benchmarks.options import Options
from benchmarks.processes import scripted, serving
from benchmarks.report import each, figure, p50, p95, title
from benchmarks.stage import built

_CHUNKS = 2_000
_QUESTIONS = 150
_MODEL = "scripted"


def run(options: Options) -> None:
    """Each question goes to the model directly and to `/ask`, one after the other."""
    folder = built(options, _CHUNKS)
    title(f"/ask over the bare model call ({_CHUNKS:,} chunks, the question embedded each time)")
    asked = questions(options, _QUESTIONS)
    with scripted() as model_url:
        environment = {
            "RAG_INDEXES": str(folder.parent),
            "OPENAI_BASE_URL": model_url,
            "OPENAI_API_KEY": "none",
            "RAG_MODEL": _MODEL,
            "RAG_THRESHOLD": "0",
        }
        with serving(environment) as url, httpx.Client(base_url=url, timeout=60) as http:
            client = OpenAI(base_url=model_url, api_key="none")
            for stream in (False, True):
                _measure(stream, _bare(client, asked), _whole(http, folder.name, asked))


_Call = Callable[[int, bool], None]


def _measure(stream: bool, bare: _Call, whole: _Call) -> None:
    for place in range(20):
        bare(place, stream)
        whole(place, stream)
    direct, through = [], []
    for place in range(_QUESTIONS):
        direct += each(lambda p: bare(p, stream), [place])
        through += each(lambda p: whole(p, stream), [place])
    over = [t - d for t, d in zip(through, direct, strict=True)]
    kind = "stream" if stream else "JSON"
    figure(f"{kind}: bare model call, p50", p50(direct), "ms")
    figure(f"{kind}: /ask, p50", p50(through), "ms")
    figure(f"{kind}: /ask less the bare call, p50", p50(over), "ms", "<= 15")
    figure(f"{kind}: /ask less the bare call, p95", p95(over), "ms")
    figure(f"{kind}: /ask over the bare call", p50(through) / p50(direct), "x")


def _bare(client: OpenAI, asked: list[str]) -> _Call:
    def call(place: int, stream: bool) -> None:
        reply = client.chat.completions.create(
            model=_MODEL, stream=stream, messages=[{"role": "user", "content": asked[place]}]
        )
        if stream:
            for _ in reply:
                pass

    return call


def _whole(http: httpx.Client, name: str, asked: list[str]) -> _Call:
    def call(place: int, stream: bool) -> None:
        body = {"question": asked[place], "knowledge_base": name, "stream": stream}
        answer = http.post("/ask", json=body)
        answer.raise_for_status()
        if stream and "event: finished" not in answer.text:
            raise SystemExit(f"The answer did not finish: {answer.text[-500:]}")

    return call
