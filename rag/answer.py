"""The way out: question -> retrieve -> prompt -> model -> answer, told as a stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from rag.citations import CitationParser, citation
from rag.errors import ModelStreamError, RagError
from rag.extract import Extractor, row_header
from rag.prompt import REFUSAL, build_prompt
from rag.retrieve import Retrieves
from rag.text import Language, estimate_tokens, language
from rag.types import (
    EXTRACTIVE,
    Answer,
    AnswerEvent,
    ChatModel,
    ChatRequest,
    Citation,
    Cited,
    Failed,
    Filters,
    Finished,
    Hit,
    Image,
    Message,
    Retrieved,
    Timings,
    Token,
    Usage,
)

EXTRACTED: dict[Language, str] = {
    "zh": "尚未配置对话模型，回答由文档原文摘录而成。",
    "en": "No chat model is configured: these are passages quoted from the documents.",
}
UNCITED: dict[Language, str] = {
    "zh": "模型没有给出引用：请对照下方找到的资料核实这个回答。",
    "en": "The model cited nothing: check this answer against the passages that were found.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, checked. `history` alternates user and assistant, oldest first."""

    text: str
    history: tuple[Message, ...] = ()
    images: tuple[Image, ...] = ()
    filters: Filters = Filters()
    top_k: int = 5
    stream: bool = True


class Answerer:
    """Answers questions about one knowledge base; without a model, by extracts."""

    def __init__(
        self,
        retriever: Retrieves,
        extractor: Extractor,
        model: ChatModel | None,
        *,
        max_tokens: int,
        temperature: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retriever = retriever
        self._extractor = extractor
        self._model = model
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._clock = clock

    async def answer(self, question: Question) -> AsyncGenerator[AnswerEvent]:
        """Retrieved, then Token and Cited as they come, then exactly one of Finished and Failed."""
        watch = _Watch(self._clock)
        try:
            hits = await asyncio.to_thread(
                self._retriever.retrieve,
                question.text,
                top_k=question.top_k,
                filters=question.filters,
                history=question.history,
            )
            watch.retrieved = watch.now()
            yield Retrieved(tuple(hits), watch.retrieved)
            if not hits:
                events = self._refusal(question, watch)
            elif self._model is None:
                events = self._extracts(question, hits, watch)
            else:
                events = self._generated(question, hits, self._model, watch)
            async with aclosing(events):
                async for event in events:
                    yield event
        except RagError as error:
            yield Failed(error.code, error.message, error.hint, error.retryable)

    async def _refusal(self, question: Question, watch: _Watch) -> AsyncGenerator[AnswerEvent]:
        text = REFUSAL[language(question.text)]
        yield Token(text)
        name = EXTRACTIVE if self._model is None else self._model.name
        yield Finished(_answer(text, (), name, watch, refused=True))

    async def _extracts(
        self, question: Question, hits: Sequence[Hit], watch: _Watch
    ) -> AsyncGenerator[AnswerEvent]:
        extracts = await asyncio.to_thread(self._extractor.best, question.text, hits)
        citations: list[Citation] = []
        parts: list[str] = []
        for extract in extracts:
            hit = hits[extract.n - 1]
            cited = citation(extract.n, hit, extract.start, extract.end)
            citations.append(cited)
            header = row_header(hit.chunk, cited.quote)
            text = (
                f"{header}\n{cited.quote} [{cited.n}]" if header else f"{cited.quote} [{cited.n}]"
            )
            parts.append(text)
            watch.token()
            yield Token(text if len(parts) == 1 else "\n\n" + text)
            yield Cited(cited)
        notice = EXTRACTED[language(question.text)]
        text = "\n\n".join(parts)
        yield Finished(_answer(text, tuple(citations), EXTRACTIVE, watch, notice=notice))

    async def _generated(
        self, question: Question, hits: Sequence[Hit], model: ChatModel, watch: _Watch
    ) -> AsyncGenerator[AnswerEvent]:
        prompt = build_prompt(
            question.text,
            hits,
            budget=model.context_window - self._max_tokens,
            history=question.history,
            images=question.images,
        )
        request = ChatRequest(
            messages=prompt.messages,
            stream=question.stream,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
        )
        parser = CitationParser(prompt.sources, question.text)
        usage: Usage | None = None
        replies = model.chat(request)
        async with aclosing(replies):
            async for delta in replies:
                usage = delta.usage or usage
                if delta.text:
                    watch.token()
                    for event in parser.feed(delta.text):
                        yield event
        for event in parser.finish():
            yield event
        text = parser.text.strip()
        if not text:
            raise ModelStreamError(f"{model.name} answered with no text.", "Ask again.")
        refused = not parser.citations and is_refusal(text)
        checkable = refused or bool(parser.citations)
        yield Finished(
            _answer(
                parser.text,
                parser.citations,
                model.name,
                watch,
                usage=usage or _estimated(prompt.messages, text),
                refused=refused,
                notice="" if checkable else UNCITED[language(question.text)],
            )
        )


class _Watch:
    """Seconds since the question."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self.retrieved = 0.0
        self.first_token: float | None = None

    def now(self) -> float:
        return self._clock() - self._started

    def token(self) -> None:
        if self.first_token is None:
            self.first_token = self.now()


def is_refusal(text: str) -> bool:
    """Whether a reply is one of the refusals the prompt asks for, give or take punctuation."""
    return any(text.strip(' \n。."“”').startswith(r.strip("。.")) for r in REFUSAL.values())


def _estimated(messages: Sequence[Message], text: str) -> Usage:
    asked = sum(estimate_tokens(m.text) for m in messages)
    return Usage(asked, estimate_tokens(text), estimated=True)


def _answer(
    text: str,
    citations: tuple[Citation, ...],
    model: str,
    watch: _Watch,
    *,
    usage: Usage = Usage(),
    refused: bool = False,
    notice: str = "",
) -> Answer:
    return Answer(
        text=text,
        refused=refused,
        citations=citations,
        model=model,
        usage=usage,
        timings=Timings(
            retrieved=watch.retrieved, first_token=watch.first_token, total=watch.now()
        ),
        notice=notice,
    )
