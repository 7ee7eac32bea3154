"""A preset -> what a model is told before it sees the sources."""

from __future__ import annotations

from collections.abc import Sequence

from rag.prompt import texts
from rag.prompt.preset import Example, Preset
from rag.text import Language


def instructions(
    preset: Preset, tongue: Language, *, tools: Sequence[str] = (), answer_format: str = ""
) -> str:
    """All but the examples. `tools` are the names of those on offer.

    `answer_format` takes the place of the preset's own form, which would speak against it.
    """
    parts = [_role_and_rules(preset, tongue)]
    if tools:
        parts.append(_tools(tools, tongue))
    if answer_format:
        parts.append(answer_format)
    else:
        if preset.step_by_step:
            parts.append(texts.STEP_BY_STEP[tongue])
        if preset.output[tongue]:
            parts.append(f"{texts.OUTPUT[tongue]}\n{preset.output[tongue]}")
    return "\n\n".join(parts)


def with_examples(instructed: str, examples: Sequence[Example], tongue: Language) -> str:
    if not examples:
        return instructed
    asks, answers = texts.EXAMPLE[tongue]
    shown = (f"{asks}{e.question}\n{answers}{e.answer}" for e in examples)
    return "\n\n".join((instructed, texts.EXAMPLES[tongue], *shown))


def _role_and_rules(preset: Preset, tongue: Language) -> str:
    role, rules = preset.role[tongue], preset.rules[tongue]
    if not preset.grounded:
        return f"{role}\n\n{rules}".strip()
    unknown = preset.unknown[tongue].replace("{refusal}", texts.REFUSAL[tongue])
    told = texts.grounded(role, unknown, tongue)
    return f"{told}\n\n{texts.FURTHER_RULES[tongue]}\n{rules}" if rules else told


def _tools(names: Sequence[str], tongue: Language) -> str:
    lines = [texts.TOOL[name][tongue] for name in names if name in texts.TOOL]
    return "\n".join((texts.TOOLS[tongue], *lines))
