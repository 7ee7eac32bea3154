"""The models that need only a key, and what they can do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rag.catalog.profiles import Profile


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that needs only a key. `extra` goes into every request body."""

    name: str
    profile: str
    id: str
    context_window: int
    max_output_tokens: int
    vision: bool = False
    tools: bool | None = None  # None: as the profile
    schema_mode: bool | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


# Models that think want their thoughts sent back beside the results of tools, which the OpenAI
# format has no place for: they are told not to think, or are given the tools in text.
_NOT_THINKING = {"thinking": {"type": "disabled"}}
_K, _M = 1024, 1_000_000
_READY = (
    Ready("gpt-5.1", "openai", "gpt-5.1", 400_000, 128_000, vision=True),
    Ready("gpt-5-mini", "openai", "gpt-5-mini", 400_000, 128_000, vision=True),
    Ready("gpt-5.4", "openai", "gpt-5.4", 1_050_000, 128_000, vision=True),
    Ready("gpt-5.4-mini", "openai", "gpt-5.4-mini", 400_000, 128_000, vision=True),
    # "qwen-3.0" is our name for the largest model of the Qwen3 series proper.
    Ready("qwen-3.0", "dashscope", "qwen3-max", 256 * _K, 64 * _K),
    Ready("qwen-3.0-vl", "dashscope", "qwen3-vl-plus", 256 * _K, 32 * _K, vision=True),
    Ready("qwen-max", "dashscope", "qwen-max", 32 * _K, 8 * _K),
    Ready("qwen-plus", "dashscope", "qwen-plus", _M, 32 * _K),
    Ready("qwen-flash", "dashscope", "qwen-flash", _M, 32 * _K),
    Ready("qwen-vl-max", "dashscope", "qwen-vl-max", 128 * _K, 8 * _K, vision=True, tools=False),
    # It takes 5,120 tokens in and gives 2,048 out; this leaves 1,024 for the answer.
    Ready("ernie-4.0", "qianfan", "ernie-4.0-8k", 6 * _K, 2 * _K),
    Ready("ernie-4.5", "qianfan", "ernie-4.5-turbo-128k", 128 * _K, 12 * _K),
    Ready(
        "ernie-4.5-vl", "qianfan", "ernie-4.5-turbo-vl", 128 * _K, 12 * _K, vision=True, tools=False
    ),
    # The server dropped these two names in July 2026; they were modes of one model by then.
    Ready("deepseek-chat", "deepseek", "deepseek-v4-flash", _M, 384_000, extra=_NOT_THINKING),
    Ready("deepseek-reasoner", "deepseek", "deepseek-v4-flash", _M, 384_000, tools=False),
    Ready("deepseek-v4-pro", "deepseek", "deepseek-v4-pro", _M, 384_000, extra=_NOT_THINKING),
    Ready("glm-4.7", "zhipu", "glm-4.7", 200_000, 128_000),
    Ready("glm-4.6", "zhipu", "glm-4.6", 200_000, 128_000),
    Ready("glm-4.6v", "zhipu", "glm-4.6v", 128_000, 32_000, vision=True),
    Ready("glm-4.5v", "zhipu", "glm-4.5v", 64_000, 16_000, vision=True),
    Ready(
        "kimi-k2.6", "moonshot", "kimi-k2.6", 256 * _K, 64 * _K, vision=True, extra=_NOT_THINKING
    ),
    Ready("kimi-k3", "moonshot", "kimi-k3", 1024 * _K, 64 * _K, vision=True, tools=False),
)
READY: Mapping[str, Ready] = MappingProxyType({model.name: model for model in _READY})

# Families whose models take pictures, by what their names hold.
_SEES = re.compile(
    r"gpt-(4o|4\.1|5)|^o[134]|claude|gemini|vision|[-_]vl\b|-vl-|qvq|glm-\d(\.\d)?v|llava|pixtral|omni"
    r"|gemma-?[34]|kimi-k(2\.[56]|3)|qwen-?3\.[05]",
    re.IGNORECASE,
)


def known(name: str, id_: str, profile: Profile) -> Ready | None:
    """What is known of the model: by our name for it, else by the server's."""
    mine = [model for model in _READY if model.profile == profile.name]
    by_name = (model for model in mine if model.name == name)
    return next(by_name, next((model for model in mine if model.id == id_), None))


def id_of(name: str, profile: Profile) -> str:
    """What its server calls it."""
    if name in READY and READY[name].profile == profile.name:
        return READY[name].id
    return name.removeprefix(f"{profile.name}/")


def looks_as_if_it_sees(*names: str) -> bool:
    """By a name that its kind has."""
    return any(_SEES.search(name) for name in names)
