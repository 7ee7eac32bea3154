"""A question checked, given its preset, models and tools, and answered: from the cache if it can
be, held for a person's approval if it must be."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rag.answer import SEARCH, Answerer, Fallback, Limits, Question
from rag.bases import DEFAULT, Following, KnowledgeBases
from rag.cache import AnswerCache, answer_key
from rag.chat.routing import Features
from rag.complete import complete
from rag.config import Settings
from rag.conversation import ToolLimits
from rag.errors import InputError, VisionError
from rag.gateway import Gateway
from rag.images import fitted
from rag.pictures import Pictures
from rag.prompt import PROMPT_VERSION, Preset, Presets, Wrapped
from rag.release import released
from rag.reviews import Reviews
from rag.tools import Tool
from rag.types import (
    EXTRACTIVE,
    Answer,
    AnswerEvent,
    CallContext,
    ChatModel,
    Filters,
    Hit,
    Image,
    Message,
    ToolUsed,
)
from rag.wire import answer_json

_MAX_QUESTION = 8_000
_CODE = "code_completion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a question is to be answered; what is left out is as the settings say.

    `tools` are names, in place of the preset's. `cache` False asks anew. `caller` and
    `session_id` tell on whose behalf.
    """

    knowledge_base: str = DEFAULT
    history: Sequence[Message] = ()
    images: Sequence[Image] = ()
    filters: Filters = Filters()
    top_k: int | None = None
    model: str | None = None
    preset: str | None = None
    tools: Sequence[str] | None = None
    schema: Mapping[str, Any] | None = None
    stream: bool = True
    cache: bool = True
    caller: str = ""
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """A file that is being written; the cursor is between the two."""

    before: str
    after: str = ""
    name: str = ""


class Asking:
    """Everything between a question and its answer, put together for each question."""

    def __init__(
        self,
        settings: Settings,
        bases: KnowledgeBases,
        gateway: Gateway,
        *,
        presets: Presets,
        tools: Mapping[str, Tool],
        cache: AnswerCache,
        pictures: Pictures,
        reviews: Reviews,
    ) -> None:
        self._settings = settings
        self._bases = bases
        self._gateway = gateway
        self._presets = presets
        self._tools = tools
        self._cache = cache
        self._pictures = pictures
        self._reviews = reviews

    def ask(self, text: str, options: Options) -> AsyncGenerator[AnswerEvent]:
        """The events of an answer. What is wrong with the question is raised here, before them."""
        text = checked(text)
        preset = self._presets.get(options.preset or self._settings.preset)
        tools = self._chosen_tools(preset, options.tools)
        model = self._model(text, options, preset, needs_tools=bool(tools))
        seen, image_texts = self._seen(options, model)
        base = self._bases.knowledge_base(options.knowledge_base)
        question = Question(
            text=text,
            preset=preset,
            history=tuple(options.history),
            images=seen,
            image_texts=image_texts,
            filters=options.filters,
            top_k=options.top_k or self._settings.top_k,
            stream=options.stream,
            schema=None if options.schema is None else Wrapped.of(options.schema),
            tools={name: tool for name, tool in tools.items() if tool is not None},
            searches=SEARCH in tools,
            context=_context(text, options, preset),
        )
        if question.schema is not None and model is None:
            raise InputError(
                "Quoted passages cannot be put into a schema.", "Choose a chat model (RAG_MODEL)."
            )
        answerer = Answerer(
            Following(self._bases, options.knowledge_base),
            base.extractor,
            model,
            self._limits(preset, forced=bool(options.model or preset.model)),
        )
        if model is None:
            events = answerer.answer(question)
        else:
            key = self._key(question, options, model, base.store.stamp)
            events = self._cache.answer(key, lambda: answerer.answer(question))
        return self._released(events, question, options)

    def complete(self, code: Code, options: Options) -> AsyncGenerator[AnswerEvent]:
        """The events of a completion: Retrieved, Token, then Finished or Failed."""
        if not code.before.strip():
            raise InputError("There is nothing to complete.", "Send the file up to the cursor.")
        preset = self._presets.get(options.preset or _CODE)
        model = self._model(code.before[-_MAX_QUESTION:], options, preset, needs_tools=False)
        if model is None:
            raise InputError("There is no chat model to complete with.", "Set RAG_MODEL.")
        return complete(
            code.before,
            code.after,
            name=code.name,
            preset=preset,
            retriever=Following(self._bases, options.knowledge_base),
            model=model,
            filters=options.filters,
            top_k=options.top_k or self._settings.top_k,
            stream=options.stream,
            max_tokens=preset.max_answer_tokens or self._settings.max_answer_tokens,
            temperature=_first(preset.temperature, self._settings.temperature),
            context=_context("", options, preset),
        )

    def _model(
        self, text: str, options: Options, preset: Preset, *, needs_tools: bool
    ) -> ChatModel | None:
        """Raises InputError for a model that is not offered, ConfigError where there is no way."""
        name = options.model or preset.model
        if name == EXTRACTIVE:
            return None
        if name is not None:
            return self._gateway.forced(name)
        features = Features(
            question=text,
            preset=preset.name,
            knowledge_base=options.knowledge_base,
            caller=options.caller,
            tags=options.filters.tags,
            needs_vision=bool(options.images) and not self._pictures.can_read,
            needs_tools=needs_tools,
        )
        return self._gateway.route(features)

    def _chosen_tools(self, preset: Preset, wanted: Sequence[str] | None) -> dict[str, Tool | None]:
        """By name; `search_knowledge`, which is made for each answer, without a tool.

        A preset's tools that are not configured here are left out; a caller's are an error.
        """
        there = {**self._tools, SEARCH: None}
        if wanted is None:
            return {name: there[name] for name in preset.tools if name in there}
        for name in wanted:
            if name not in there:
                raise InputError(
                    f"There is no tool {name!r} here.", f"Offered: {', '.join(sorted(there))}."
                )
        return {name: there[name] for name in wanted}

    def _seen(
        self, options: Options, model: ChatModel | None
    ) -> tuple[tuple[Image, ...], tuple[str, ...]]:
        """What the model will see, and the text in it. Raises VisionError."""
        images = options.images
        if not images:
            return (), ()
        sees = model is not None and model.abilities.vision
        if not sees and not self._pictures.can_read:
            default = next(iter(self._gateway.configured), EXTRACTIVE)
            raise VisionError(
                f"{model.name if model else options.model or default} cannot see images.",
                "Choose a model with vision (RAG_MODEL), set RAG_VISION=true if it has it, or"
                ' read their text with: pip install "rag-server[ocr]"',
            )
        texts = self._pictures.texts(images)
        if model is None or not sees:
            return (), texts
        return tuple(fitted(i, model.abilities.max_image_side) for i in images), texts

    def _limits(self, preset: Preset, *, forced: bool) -> Limits:
        settings = self._settings
        fallback: Fallback = "all" if self._gateway.has_several else "down"
        if forced or not settings.extractive_fallback:
            fallback = "never"
        return Limits(
            max_tokens=preset.max_answer_tokens or settings.max_answer_tokens,
            temperature=_first(preset.temperature, settings.temperature),
            tools=ToolLimits(steps=settings.tool_steps, seconds=settings.tool_seconds),
            fallback=fallback,
        )

    def _key(
        self, question: Question, options: Options, model: ChatModel, stamp: str
    ) -> str | None:
        """None where the answer is to be made anew."""
        if not (options.cache and self._settings.cache):
            return None
        settings, preset = self._settings, question.preset
        return answer_key(
            question.text,
            history=question.history,
            images=tuple(options.images),
            model=model.name,
            parameters={
                "forced": options.model or preset.model or "",
                "top_k": question.top_k,
                "filters": asdict(question.filters),
                "threshold": settings.threshold,
                "temperature": _first(preset.temperature, settings.temperature),
                "max_tokens": preset.max_answer_tokens or settings.max_answer_tokens,
                "preset": preset.digest,
                "tools": sorted([*(question.tools or ()), *([SEARCH] * question.searches)]),
                "schema": options.schema,
            },
            prompt=PROMPT_VERSION,
            knowledge_base=options.knowledge_base,
            stamp=stamp,
        )

    # --- approval -----------------------------------------------------------------------------

    def _released(
        self, events: AsyncGenerator[AnswerEvent], question: Question, options: Options
    ) -> AsyncGenerator[AnswerEvent]:
        if not (question.preset.review or self._settings.review_tags):
            return events

        def reason(hits: Sequence[Hit]) -> str:
            if question.preset.review:
                return f"preset {question.preset.name}"
            tags = self._tags(hits, options.knowledge_base) & set(self._settings.review_tags)
            return f"tag {', '.join(sorted(tags))}" if tags else ""

        def hold(answer: Answer, why: str) -> str:
            return self._reviews.hold(
                reason=why,
                knowledge_base=options.knowledge_base,
                session_id=options.session_id,
                caller=options.caller,
                question=question.text,
                answer=answer_json(answer),
            )

        return released(events, reason, hold)

    def _tags(self, hits: Sequence[Hit], knowledge_base: str) -> set[str]:
        """Of the documents that the hits are of."""
        if not hits:
            return set()
        ids = tuple(dict.fromkeys(hit.chunk.document_id for hit in hits))
        infos = self._bases.store(knowledge_base).documents(Filters(documents=ids))
        return {tag for info in infos for tag in info.tags}


def keeps(tools: Mapping[str, Tool]) -> Any:
    """Which answers are worth keeping: a model's, from nothing that changes by itself."""

    def keep(answer: Answer, events: Sequence[AnswerEvent]) -> bool:
        used = [event.name for event in events if isinstance(event, ToolUsed)]
        lasting = all(name == SEARCH or (name in tools and tools[name].cacheable) for name in used)
        return lasting and answer.model != EXTRACTIVE

    return keep


def _context(text: str, options: Options, preset: Preset) -> CallContext:
    return CallContext(
        caller=options.caller,
        session_id=options.session_id,
        knowledge_base=options.knowledge_base,
        preset=preset.name,
        question=text,
    )


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def checked(question: str) -> str:
    """Raises InputError for a question that cannot be one."""
    text = question.strip()
    if not text:
        raise InputError("The question is empty.", "Ask something.")
    if len(text) > _MAX_QUESTION:
        raise InputError(
            f"The question has {len(text)} characters; at most {_MAX_QUESTION} are read.",
            "Shorten it.",
        )
    return text
