"""The way out: question -> retrieve -> prompt -> model -> answer, told as a stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from rag.citations import citation
from rag.conversation import Conversation, ToolLimits
from rag.errors import BudgetError, ModelAuthError, ModelError, ModelRequestError, RagError
from rag.extract import Extractor, row_header
from rag.generate import Happened, Written, cited, structured
from rag.prompt import REFUSAL, Preset, Prompt, Wrapped, build_prompt
from rag.retrieve import Retrieves
from rag.sources import Sources, search_tool
from rag.text import Language, language
from rag.tools import Tool
from rag.types import (
    EXTRACTIVE,
    Answer,
    AnswerEvent,
    CallContext,
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
DOWN: dict[Language, str] = {
    "zh": "对话模型暂时不可用，回答由文档原文摘录而成。（{reason}）",
    "en": "No chat model can answer now: these are passages quoted from the documents. ({reason})",
}
SEARCH = "search_knowledge"

Fallback = Literal["all", "down", "never"]
"""When passages are quoted in a model's place: whenever none answers, or only where waiting may
help and not an operator, or never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, checked. `history` alternates user and assistant, oldest first.

    `image_texts` were read from the pictures; they help to find passages, and stand in the prompt
    in place of pictures that the model cannot see. `tools` are those the model may call, besides
    `search_knowledge`, which is made for each answer if `searches`.
    """

    text: str
    preset: Preset
    history: tuple[Message, ...] = ()
    images: tuple[Image, ...] = ()
    image_texts: tuple[str, ...] = ()
    filters: Filters = Filters()
    top_k: int = 5
    stream: bool = True
    schema: Wrapped | None = None
    tools: Mapping[str, Tool] | None = None
    searches: bool = False
    context: CallContext = CallContext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Tokens of a reply, and what tools may take."""

    max_tokens: int
    temperature: float | None = None
    tools: ToolLimits = ToolLimits(steps=5, seconds=60)
    fallback: Fallback = "down"


class Answerer:
    """Answers questions about one knowledge base; without a model, by extracts."""

    def __init__(
        self,
        retriever: Retrieves,
        extractor: Extractor,
        model: ChatModel | None,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retriever = retriever
        self._extractor = extractor
        self._model = model
        self._limits = limits
        self._clock = clock

    async def answer(self, question: Question) -> AsyncGenerator[AnswerEvent]:
        """Retrieved, then Token and Cited as they come, then exactly one of Finished and Failed."""
        watch = _Watch(self._clock)
        try:
            hits = await asyncio.to_thread(
                self._retriever.retrieve,
                " ".join((question.text, *question.image_texts)),
                top_k=question.top_k,
                filters=question.filters,
                history=question.history,
            )
            watch.retrieved = watch.now()
            yield Retrieved(tuple(hits), watch.retrieved)
            if self._model is None:
                events = self._extracts(question, hits, watch, EXTRACTED[language(question.text)])
            elif not hits and not (question.tools or question.searches):
                events = self._refusal(question, watch)
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
        yield Finished(watch.answer(text, model=name, refused=True))

    async def _extracts(
        self,
        question: Question,
        hits: Sequence[Hit],
        watch: _Watch,
        notice: str,
        usage: Usage = Usage(),
    ) -> AsyncGenerator[AnswerEvent]:
        if not hits:
            async for event in self._refusal(question, watch):
                yield event
            return
        extracts = await asyncio.to_thread(self._extractor.best, question.text, hits)
        citations: list[Citation] = []
        parts: list[str] = []
        for extract in extracts:
            hit = hits[extract.n - 1]
            quoted = citation(extract.n, hit, extract.start, extract.end)
            citations.append(quoted)
            header = row_header(hit.chunk, quoted.quote)
            text = f"{quoted.quote} [{quoted.n}]"
            parts.append(f"{header}\n{text}" if header else text)
            watch.token()
            yield Token(parts[-1] if len(parts) == 1 else "\n\n" + parts[-1])
            yield Cited(quoted)
        yield Finished(
            watch.answer(
                "\n\n".join(parts),
                citations=tuple(citations),
                model=EXTRACTIVE,
                usage=usage,
                notice=notice,
            )
        )

    async def _generated(
        self, question: Question, hits: Sequence[Hit], model: ChatModel, watch: _Watch
    ) -> AsyncGenerator[AnswerEvent]:
        sources = Sources(hits)
        conversation = self._conversation(question, sources, model)
        said = False
        try:
            async with aclosing(self._written(question, sources, conversation)) as written:
                async for event in written:
                    if isinstance(event, Token):
                        said = True
                        watch.token()
                    if not isinstance(event, Written):
                        yield event
                        continue
                    yield Finished(
                        watch.answer(
                            event.text,
                            citations=event.citations,
                            model=conversation.name,
                            usage=conversation.usage,
                            refused=event.refused,
                            notice=event.notice,
                            data=event.data,
                        )
                    )
        except (ModelError, BudgetError) as error:
            if said or not hits or question.schema or question.images:
                raise
            if not self._may_extract(error):
                raise
            notice = DOWN[language(question.text)].format(reason=error.message)
            paid = conversation.usage
            async with aclosing(self._extracts(question, hits, watch, notice, paid)) as extracts:
                async for extract in extracts:
                    yield extract

    def _may_extract(self, error: RagError) -> bool:
        for_operators = isinstance(error, ModelAuthError | ModelRequestError)
        return self._limits.fallback == "all" or (
            self._limits.fallback == "down" and not for_operators
        )

    def _conversation(self, question: Question, sources: Sources, model: ChatModel) -> Conversation:
        abilities, limits = model.abilities, self._limits
        sees = abilities.vision

        tongue = language(question.text)
        tools = dict(question.tools or {})
        if question.searches:
            tools[SEARCH] = search_tool(sources, self._retriever, question.filters)
        wrapped = question.schema

        def build(max_turns: int | None, max_hits: int | None) -> Prompt:
            return build_prompt(
                question.text,
                sources.first,
                budget=abilities.context_window - limits.max_tokens,
                history=question.history,
                images=question.images if sees else (),
                image_texts=() if sees else question.image_texts,
                preset=question.preset,
                tools=tuple(tools),
                answer_format=wrapped.instruction(tongue, enforced=abilities.schema)
                if wrapped
                else "",
                max_turns=max_turns,
                max_hits=max_hits,
            )

        request = ChatRequest(
            messages=(),
            stream=question.stream,
            temperature=limits.temperature,
            max_tokens=limits.max_tokens,
            schema=question.schema.schema if question.schema else None,
            context=replace(
                question.context, documents=tuple(dict.fromkeys(h.document for h in sources.hits))
            ),
        )
        return Conversation(
            model,
            build,
            request,
            sources=sources,
            tools=tools,
            limits=limits.tools,
            clock=self._clock,
        )

    def _written(
        self, question: Question, sources: Sources, conversation: Conversation
    ) -> AsyncGenerator[Happened | Written]:
        tongue = language(question.text)
        if question.schema is not None:
            return structured(conversation, sources, question.schema, tongue)
        grounded = question.preset.grounded
        return cited(conversation, sources, question.text, tongue, grounded=grounded)


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

    def answer(
        self,
        text: str,
        *,
        model: str,
        citations: tuple[Citation, ...] = (),
        usage: Usage = Usage(),
        refused: bool = False,
        notice: str = "",
        data: object = None,
    ) -> Answer:
        return Answer(
            text=text,
            refused=refused,
            citations=citations,
            model=model,
            usage=usage,
            timings=Timings(
                retrieved=self.retrieved, first_token=self.first_token, total=self.now()
            ),
            notice=notice,
            data=data,
        )
