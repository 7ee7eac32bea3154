"""The presets there are: the shipped ones, and those of `rag.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from rag.errors import InputError
from rag.prompt.preset import Example, Preset, Texts
from rag.prompt.shipped import ASSISTANT, SHIPPED
from rag.specs import PresetSpec
from rag.text import Language

_TEXTS: tuple[Literal["role", "rules", "output"], ...] = ("role", "rules", "output")
_LANGUAGES: tuple[Language, ...] = ("zh", "en")


class Presets:
    """Presets by name.

    A table of `rag.toml` with a shipped preset's name replaces only the fields it gives; any other
    starts from `assistant`, whose rules on sources, marks and refusals it keeps.
    """

    def __init__(self, custom: Mapping[str, PresetSpec] | None = None) -> None:
        self._presets = dict(SHIPPED)
        for name, spec in (custom or {}).items():
            self._presets[name] = _custom(name, spec)

    def get(self, name: str) -> Preset:
        """Raises InputError."""
        try:
            return self._presets[name]
        except KeyError:
            raise InputError(
                f"There is no preset {name[:64]!r}.", f"There are: {', '.join(self.names())}."
            ) from None

    def names(self) -> tuple[str, ...]:
        """The shipped ones first."""
        return tuple(self._presets)


def _custom(name: str, spec: PresetSpec) -> Preset:
    shipped = SHIPPED.get(name)
    fields: dict[str, Any] = {
        field: getattr(spec, field) for field in spec.model_fields_set - {*_TEXTS, "examples"}
    }
    for field in _TEXTS:
        if field in spec.model_fields_set:
            fields[field] = _texts(getattr(spec, field), getattr(shipped, field, {}))
    if "examples" in spec.model_fields_set:
        examples = tuple(Example(e.question, e.answer) for e in spec.examples)
        fields["examples"] = dict.fromkeys(_LANGUAGES, examples)
    return replace(shipped or ASSISTANT, name=name, **fields)


def _texts(given: str | Mapping[Language, str], shipped: Texts) -> Texts:
    """A text for each language: what is given, else the shipped one, else the other language's."""
    if isinstance(given, str):
        return dict.fromkeys(_LANGUAGES, given)
    either = next(iter(given.values()), "")
    return {tongue: given.get(tongue, shipped.get(tongue, either)) for tongue in _LANGUAGES}
