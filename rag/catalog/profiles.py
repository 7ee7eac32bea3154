"""The servers we know, and what their models can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A server, and what its models can do unless they say otherwise.

    `provider` is its id in genai-prices, where that has prices for it. `schema_mode` is True only
    where all of its models take response_format json_schema. `hosts` are its other addresses.
    """

    name: str
    base_url: str | None = None
    key_env: tuple[str, ...] = ()
    provider: str | None = None
    local: bool = False
    tools: bool = True
    schema_mode: bool = False
    vision: bool | None = None  # None: told from the model's name
    hosts: tuple[str, ...] = ()


OPENAI_KEY = "OPENAI_API_KEY"
OTHER = Profile(name="other")  # a server that we know nothing about but its format

OPENAI = Profile(
    name="openai",
    key_env=(OPENAI_KEY,),
    provider="openai",
    schema_mode=True,
    hosts=("api.openai.com",),
)
_PROFILES = (
    OPENAI,
    Profile(
        name="dashscope",
        base_url="https://dashscope.aliyuncs.com/compatible-mode/v1",
        key_env=("DASHSCOPE_API_KEY",),
        hosts=("dashscope-intl.aliyuncs.com",),
    ),
    Profile(
        name="qianfan", base_url="https://qianfan.baidubce.com/v2", key_env=("QIANFAN_API_KEY",)
    ),
    Profile(
        name="deepseek",
        base_url="https://api.deepseek.com/v1",
        key_env=("DEEPSEEK_API_KEY",),
        provider="deepseek",
    ),
    Profile(
        name="zhipu",
        base_url="https://open.bigmodel.cn/api/paas/v4",
        key_env=("ZHIPUAI_API_KEY", "ZAI_API_KEY"),
        provider="zhipuai",
    ),
    Profile(
        name="moonshot",
        base_url="https://api.moonshot.cn/v1",
        key_env=("MOONSHOT_API_KEY",),
        provider="moonshotai",
        hosts=("api.moonshot.ai",),
    ),
    Profile(name="vllm", base_url="http://127.0.0.1:8000/v1", local=True, schema_mode=True),
    Profile(name="ollama", base_url="http://127.0.0.1:11434/v1", local=True, schema_mode=True),
    Profile(
        name="llamacpp",
        base_url="http://127.0.0.1:8080/v1",
        local=True,
        # Builds before December 2025 refuse tools unless started with --jinja.
        tools=False,
        schema_mode=True,
    ),
)
PROFILES: Mapping[str, Profile] = MappingProxyType({p.name: p for p in _PROFILES})


def by_host(base_url: str) -> Profile:
    host = urlsplit(base_url).hostname
    for profile in _PROFILES:
        own = urlsplit(profile.base_url or "").hostname
        if not profile.local and host in (own, *profile.hosts):
            return profile
    return OTHER
