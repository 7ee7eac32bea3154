"""Any sentence-transformers model, m3e first of all: by local path or by its name on a hub."""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.embed.clean import encodable
from rag.embed.hub import Hub, find_model
from rag.errors import EmbedderError, EmbedderUnavailableError
from rag.types import Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

_BATCH = 8  # on a CPU padding costs more than batching gains
_E5 = re.compile(r"(^|[-_])e5-(small|base|large)(?!.*instruct)", re.IGNORECASE)
_BGE_ZH = re.compile(r"bge-(small|base|large)-zh", re.IGNORECASE)
_M3E = re.compile(r"(^|[-_])m3e", re.IGNORECASE)
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_FETCH_AGAIN = "The folder is not whole, or not a sentence-transformers model: fetch it again."
_BGE_ZH_QUERY = "为这个句子生成表示以用于检索相关文章："


class SentenceEmbedder:
    """A model of sentence-transformers, its vectors normalised.

    `model` is the path of a folder, or a name on `hub`; `threads` is torch's, for the whole
    process, 0 leaves it as it is. A text with `count_tokens(text) <= max_tokens` is embedded whole.
    The revision is the hub's commit, or a hash of the folder.
    Raises EmbedderUnavailableError, its message naming the model, its hint the next step.
    """

    def __init__(self, model: str, *, hub: Hub = "huggingface", threads: int = 0) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise EmbedderUnavailableError(
                f"{model} needs sentence-transformers, which is not installed.",
                'pip install "rag-server[m3e]"',
            )
        found = find_model(model, hub)
        self._model = _load(model, found.folder, threads)
        self._lock = threading.Lock()  # a tokenizer that pads may not be shared
        self._counter = _tokenizer_without_limits(self._model.tokenizer)
        query, document = prefixes_for(model, self._model.prompts)
        self._max_tokens = self._room(query, document)
        self._fingerprint = Fingerprint(
            model=model,
            revision=found.revision,
            dimension=self._encode(["."]).shape[1],
            query_prefix=query,
            document_prefix=document,
        )

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    def count_tokens(self, text: str) -> int:
        return len(self._counter.encode(encodable(text), add_special_tokens=False))

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        import numpy as np

        if not texts:
            return np.empty((0, self._fingerprint.dimension), np.float32)
        return self._encode([self._fingerprint.document_prefix + encodable(text) for text in texts])

    def embed_query(self, text: str) -> Vector:
        vector: Vector = self._encode([self._fingerprint.query_prefix + encodable(text)])[0]
        return vector

    def _encode(self, texts: list[str]) -> Matrix:
        import numpy as np

        try:
            with self._lock:
                vectors = self._model.encode(
                    texts, batch_size=_BATCH, show_progress_bar=False, normalize_embeddings=True
                )
        except (RuntimeError, ValueError, IndexError) as error:
            raise EmbedderError(
                f"The embedding model failed on {len(texts)} texts ({error}).",
                "The model's folder may be damaged: fetch it again.",
            ) from error
        matrix: Matrix = np.asarray(vectors, dtype=np.float32)
        return matrix

    def _room(self, *prefixes: str) -> int:
        """Tokens left for a text beside the longest prefix and the special tokens."""
        special = len(self._counter.encode("")) - self.count_tokens("")
        limit = self._model.max_seq_length or self._model.tokenizer.model_max_length
        return int(limit) - special - max(self.count_tokens(prefix) for prefix in prefixes)


def prefixes_for(model: str, prompts: Mapping[str, str | None]) -> tuple[str, str]:
    """What is put before a question and before a passage: known families, else `prompts`."""
    name = Path(model).name
    if _M3E.search(name):
        return "", ""
    if _E5.search(name):
        return "query: ", "passage: "
    if _BGE_ZH.search(name):
        return _BGE_ZH_QUERY, ""
    document = prompts.get("document") or prompts.get("passage") or prompts.get("corpus")
    return prompts.get("query") or "", document or ""


def _load(model: str, folder: Path, threads: int) -> Any:
    if not any(any(folder.rglob(name)) for name in _VOCABULARIES):
        # transformers would make up an empty tokenizer, to which every text is the same.
        raise EmbedderUnavailableError(
            f"{model} in {folder} cannot be loaded (it has no tokenizer).", _FETCH_AGAIN
        )
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    if threads:
        torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        loaded = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except Exception as error:  # a damaged folder fails in any of half a dozen libraries
        raise EmbedderUnavailableError(
            f"{model} in {folder} cannot be loaded ({type(error).__name__}: {error}).",
            _FETCH_AGAIN,
        ) from error
    loaded.default_prompt_name = None  # prefixes are ours to put, and part of the fingerprint
    return loaded


def _tokenizer_without_limits(tokenizer: Any) -> Any:
    """A copy that neither cuts nor pads; unlike the original it may be used by many threads."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
