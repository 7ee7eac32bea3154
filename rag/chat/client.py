"""The OpenAI chat format, by the official client, against any base URL; and nothing else."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rag.errors import (
    ModelAuthError,
    ModelBusyError,
    ModelError,
    ModelRequestError,
    ModelStreamError,
    ModelUnavailableError,
)
from rag.types import ChatRequest, Delta, Image, Message, Usage

if TYPE_CHECKING:
    import openai


_CONNECT_SECONDS = 10.0


class OpenAIChat:
    """A `ChatModel` behind an OpenAI-format server. It never retries: others decide that.

    `timeout` is in seconds without a byte from the server.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str,
        base_url: str | None,
        vision: bool,
        context_window: int,
        timeout: float,
    ) -> None:
        import openai

        self._openai = openai
        self._model = model
        self._vision = vision
        self._context_window = context_window
        self._timeout = timeout
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            timeout=openai.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            max_retries=0,
        )

    @property
    def name(self) -> str:
        return self._model

    @property
    def vision(self) -> bool:
        return self._vision

    @property
    def context_window(self) -> int:
        return self._context_window

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta]:
        body = self._body(request)
        if not request.stream:
            with self._translated(started=False):
                reply = await self._client.chat.completions.create(**body, stream=False)
                delta = _whole(reply)
            yield delta
            return
        with self._translated(started=False):
            stream = await self._client.chat.completions.create(
                **body, stream=True, stream_options={"include_usage": True}
            )
        begun = finished = False
        async with stream:
            with self._translated(started=True):
                async for part in stream:
                    delta = _piece(part)
                    begun = True
                    finished = finished or delta.finish_reason is not None
                    yield delta
        if not begun:
            raise self._foreign("no events")
        if not finished:
            raise ModelStreamError(
                f"{self._model} stopped in the middle of its answer.", "Ask again."
            )

    async def aclose(self) -> None:
        await self._client.close()

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [_message(m) for m in request.messages],
        }
        if request.extra:
            body["extra_body"] = dict(request.extra)
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        return body

    @contextmanager
    def _translated(self, *, started: bool) -> Iterator[None]:
        """The client's exceptions as ours; their texts may hold keys, so only fixed words pass."""
        openai, name = self._openai, self._model
        try:
            yield
        except openai.AuthenticationError:
            raise ModelAuthError(
                f"{name}: the server rejected the API key (401).",
                "Check OPENAI_API_KEY and OPENAI_BASE_URL.",
            ) from None
        except openai.PermissionDeniedError:
            raise ModelAuthError(
                f"{name}: the API key may not use this model (403).",
                "Check RAG_MODEL and the rights of the key.",
            ) from None
        except openai.NotFoundError:
            raise ModelRequestError(
                f"{name}: the server knows no such model or path (404).",
                "Check RAG_MODEL, and the path of OPENAI_BASE_URL, which often ends in /v1.",
            ) from None
        except openai.RateLimitError:
            raise ModelBusyError(
                f"{name}: too many requests, or the quota is used up (429).", "Try again later."
            ) from None
        except openai.APITimeoutError:
            raise self._too_slow(started) from None
        except openai.APIStatusError as error:
            raise self._status(error) from None
        except openai.APIConnectionError:
            if started:
                raise ModelStreamError(
                    f"{name}: the connection broke in the middle of the answer.", "Ask again."
                ) from None
            raise ModelUnavailableError(
                f"{name}: the server {self._host()} cannot be reached.",
                "Check OPENAI_BASE_URL and the network.",
            ) from None
        except openai.APIResponseValidationError as error:
            raise self._foreign(type(error).__name__) from None
        except openai.APIError:
            raise ModelStreamError(
                f"{name}: the server reported an error in the middle of the answer.", "Ask again."
            ) from None
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            # A server that does not keep to the format surfaces as any of these.
            raise self._foreign(type(error).__name__) from None

    def _foreign(self, how: str) -> ModelError:
        return ModelStreamError(
            f"{self._model}: the server's reply is not in the OpenAI format ({how}).",
            "Check that OPENAI_BASE_URL names an OpenAI-compatible server.",
        )

    def _too_slow(self, started: bool) -> ModelError:
        kind = ModelStreamError if started else ModelUnavailableError
        return kind(
            f"{self._model}: the server sent nothing for {self._timeout:g} s.",
            "Ask again, or raise RAG_MODEL_TIMEOUT.",
        )

    def _status(self, error: openai.APIStatusError) -> ModelError:
        code = error.status_code
        if code >= 500 or code in (408, 409):
            return ModelUnavailableError(
                f"{self._model}: the server failed ({code}).", "Try again later."
            )
        return ModelRequestError(
            f"{self._model}: the server refused the request ({code}).",
            "The question may be too long for the model, or a parameter unknown to it.",
        )

    def _host(self) -> str:
        return str(self._client.base_url.host)


def _message(message: Message) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.text}
    content: list[dict[str, Any]] = [{"type": "text", "text": message.text}]
    content += [{"type": "image_url", "image_url": {"url": data_url(i)}} for i in message.images]
    return {"role": message.role, "content": content}


def data_url(image: Image) -> str:
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


def _whole(reply: Any) -> Delta:
    choice = reply.choices[0]
    return Delta(choice.message.content or "", _usage(reply.usage), choice.finish_reason or "stop")


def _piece(part: Any) -> Delta:
    """One chunk of a stream; the last may carry usage and no choice."""
    if not part.choices:
        return Delta(usage=_usage(part.usage))
    choice = part.choices[0]
    return Delta(choice.delta.content or "", _usage(part.usage), choice.finish_reason)


def _usage(usage: Any) -> Usage | None:
    if usage is None:
        return None
    return Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0)
