"""An answer is a stream of events that always ends in exactly one of Finished and Failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag.answer import DOWN, EXTRACTED, Answerer, Fallback, Limits, Question
from rag.calibrate import Calibration
from rag.engine import Engine
from rag.errors import (
    BudgetError,
    EmbedderError,
    ModelAuthError,
    ModelBusyError,
    ModelStreamError,
    ModelUnavailableError,
    RagError,
    VisionError,
)
from rag.extract import Extractor
from rag.generate import UNCITED, is_refusal
from rag.prompt import ASSISTANT, REFUSAL
from rag.retrieve import Retriever
from rag.types import (
    EXTRACTIVE,
    Abilities,
    AnswerEvent,
    ChatRequest,
    Cited,
    Delta,
    Failed,
    Filters,
    Finished,
    Hit,
    Image,
    Message,
    Retrieved,
    Token,
    Usage,
)
from tests.fakes import FakeEmbedder
from tests.test_citations import COSTS, LEAVE, hit

HITS = [hit(LEAVE), hit(COSTS)]


class Scripted:
    """A chat model that says what it is told; an error in the script is raised there."""

    name = "scripted"
    abilities = Abilities(context_window=4000)

    def __init__(self, *script: str | Delta | Exception) -> None:
        self._script = script
        self.requests: list[ChatRequest] = []
        self.closed = 0

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta]:
        self.requests.append(request)
        try:
            for step in self._script:
                if isinstance(step, Exception):
                    raise step
                yield step if isinstance(step, Delta) else Delta(step)
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        pass


class Found:
    """A retriever that finds what it is told."""

    def __init__(self, *hits: Hit, error: RagError | None = None) -> None:
        self._hits = hits
        self._error = error

    def retrieve(self, question: str, **_: object) -> list[Hit]:
        if self._error:
            raise self._error
        return list(self._hits)


def answerer(
    model: Scripted | None,
    *hits: Hit,
    error: RagError | None = None,
    extractor: object = None,
    fallback: Fallback = "never",
) -> Answerer:
    retriever: Retriever = Found(*hits, error=error)  # type: ignore[assignment]
    ticks = iter(range(1000))
    return Answerer(
        retriever,
        extractor or Extractor(FakeEmbedder(), spread=1.0),  # type: ignore[arg-type]
        model,
        Limits(max_tokens=500, fallback=fallback),
        clock=lambda: float(next(ticks)),
    )


def told(
    answerer: Answerer, question: str = "年假有几天？", **options: object
) -> list[AnswerEvent]:
    async def run() -> list[AnswerEvent]:
        asked = Question(text=question, preset=ASSISTANT, **options)  # type: ignore[arg-type]
        return [event async for event in answerer.answer(asked)]

    return asyncio.run(run())


def text_of(events: list[AnswerEvent]) -> str:
    return "".join(e.text for e in events if isinstance(e, Token))


def finished(events: list[AnswerEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(e, Finished | Failed) for e in events) == 1
    return events[-1]


# --- with a model ---------------------------------------------------------------------------------


def test_events_come_as_retrieved_tokens_and_citations_finished() -> None:
    events = told(answerer(Scripted("十五天", "年假[", "1]。"), *HITS))
    assert [type(e) for e in events] == [Retrieved, Token, Token, Token, Cited, Token, Finished]
    assert events[0] == Retrieved(tuple(HITS), 1.0)


def test_the_answer_is_what_the_tokens_said_with_every_citation() -> None:
    events = told(answerer(Scripted("十五天年假[1]。", "餐费 120 CNY [2][9]。"), *HITS))
    answer = finished(events).answer
    assert answer.text == text_of(events) == "十五天年假[1]。餐费 120 CNY [2]。"
    assert answer.citations == tuple(e.citation for e in events if isinstance(e, Cited))
    assert [c.n for c in answer.citations] == [1, 2]
    assert (answer.model, answer.refused, answer.notice) == ("scripted", False, "")
    assert answer.timings.retrieved <= answer.timings.first_token <= answer.timings.total  # type: ignore[operator]


def test_the_model_gets_the_prompt_within_its_window() -> None:
    model = Scripted("好[1]")
    history = (Message("user", "早"), Message("assistant", "您好"))
    told(answerer(model, *HITS), history=history, stream=False)
    (request,) = model.requests
    assert not request.stream
    assert request.max_tokens == 500
    assert [m.role for m in request.messages] == ["system", "user", "assistant", "user"]
    assert LEAVE in request.messages[0].text


def test_no_hits_are_a_refusal_without_a_model_call() -> None:
    for question, tongue in (("年假有几天？", "zh"), ("How many days?", "en")):
        model = Scripted("never said")
        events = told(answerer(model), question)
        answer = finished(events).answer
        assert answer.refused
        assert answer.text == text_of(events) == REFUSAL[tongue]  # type: ignore[index]
        assert answer.citations == ()
        assert answer.usage == Usage()
        assert model.requests == []


def test_an_error_before_the_first_word_is_a_failure_that_tells_what_to_do() -> None:
    error = ModelBusyError("The model is busy.", "Wait a minute.")
    events = told(answerer(Scripted(error), *HITS))
    assert events == [
        Retrieved(tuple(HITS), 1.0),
        Failed("model_busy", "The model is busy.", "Wait a minute.", True),
    ]


def test_an_error_in_the_middle_keeps_what_was_said_and_ends_failed() -> None:
    model = Scripted("十五天", "[1]", ModelStreamError("The stream broke.", "Ask again."))
    events = told(answerer(model, *HITS))
    assert text_of(events) == "十五天[1]"
    assert isinstance(events[-1], Failed)
    assert not any(isinstance(e, Finished) for e in events)
    assert model.closed == 1


def test_an_error_while_retrieving_is_a_failure_too() -> None:
    events = told(answerer(None, error=EmbedderError("No vectors.", "")))
    assert events == [Failed("embedder", "No vectors.", "", False)]


@pytest.mark.parametrize("script", [(), ("",), (" \n",), ("[9]",)])
def test_an_empty_reply_is_a_failure(script: tuple[str, ...]) -> None:
    events = told(answerer(Scripted(*script), *HITS))
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "model_stream"


@pytest.mark.parametrize("after", [1, 2])
def test_closing_the_answer_closes_the_models_reply(after: int) -> None:
    model = Scripted(*["字"] * 50)

    async def run() -> None:
        asked = Question(text="年假？", preset=ASSISTANT)
        async with aclosing(answerer(model, *HITS).answer(asked)) as events:
            seen = 0
            async for _ in events:
                seen += 1
                if seen > after:
                    break

    asyncio.run(run())
    assert model.closed == 1


def test_cancelling_the_task_closes_the_models_reply() -> None:
    class Stalled(Scripted):
        async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta]:
            try:
                yield Delta("一")
                self.stalled.set()
                await asyncio.Event().wait()
            finally:
                self.closed += 1

    model = Stalled()

    async def run() -> None:
        model.stalled = asyncio.Event()  # type: ignore[attr-defined]

        async def consume() -> None:
            async for _ in answerer(model, *HITS).answer(Question(text="年假？", preset=ASSISTANT)):
                pass

        task = asyncio.create_task(consume())
        await model.stalled.wait()  # type: ignore[attr-defined]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.closed == 1

    asyncio.run(run())


@pytest.mark.parametrize("tongue", ["zh", "en"])
def test_a_models_refusal_is_told_from_an_answer(tongue: str) -> None:
    refusal = REFUSAL[tongue]  # type: ignore[index]
    for said in (refusal, f" {refusal}\n", refusal.rstrip("。."), f"“{refusal}”"):
        assert finished(told(answerer(Scripted(*said), *HITS))).answer.refused
    assert not finished(told(answerer(Scripted("十五天[1]。"), *HITS))).answer.refused


def test_a_reply_that_cites_is_no_refusal() -> None:
    said = f"{REFUSAL['zh']}但年假有十五天[1]。"
    assert not finished(told(answerer(Scripted(said), *HITS))).answer.refused


def test_other_words_are_no_refusal() -> None:
    assert not is_refusal("知识库中有答案。")
    assert not is_refusal("")


def test_an_answer_that_cites_nothing_says_so() -> None:
    assert finished(told(answerer(Scripted("十五天。"), *HITS))).answer.notice == UNCITED["zh"]
    events = told(answerer(Scripted("Fifteen."), *HITS), "How many days?")
    assert finished(events).answer.notice == UNCITED["en"]
    assert finished(told(answerer(Scripted(REFUSAL["zh"]), *HITS))).answer.notice == ""


def test_the_servers_usage_is_kept() -> None:
    usage = Usage(120, 7)
    script = ("十五天[1]", Delta(usage=usage, finish_reason="stop"), Delta())
    assert finished(told(answerer(Scripted(*script), *HITS))).answer.usage == usage


# --- when no model answers ------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", ["down", "all"])
@pytest.mark.parametrize(
    "error",
    [
        ModelBusyError("The model is busy."),
        ModelUnavailableError("The server failed (500)."),
        BudgetError("The budget of the day is used up."),
    ],
    ids=lambda error: error.code,
)
def test_passages_are_quoted_with_the_reason_when_no_model_answers(
    error: RagError, fallback: Fallback
) -> None:
    events = told(answerer(Scripted(error), *HITS, fallback=fallback), "病假需要什么证明？")
    answer = finished(events).answer
    assert answer.model == EXTRACTIVE
    assert answer.citations
    assert answer.text == text_of(events)
    assert answer.notice == DOWN["zh"].format(reason=error.message)


def test_what_only_an_operator_can_mend_is_an_error_unless_others_were_asked_too() -> None:
    error = ModelAuthError("The key is wrong (401).", "Check it.")
    assert isinstance(told(answerer(Scripted(error), *HITS, fallback="down"))[-1], Failed)
    assert isinstance(told(answerer(Scripted(error), *HITS, fallback="all"))[-1], Finished)


def test_after_the_first_word_nothing_else_is_put_in_its_place() -> None:
    model = Scripted("十五天", ModelStreamError("The stream broke.", "Ask again."))
    events = told(answerer(model, *HITS, fallback="all"))
    assert (text_of(events), type(events[-1])) == ("十五天", Failed)


# --- without one ----------------------------------------------------------------------------------


def test_without_a_model_the_best_sentences_are_quoted_and_cited() -> None:
    events = told(answerer(None, *HITS), "病假需要什么证明？")
    answer = finished(events).answer
    assert answer.model == EXTRACTIVE
    assert answer.text == text_of(events)
    assert answer.text.startswith("病假需要医院证明。")
    assert answer.citations[0].quote == "病假需要医院证明。"
    assert "[1]" in answer.text
    assert answer.usage == Usage()


@pytest.mark.parametrize(("question", "tongue"), [("病假？", "zh"), ("How much?", "en")])
def test_an_extract_says_that_it_is_one(question: str, tongue: str) -> None:
    answer = finished(told(answerer(None, *HITS), question)).answer
    assert answer.notice == EXTRACTED[tongue]  # type: ignore[index]


def test_every_extract_is_followed_by_its_citation() -> None:
    events = told(answerer(None, *HITS), "病假需要什么证明？")[1:-1]
    assert [type(e) for e in events] == [Token, Cited] * (len(events) // 2)


# --- a whole engine -------------------------------------------------------------------------------


@pytest.fixture
def policies(engine: Engine, folder: Callable[..., Path]) -> Engine:
    engine.ingest([folder(**{"leave.md": f"# 请假\n\n{LEAVE}", "costs.md": f"# Costs\n\n{COSTS}"})])
    return engine


def test_a_citation_opens_the_very_characters_it_quotes(
    policies: Engine, events_of: Callable[..., list[AnswerEvent]]
) -> None:
    answer = finished(events_of(policies, "病假需要什么证明？")).answer
    assert answer.citations
    for citation in answer.citations:
        document = policies.store("default").document(citation.document_id)
        assert document.text[citation.start : citation.end] == citation.quote
        assert document.name == citation.document


def test_filters_and_top_k_reach_the_search(
    policies: Engine, events_of: Callable[..., list[AnswerEvent]]
) -> None:
    events = events_of(policies, "病假？", filters=Filters(documents=("costs.md",)), top_k=1)
    retrieved = events[0]
    assert isinstance(retrieved, Retrieved)
    assert [h.document for h in retrieved.hits] == ["costs.md"]


def test_below_the_threshold_the_honest_answer_is_a_refusal(
    policies: Engine, events_of: Callable[..., list[AnswerEvent]], tmp_path: Path
) -> None:
    base = policies.knowledge_base()
    strict = Retriever(
        base.store,
        base.embedder,
        Calibration.of(base.embedder, tmp_path),
        candidates=50,
        threshold=0.9,
    )
    policies.bases._open["default"] = replace(base, retriever=strict)
    assert finished(events_of(policies, "What is the capital of France?")).answer.refused


def test_images_for_a_model_without_vision_are_refused_before_anything_else(
    policies: Engine,
) -> None:
    with pytest.raises(VisionError, match="cannot see"):
        policies.ask("什么？", images=[Image("image/png", b"x")])


def test_the_unit_of_the_fake_embedder_is_one() -> None:
    assert np.linalg.norm(FakeEmbedder().embed_query("年假")) == pytest.approx(1.0, abs=1e-5)
