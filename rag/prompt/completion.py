"""A partial file -> the messages that ask for the code at its cursor."""

from __future__ import annotations

from collections.abc import Sequence

from rag.prompt import texts
from rag.prompt.fit import head, tail
from rag.prompt.instructions import instructions
from rag.prompt.preset import Preset
from rag.prompt.shipped import CODE_COMPLETION
from rag.prompt.sources import sources_text
from rag.text import Language, estimate_tokens, language
from rag.types import Hit, Message

_EXAMPLES_SHARE = 0.3
_SOURCES_SHARE = 0.3
_AFTER_SHARE = 0.2
_MIN_FILE_TOKENS = 64
_MIN_SOURCES_TOKENS = 200
_MAX_NAME = 200
_FRAME_TOKENS = 32


def build_completion(
    prefix: str,
    suffix: str,
    hits: Sequence[Hit],
    *,
    budget: int,
    filename: str = "",
    code_language: str = "",
    preset: Preset = CODE_COMPLETION,
) -> tuple[Message, ...]:
    """A system message, the preset's examples as turns, and a user message: at most about
    `budget` tokens, as estimated.

    Hits get up to three tenths of the room; of the file, what stands closest to the cursor is
    kept in whole lines, most of it before the cursor.
    """
    tongue = language(prefix + suffix)
    told = instructions(preset, tongue)
    place = _place(filename, code_language)
    room = budget - estimate_tokens(told) - estimate_tokens(place) - _FRAME_TOKENS
    shown = _examples(preset, tongue, int(room * _EXAMPLES_SHARE))
    room -= sum(estimate_tokens(m.text) for m in shown)
    blocks = ""
    if hits and room * _SOURCES_SHARE >= _MIN_SOURCES_TOKENS:
        blocks, _ = sources_text(1, hits, budget=int(room * _SOURCES_SHARE))
    room = max(room - estimate_tokens(blocks), _MIN_FILE_TOKENS)
    before, after = _around_cursor(prefix, suffix, room)
    system = f"{told}\n\n<sources>\n{blocks}</sources>" if blocks else told
    asked = f"{place}<before>\n{before}</before>\n<after>\n{after}</after>"
    return (
        Message("system", system),
        *shown,
        Message("user", f"{asked}\n\n{texts.COMPLETE[tongue]}"),
    )


def _examples(preset: Preset, tongue: Language, room: int) -> list[Message]:
    """As turns, which models follow best: there is no conversation they could be taken for."""
    turns: list[Message] = []
    for example in preset.examples[tongue]:
        question = f"{example.question}\n\n{texts.COMPLETE[tongue]}"
        room -= estimate_tokens(question) + estimate_tokens(example.answer)
        if room < 0:
            break
        turns += [Message("user", question), Message("assistant", example.answer)]
    return turns


def _place(filename: str, code_language: str) -> str:
    named = (("File", filename), ("Language", code_language))
    return "".join(
        f"{what}: {' '.join(name.split())[:_MAX_NAME]}\n" for what, name in named if name
    )


def _around_cursor(prefix: str, suffix: str, room: int) -> tuple[str, str]:
    after_room = max(int(room * _AFTER_SHARE), room - estimate_tokens(prefix))
    after = _whole_lines_head(suffix, after_room)
    return _whole_lines_tail(prefix, room - estimate_tokens(after)), after


def _whole_lines_tail(text: str, tokens: int) -> str:
    kept = tail(text, tokens)
    cut = len(kept) < len(text) and text[len(text) - len(kept) - 1] != "\n"
    _, newline, whole = kept.partition("\n")
    return whole if cut and newline else kept


def _whole_lines_head(text: str, tokens: int) -> str:
    kept = head(text, tokens)
    whole, newline, _ = kept.rpartition("\n")
    return whole + newline if len(kept) < len(text) and newline else kept
