"""The official client's exceptions as ours. Their texts may hold keys, so only fixed words pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from rag.errors import (
    ContextTooLongError,
    ModelAuthError,
    ModelBusyError,
    ModelError,
    ModelFormatError,
    ModelRequestError,
    ModelStreamError,
    ModelTimeoutError,
    ModelUnavailableError,
)

if TYPE_CHECKING:
    from types import ModuleType

    import openai

# How servers say that the messages do not fit: OpenAI, vLLM, llama.cpp, DashScope, Qianfan, Zhipu,
# DeepSeek, Moonshot, Ollama.
_TOO_LONG = re.compile(
    r"context[_ ]length|context (size|window)|maximum context|exceed_context|too many tokens"
    r"|input length|prompt is too long|max_model_len|exceeds? the (max|model|available)"
    r"|token (limit|number)|超过.{0,12}(长度|上限)|输入.{0,8}过长",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(r"insufficient_quota|insufficient.{0,10}balance|arrear|余额|欠费", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an operator set what a model needs: the names that the hints of errors give."""

    model: str = "RAG_MODEL"
    key: str = "OPENAI_API_KEY"
    base_url: str = "OPENAI_BASE_URL"
    timeout: str = "RAG_MODEL_TIMEOUT"


class Translator:
    """For one model. `host` is its server's, `timeout` the seconds without a byte it is given."""

    def __init__(
        self, openai: ModuleType, name: str, host: str, timeout: float, origin: Origin
    ) -> None:
        self._openai = openai
        self._name = name
        self._host = host
        self._timeout = timeout
        self._origin = origin

    @contextmanager
    def translated(self, *, started: bool) -> Iterator[None]:
        """`started`: the reply had begun."""
        openai, name, origin = self._openai, self._name, self._origin
        try:
            yield
        except openai.AuthenticationError:
            raise ModelAuthError(
                f"{name}: the server rejected the API key (401).",
                f"Check {origin.key} and {origin.base_url}.",
            ) from None
        except openai.PermissionDeniedError:
            raise ModelAuthError(
                f"{name}: the API key may not use this model (403).",
                f"Check {origin.model} and the rights of the key in {origin.key}.",
            ) from None
        except openai.NotFoundError:
            raise ModelRequestError(
                f"{name}: the server knows no such model or path (404).",
                f"Check {origin.model}, and the path of {origin.base_url}, which often ends in"
                " /v1.",
            ) from None
        except openai.RateLimitError as error:
            raise self._busy(error) from None
        except openai.APITimeoutError as error:
            raise self._too_slow(error, started) from None
        except openai.APIStatusError as error:
            raise self._status(error) from None
        except openai.APIConnectionError as error:
            raise self._connection(error, started) from None
        except openai.APIResponseValidationError as error:
            raise self.foreign(type(error).__name__) from None
        except openai.APIError:
            raise ModelStreamError(
                f"{name}: the server reported an error in the middle of the answer.", "Ask again."
            ) from None
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            # A server that does not keep to the format surfaces as any of these.
            raise self.foreign(type(error).__name__) from None

    def foreign(self, how: str) -> ModelError:
        return ModelFormatError(
            f"{self._name}: the server's reply is not in the OpenAI format ({how}).",
            f"Check that {self._origin.base_url} names an OpenAI-compatible server.",
        )

    def unfinished(self) -> ModelError:
        return ModelStreamError(f"{self._name} stopped in the middle of its answer.", "Ask again.")

    def _busy(self, error: openai.APIStatusError) -> ModelError:
        if _NO_MONEY.search(_told(error)):
            return ModelAuthError(
                f"{self._name}: the quota of the API key is used up (429).",
                f"Pay for more, or put another key into {self._origin.key}.",
            )
        return ModelBusyError(
            f"{self._name}: too many requests, or the quota is used up (429).",
            "Try again later.",
            retry_after=retry_after(error),
        )

    def _too_slow(self, error: openai.APITimeoutError, started: bool) -> ModelError:
        if not started and type(error.__cause__).__name__ == "ConnectTimeout":
            return self._unreachable()
        kind = ModelStreamError if started else ModelTimeoutError
        return kind(
            f"{self._name}: the server sent nothing for {self._timeout:g} s.",
            f"Ask again, or raise {self._origin.timeout}.",
        )

    def _connection(self, error: openai.APIConnectionError, started: bool) -> ModelError:
        if started:
            return ModelStreamError(
                f"{self._name}: the connection broke in the middle of the answer.", "Ask again."
            )
        if type(error.__cause__).__name__ in ("ReadError", "RemoteProtocolError", "WriteError"):
            return ModelUnavailableError(
                f"{self._name}: the connection to the server {self._host} broke.", "Ask again."
            )
        return self._unreachable()

    def _unreachable(self) -> ModelError:
        return ModelUnavailableError(
            f"{self._name}: the server {self._host} cannot be reached.",
            f"Check {self._origin.base_url} and the network.",
        )

    def _status(self, error: openai.APIStatusError) -> ModelError:
        code = error.status_code
        if code == 402:
            return ModelAuthError(
                f"{self._name}: the account has no money left (402).",
                f"Pay for more, or put another key into {self._origin.key}.",
            )
        if code >= 500 or code in (408, 409):
            return ModelUnavailableError(
                f"{self._name}: the server failed ({code}).",
                "Try again later.",
                retry_after=retry_after(error),
            )
        if code == 413 or _TOO_LONG.search(_told(error)):
            return ContextTooLongError(
                f"{self._name}: the question with its sources is too long for the model ({code}).",
                "Shorten it, lower RAG_TOP_K, or set the model's context_window.",
            )
        return ModelRequestError(
            f"{self._name}: the server refused the request ({code}).",
            "A parameter may be unknown to the model; the server's log tells more.",
        )


def _told(error: openai.APIStatusError) -> str:
    """The server's words, only ever searched."""
    return f"{error.code} {error.message}"


def retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds the server asks to wait: `Retry-After` as seconds or as a date (RFC 9110, 10.2.3),
    the date counted from the server's own clock; None if it asks for nothing sensible."""
    headers = error.response.headers
    asked = headers.get("retry-after", "")
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        elif asked and not asked[0].isdigit():
            until, now = parsedate_to_datetime(asked), parsedate_to_datetime(headers["date"])
            seconds = (until - now).total_seconds()
        else:
            seconds = float(asked)
    except (ValueError, KeyError, TypeError):
        return None
    return max(seconds, 0.0) if seconds < float("inf") else None
