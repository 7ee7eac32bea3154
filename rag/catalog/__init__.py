"""Models by name: which server has them, what they can do, and which key opens it.

Sources, read in November 2026: the providers' own pages on OpenAI compatibility and their model
lists (help.aliyun.com/zh/model-studio, cloud.baidu.com/doc/qianfan, api-docs.deepseek.com,
docs.bigmodel.cn, platform.kimi.com), and genai-prices for context windows. What is out of date here
is put right in `rag.toml`: every field of a model's table goes before what stands here.
"""

from __future__ import annotations

from rag.catalog.listing import Row, offered, ready
from rag.catalog.models import READY, Ready
from rag.catalog.profiles import PROFILES, Profile
from rag.catalog.resolving import Resolved, resolve
from rag.catalog.ways import Secret

__all__ = [
    "PROFILES",
    "READY",
    "Profile",
    "Ready",
    "Resolved",
    "Row",
    "Secret",
    "offered",
    "ready",
    "resolve",
]
