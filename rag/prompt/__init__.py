"""What a model is sent: presets, hits, history and pictures -> messages within a token budget."""

from __future__ import annotations

from rag.prompt.build import Prompt, build_prompt, narrower
from rag.prompt.completion import build_completion
from rag.prompt.fences import FenceStripper, clean_completion
from rag.prompt.preset import Preset
from rag.prompt.presets import Presets
from rag.prompt.shipped import ASSISTANT, CODE_COMPLETION
from rag.prompt.sources import source_block, sources_text
from rag.prompt.structured import Structured, Wrapped, repair_message
from rag.prompt.texts import INSTRUCTIONS, REFUSAL
from rag.prompt.version import PROMPT_VERSION

__all__ = [
    "ASSISTANT",
    "CODE_COMPLETION",
    "INSTRUCTIONS",
    "PROMPT_VERSION",
    "REFUSAL",
    "FenceStripper",
    "Preset",
    "Presets",
    "Prompt",
    "Structured",
    "Wrapped",
    "build_completion",
    "build_prompt",
    "clean_completion",
    "narrower",
    "repair_message",
    "source_block",
    "sources_text",
]
