"""Which chat models there are, by name."""

from __future__ import annotations

import re
import threading

from rag.chat.client import OpenAIChat
from rag.config import Settings
from rag.errors import ConfigError, InputError
from rag.types import EXTRACTIVE, ChatModel

# Families whose models take pictures, by what their names hold; RAG_VISION overrules it.
_SEES = re.compile(
    r"gpt-(4o|4\.1|5)|^o[134]|claude|gemini|vision|[-_]vl\b|-vl-|qvq|glm-\d(\.\d)?v|llava|pixtral|omni"
    r"|gemma-?[34]|kimi-k2\.5|qwen-?3\.[05]",
    re.IGNORECASE,
)


class Models:
    """The configured chat model and the others a question may ask for, each opened once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[str, ChatModel] = {}
        self._opening = threading.Lock()

    def get(self, name: str) -> ChatModel | None:
        """None is the extractive answerer. Raises InputError for a name that is not offered,
        ConfigError if there is no way to it."""
        if name == EXTRACTIVE:
            return None
        settings = self._settings
        offered = [m for m in (settings.model, *settings.models) if m]
        if name not in offered:
            raise InputError(
                f"There is no model {name!r} here.",
                f"Offered: {', '.join([*offered, EXTRACTIVE])}. Add names with RAG_MODELS.",
            )
        if settings.openai_api_key is None and settings.openai_base_url is None:
            raise ConfigError(
                f"There is no way to the model {name!r}.",
                "Set OPENAI_API_KEY, and OPENAI_BASE_URL for a server other than OpenAI's.",
            )
        with self._opening:
            if name not in self._opened:
                self._opened[name] = self._open(name)
            return self._opened[name]

    def _open(self, name: str) -> ChatModel:
        settings = self._settings
        key = settings.openai_api_key
        return OpenAIChat(
            name,
            api_key=key.get_secret_value() if key else "none",
            base_url=settings.openai_base_url,
            vision=bool(_SEES.search(name)) if settings.vision is None else settings.vision,
            context_window=settings.context_window,
            timeout=settings.model_timeout,
        )

    async def aclose(self) -> None:
        for model in self._opened.values():
            await model.aclose()
