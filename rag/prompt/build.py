"""A question, hits, history and pictures -> the messages sent to a model, within its budget."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rag.prompt import texts
from rag.prompt.fit import head
from rag.prompt.instructions import instructions, with_examples
from rag.prompt.preset import Example, Preset
from rag.prompt.shipped import ASSISTANT
from rag.prompt.sources import source_block, sources_text
from rag.text import Language, estimate_tokens, language
from rag.types import Hit, Image, Message

_HISTORY_SHARE = 0.25
_IMAGE_TEXT_SHARE = 0.25
# The words round sources and messages that no estimate below counts.
_FRAME_TOKENS = 16
_TAG = re.compile(r"<(?=\s*/?\s*(?:source|image))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Prompt:
    """`sources` are the hits that fitted, [1] first. Turns are counted in messages, two to a
    question and its answer."""

    messages: tuple[Message, ...]
    sources: tuple[Hit, ...]
    dropped_turns: int
    dropped_hits: int = 0

    @property
    def kept_turns(self) -> int:
        return len(self.messages) - 2


def build_prompt(
    question: str,
    hits: Sequence[Hit],
    *,
    budget: int,
    history: Sequence[Message] = (),
    images: Sequence[Image] = (),
    image_texts: Sequence[str] = (),
    preset: Preset = ASSISTANT,
    tools: Sequence[str] = (),
    answer_format: str = "",
    max_turns: int | None = None,
    max_hits: int | None = None,
) -> Prompt:
    """At most about `budget` tokens, as estimated. The best hit is always in, cut if need be;
    history gives way first (oldest turns), then the weakest hits, then the preset's examples.

    `image_texts` is what was read in each picture, for a model that cannot see; `tools` are the
    names of those on offer; `answer_format` says how to answer in the place of the preset's own
    form and examples. `max_turns` messages of history and `max_hits` hits are used at most.
    """
    tongue = language(question)
    asked = question + _image_block(image_texts, int(budget * _IMAGE_TEXT_SHARE), tongue)
    told = instructions(preset, tongue, tools=tools, answer_format=answer_format)
    used_hits = hits[: max(max_hits, 1)] if max_hits is not None else hits
    recent = history if max_turns is None else history[max(len(history) - max_turns, 0) :]

    room = budget - estimate_tokens(told) - estimate_tokens(asked) - _FRAME_TOKENS
    best = estimate_tokens(source_block(1, used_hits[0])) if used_hits else 0
    examples = () if answer_format else preset.examples[tongue]
    shown = _with_fitting_examples(told, examples, tongue, room - best)
    room -= estimate_tokens(shown) - estimate_tokens(told)
    turns = _recent(recent, min(int(room * _HISTORY_SHARE), room - best))
    room -= sum(estimate_tokens(m.text) for m in turns)
    blocks, sources = sources_text(1, used_hits, budget=room)
    system = shown
    if blocks or preset.grounded:
        system = f"{shown}\n\n<sources>\n{blocks}</sources>"
    messages = (
        Message("system", system),
        *turns,
        Message("user", asked, images=tuple(images)),
    )
    return Prompt(messages, sources, len(history) - len(turns), len(hits) - len(sources))


def narrower(prompt: Prompt) -> tuple[int, int] | None:
    """`max_turns` and `max_hits` for the next try when the model finds `prompt` too long.

    The older half of the turns goes, then all turns, then the weaker half of the hits until one
    is left; None if there is nothing left to leave out.
    """
    if prompt.kept_turns:
        return prompt.kept_turns // 4 * 2, len(prompt.sources)
    if len(prompt.sources) > 1:
        return 0, len(prompt.sources) // 2
    return None


def _with_fitting_examples(
    told: str, examples: Sequence[Example], tongue: Language, room: int
) -> str:
    for count in range(len(examples), 0, -1):
        shown = with_examples(told, examples[:count], tongue)
        if estimate_tokens(shown) - estimate_tokens(told) <= room:
            return shown
    return told


def _image_block(image_texts: Sequence[str], room: int, tongue: Language) -> str:
    read = {n: text.strip() for n, text in enumerate(image_texts, 1) if text.strip()}
    if not read:
        return ""
    share = room // len(read)
    blocks = []
    for n, text in read.items():
        kept = head(_TAG.sub("<\u200b", text), share - _FRAME_TOKENS)
        blocks.append(f'\n<image n="{n}">\n{kept}\n</image>')
    return f"\n\n{texts.IMAGE_TEXTS[tongue]}{''.join(blocks)}"


def _recent(history: Sequence[Message], room: int) -> list[Message]:
    """The newest whole turns (a question and its answer) that fit."""
    kept: list[Message] = []
    for start in range(len(history) - 2, -1, -2):
        turn = list(history[start : start + 2])
        room -= sum(estimate_tokens(m.text) for m in turn)
        if room < 0:
            break
        kept = turn + kept
    return kept
