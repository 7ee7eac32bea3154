"""The OpenAI chat format, by the official client, against any base URL; and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from rag.chat.format import Pieces, body, whole
from rag.chat.translate import Origin, Translator
from rag.types import Abilities, ChatRequest, Delta

if TYPE_CHECKING:
    from openai import AsyncStream

_PATH = "/chat/completions"
_CONNECT_SECONDS = 10.0
_OPENAI = "api.openai.com"


class OpenAIChat:
    """A `ChatModel` behind an OpenAI-format server. It never retries: others decide that.

    `model_id` is the server's name for it; `timeout` is in seconds without a byte from the server;
    `extra` goes into every request body.
    """

    def __init__(
        self,
        name: str,
        *,
        model_id: str | None = None,
        api_key: str,
        base_url: str | None,
        abilities: Abilities,
        timeout: float,
        extra: Mapping[str, Any] | None = None,
        origin: Origin = Origin(),
    ) -> None:
        import openai

        # As JSON: the client's objects for it take longer to make than all else it does, and more
        # than a token's way through the rest of this program.
        self._json: type[Any] = object
        self._stream: type[AsyncStream[Any]] = openai.AsyncStream[object]
        self._name = name
        self._model_id = model_id or name
        self._abilities = abilities
        self._extra = dict(extra or {})
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            timeout=openai.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            max_retries=0,
        )
        host = str(self._client.base_url.host)
        self._told = Translator(openai, name, host, timeout, origin)
        # Only OpenAI's own newer models refuse the old name, and only other servers lack the new.
        self._limit = "max_completion_tokens" if host == _OPENAI else "max_tokens"

    @property
    def name(self) -> str:
        return self._name

    @property
    def abilities(self) -> Abilities:
        return self._abilities

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta]:
        sent = self._body(request)
        if not request.stream:
            with self._told.translated(started=False):
                reply = await self._client.post(_PATH, cast_to=self._json, body=sent)
                delta = whole(reply, self._name)
            yield delta
            return
        with self._told.translated(started=False):
            stream = await self._client.post(
                _PATH, cast_to=self._json, body=sent, stream=True, stream_cls=self._stream
            )
        pieces = Pieces(self._name)
        async with stream:
            with self._told.translated(started=True):
                async for part in stream:
                    if (piece := pieces.feed(part)) is not None:
                        yield piece
        if not pieces.begun:
            raise self._told.foreign("no events")
        if not pieces.finished:
            raise self._told.unfinished()
        if (usage := pieces.usage()) is not None:
            yield usage

    async def aclose(self) -> None:
        await self._client.close()

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        sent = body(request, self._model_id, self._abilities)
        if "max_tokens" in sent:
            sent[self._limit] = sent.pop("max_tokens")
        sent["stream"] = request.stream
        if request.stream:
            sent["stream_options"] = {"include_usage": True}
        return {**sent, **self._extra, **request.extra}
