"""A preset: how a model is to answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rag.text import Language

Texts = Mapping[Language, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A question and the answer a model should have given."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Texts stand for both languages; an empty one adds nothing to the prompt.

    `unknown` says what to reply when the sources do not tell; "{refusal}" in it is the refusal.
    `grounded`: answers rest on sources alone, cite them, and refuse where they do not tell.
    """

    name: str
    role: Texts
    rules: Texts
    output: Texts
    unknown: Texts
    examples: Mapping[Language, tuple[Example, ...]]
    step_by_step: bool = False
    tools: tuple[str, ...] = ()
    model: str | None = None
    temperature: float | None = None
    max_answer_tokens: int | None = None
    review: bool = False
    grounded: bool = True

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with anything in the preset."""
        fields = json.dumps(asdict(self), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:16]
