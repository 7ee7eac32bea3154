"""A model's reply made an answer: marks tied to their quotes, or data that fits a schema."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from rag.citations import CitationParser, cite
from rag.conversation import Conversation
from rag.errors import ModelStreamError, SchemaError
from rag.prompt import REFUSAL, Structured, Wrapped, repair_message
from rag.sources import Sources
from rag.text import Language
from rag.types import Citation, Cited, Retried, Retrieved, Token, ToolUsed

UNCITED: dict[Language, str] = {
    "zh": "模型没有给出引用：请对照下方找到的资料核实这个回答。",
    "en": "The model cited nothing: check this answer against the passages that were found.",
}
TOOLED: dict[Language, str] = {
    "zh": "这个回答依据工具的结果而非文档：请核对所列的工具调用。",
    "en": "This answer rests on results of tools, not on documents: check the calls shown.",
}
SHORTENED: dict[Language, str] = {
    "zh": "内容超出模型的长度上限：省略了 {turns} 轮较早的对话和 {hits} 段资料。",
    "en": "Too long for the model: {turns} earlier turns and {hits} passages were left out.",
}
CUT: dict[Language, str] = {
    "zh": "回答达到长度上限，没有写完。",
    "en": "The answer reached its length limit and is not complete.",
}

Happened = Retrieved | Token | Cited | Retried | ToolUsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came out. Comes last, once."""

    text: str
    citations: tuple[Citation, ...]
    refused: bool
    notice: str
    data: Any = None


async def cited(
    conversation: Conversation, sources: Sources, question: str, tongue: Language, *, grounded: bool
) -> AsyncGenerator[Happened | Written]:
    """The reply as it comes, its marks tied to the characters that support them.

    `grounded`: it has to cite, or to refuse.
    """
    parser = CitationParser(sources.shown, question)
    async with aclosing(conversation.pieces()) as pieces:
        async for piece in pieces:
            if isinstance(piece, str):
                for event in parser.feed(piece):
                    yield event
            else:
                yield piece
    for event in parser.finish():
        yield event
    _need(parser.text, conversation)
    refused = grounded and not parser.citations and is_refusal(parser.text)
    notices = _notices(conversation, tongue)
    if grounded and not refused and not parser.citations:
        worked = any(not used.failed for used in conversation.tools_used)
        notices.append((TOOLED if worked else UNCITED)[tongue])
    yield Written(
        text=parser.text,
        citations=parser.citations,
        refused=refused,
        notice=" ".join(notices),
    )


async def structured(
    conversation: Conversation, sources: Sources, wrapped: Wrapped, tongue: Language
) -> AsyncGenerator[Happened | Written]:
    """Data that fits the schema, sent in one piece when it does. One repair is asked for.

    Raises SchemaError if the second try does not fit either.
    """
    replies = conversation.pieces()
    for may_repair in (True, False):
        said: list[str] = []
        async with aclosing(replies) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    said.append(piece)
                else:
                    yield piece
        _need("".join(said), conversation)
        try:
            found = wrapped.parse("".join(said))
            break
        except SchemaError as error:
            if not may_repair:
                raise
            replies = conversation.after(repair_message(error, tongue))
    text = REFUSAL[tongue] if found.refused else json.dumps(found.data, ensure_ascii=False)
    yield Token(text)
    citations = _citations(found, sources, text)
    for each in citations:
        yield Cited(each)
    notices = _notices(conversation, tongue)
    if not citations and not found.refused:
        notices.append(UNCITED[tongue])
    yield Written(
        text=text,
        citations=citations,
        refused=found.refused,
        notice=" ".join(notices),
        data=found.data,
    )


def _citations(found: Structured, sources: Sources, text: str) -> tuple[Citation, ...]:
    numbers = dict.fromkeys(n for n in found.sources if n in sources.shown)
    return tuple(cite(n, sources.shown[n], text) for n in numbers)


def _need(text: str, conversation: Conversation) -> None:
    if not text.strip():
        raise ModelStreamError(f"{conversation.name} answered with no text.", "Ask again.")


def _notices(conversation: Conversation, tongue: Language) -> list[str]:
    prompt, told = conversation.prompt, []
    if conversation.shortened:
        turns = prompt.dropped_turns // 2
        told.append(SHORTENED[tongue].format(turns=turns, hits=prompt.dropped_hits))
    if conversation.finish_reason == "length":
        told.append(CUT[tongue])
    return told


def is_refusal(text: str) -> bool:
    """Whether a reply is one of the refusals the prompt asks for, give or take punctuation."""
    return any(text.strip(' \n。."“”').startswith(r.strip("。.")) for r in REFUSAL.values())
