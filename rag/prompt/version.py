"""What tells prompts of one version of this project from those of another."""

from __future__ import annotations

import hashlib

from rag.prompt import texts
from rag.prompt.build import build_prompt
from rag.prompt.completion import build_completion
from rag.prompt.shipped import SHIPPED
from rag.types import Chunk, Hit, Message

_BUDGET = 100_000
_QUESTIONS = ("什么？", "What?")


def _version() -> str:
    """Of prompts with everything in them: any change of words or layout shows."""
    chunk = Chunk(document_id="d", ordinal=0, start=0, end=1, text="t", page=1, sheet="s")
    hit = Hit(chunk=chunk, document="d", title="t", score=1, dense=1, keyword=1, via="both")
    seen: list[tuple[Message, ...]] = []
    for preset in SHIPPED.values():
        for question in _QUESTIONS:
            prompt = build_prompt(
                question,
                [hit],
                budget=_BUDGET,
                history=[Message("user", "q"), Message("assistant", "a")],
                image_texts=["i"],
                preset=preset,
                tools=[*texts.TOOL],
            )
            seen += [prompt.messages, build_completion(question, "s", [hit], budget=_BUDGET)]
    rest = (texts.JSON_ANSWER, texts.JSON_SCHEMA, texts.JSON_REPAIR)
    return hashlib.sha256(repr((seen, rest)).encode()).hexdigest()[:16]


PROMPT_VERSION = _version()
"""Changes with any text shipped here and with the layout of a prompt; 16 hexadecimal digits."""
