"""Embeddings from any server that speaks the OpenAI format."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rag.embed.clean import encodable
from rag.errors import EmbedderError, EmbedderUnavailableError
from rag.types import Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

PREFIX = "openai:"
"""Before the name of a model, in settings and fingerprints."""

_DEFAULT_URL = "https://api.openai.com/v1"
_BATCH_TEXTS = 64
_BATCH_CHARACTERS = 60_000
_CONNECT_SECONDS = 5.0
_RETRIES = 2
_WIDE = re.compile(r"[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\ufe30-\uffef]")


class EndpointEmbedder:
    """`model` of the server at `base_url` (None: OpenAI's own).

    `dimension` asks the server for shorter vectors; None takes what one call at the start returns.
    Token counts are estimates: one for a wide character, one for four others.
    Raises EmbedderUnavailableError if the server cannot be used at all.
    """

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        model: str,
        dimension: int | None = None,
        *,
        max_tokens: int = 8191,
        timeout: float = 60.0,
    ) -> None:
        from openai import OpenAI, Timeout

        url = base_url or _DEFAULT_URL
        if api_key is None and base_url is None:
            raise EmbedderUnavailableError(
                f"{PREFIX}{model} needs a key.",
                "Set OPENAI_API_KEY, or RAG_EMBEDDING_BASE_URL for a server that needs none.",
            )
        self._server = urlsplit(url).hostname or url
        self._model = model
        self._max_tokens = max_tokens
        self._options: dict[str, Any] = {} if dimension is None else {"dimensions": dimension}
        self._client = OpenAI(
            base_url=url,
            api_key=api_key or "none",
            timeout=Timeout(timeout, connect=_CONNECT_SECONDS),
            max_retries=_RETRIES,
        )
        self._dimension = dimension
        self._fingerprint = Fingerprint(
            model=f"{PREFIX}{model}", revision="api", dimension=self._request(["."]).shape[1]
        )
        self._dimension = self._fingerprint.dimension

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    def count_tokens(self, text: str) -> int:
        wide = len(_WIDE.findall(text))
        return wide + math.ceil((len(text) - wide) / 4)

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        import numpy as np

        parts = [self._request(batch) for batch in _batches(self._cut(text) for text in texts)]
        empty = np.empty((0, self._fingerprint.dimension), np.float32)
        return np.concatenate([empty, *parts])

    def embed_query(self, text: str) -> Vector:
        vector: Vector = self._request([self._cut(text)])[0]
        return vector

    def _cut(self, text: str) -> str:
        """Servers refuse a text that is too long, and one that is empty."""
        if self.count_tokens(text) > self._max_tokens:
            text = text[: self._max_tokens]
        return encodable(text) if text.strip() else "."

    def _request(self, texts: list[str]) -> Matrix:
        import openai

        try:
            reply = self._client.embeddings.create(
                model=self._model, input=texts, encoding_format="float", **self._options
            )
        except openai.OpenAIError as error:
            raise _translate(error, self._model, self._server) from error
        except ValueError as error:  # the body is no JSON
            raise self._unusable("an answer that is not JSON") from error
        return self._matrix(reply, len(texts))

    def _matrix(self, reply: Any, expected: int) -> Matrix:
        import numpy as np

        data = getattr(reply, "data", None)
        if not isinstance(data, list) or len(data) != expected:
            count = len(data) if isinstance(data, list) else "no"
            raise self._unusable(f"{count} vectors for {expected} texts")
        rows = sorted(data, key=lambda row: row.index)
        if [row.index for row in rows] != list(range(expected)):
            raise self._unusable("vectors whose numbers do not match the texts")
        try:
            matrix = np.array([row.embedding for row in rows], np.float32)
        except (TypeError, ValueError) as error:
            raise self._unusable("vectors that are not numbers of one length") from error
        if matrix.ndim != 2 or matrix.shape[1] != (self._dimension or matrix.shape[1]):
            raise self._unusable(f"vectors of {matrix.shape[1:]} instead of {self._dimension}")
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and lengths.all()):
            raise self._unusable("a vector of no length")
        unit: Matrix = matrix / lengths
        return unit

    def _unusable(self, what: str) -> EmbedderError:
        return EmbedderError(
            f"{self._server} sent {what} ({PREFIX}{self._model}).",
            "Check that RAG_EMBEDDING_BASE_URL names a server of the OpenAI format.",
        )


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == _BATCH_TEXTS or size + len(text) > _BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _translate(error: Exception, model: str, server: str) -> EmbedderError:
    """The server's own words are left out: they may repeat the key."""
    import openai

    name = f"{PREFIX}{model}"
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return EmbedderUnavailableError(
            f"{server} refused the key for {name} (HTTP {error.status_code}).",
            "Set RAG_EMBEDDING_API_KEY (or OPENAI_API_KEY).",
        )
    if isinstance(error, openai.NotFoundError):
        return EmbedderUnavailableError(
            f"{server} does not know {name} (HTTP 404).",
            "Check the model's name and that RAG_EMBEDDING_BASE_URL ends in /v1.",
        )
    if isinstance(error, openai.APITimeoutError):
        return EmbedderUnavailableError(
            f"{server} did not answer in time ({name}).", "Try again later."
        )
    if isinstance(error, openai.APIConnectionError):
        return EmbedderUnavailableError(
            f"{server} cannot be reached ({name}).", "Check RAG_EMBEDDING_BASE_URL."
        )
    if isinstance(error, openai.APIStatusError):
        return EmbedderError(
            f"{server} answered HTTP {error.status_code} to texts for {name}.",
            "Look at the server's log; lower RAG_CHUNK_TOKENS if texts are too long for the model.",
        )
    return EmbedderError(f"{server} sent an answer that cannot be read ({name}).")
