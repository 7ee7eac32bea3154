"""The dense leg: a FAISS index derived from the vectors in the database.

A `VectorIndex` is a large base, which is a file and is shared, a small delta of what came since,
and a mask of what went. It is immutable: questions go on using the one they have while the next is
made, and adding a file costs as much as that file. When delta and mask have grown to a tenth of the
base, a new base is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.stores.files import replace_durably

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.types import Matrix, Vector

    Ids = NDArray[np.int64]

# Exact search takes 40 to 70 us per 1,000 chunks (384 dimensions, one thread), the 4-bit codes with
# all that follows from them less than 1 ms at 100,000. See benchmarks/README.md.
EXACT_LIMIT = 20_000
TARGET_RECALL = 0.99
_TRAINING = 20_000
_MIN_FACTOR = 16
_MAX_FACTOR = 64
_MIN_REBUILD = 2_000
_FILE = re.compile(r"vectors\.(\d+)\.faiss$")


@dataclass(frozen=True, slots=True)
class Base:
    """A FAISS index over vectors in the order of their rising chunk ids.

    `mapped` is an IndexIDMap, which is what the file holds; `index` is the one inside, whose
    positions masks are made for, and lives as long as `mapped`.
    """

    mapped: Any
    index: Any
    ids: Ids
    generation: int
    exact: bool


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The vectors of one generation. Cosines of an inexact base are only for choosing."""

    base: Base | None
    gone: NDArray[np.bool_] | None  # over the base's positions
    delta_ids: Ids
    delta: Matrix
    generation: int

    @classmethod
    def empty(cls, dimension: int) -> VectorIndex:
        import numpy as np

        return cls(None, None, np.empty(0, np.int64), np.empty((0, dimension), np.float32), 0)

    @classmethod
    def of(cls, base: Base, dimension: int) -> VectorIndex:
        import numpy as np

        nothing = np.empty((0, dimension), np.float32)
        return cls(base, None, np.empty(0, np.int64), nothing, base.generation)

    def __len__(self) -> int:
        base = 0 if self.base is None else len(self.base.ids)
        gone = 0 if self.gone is None else int(self.gone.sum())
        return base - gone + len(self.delta_ids)

    def changed(self, ids: Ids, vectors: Matrix, removed: Ids, generation: int) -> VectorIndex:
        """The index after `removed` went and `ids` (rising, all new) came."""
        import numpy as np

        gone = self.gone
        if self.base is not None and len(removed):
            mask = np.isin(self.base.ids, removed, assume_unique=True)
            gone = mask if gone is None else gone | mask
        keep = ~np.isin(self.delta_ids, removed)
        return VectorIndex(
            self.base,
            gone,
            np.concatenate([self.delta_ids[keep], ids]),
            np.concatenate([self.delta[keep], vectors]),
            generation,
        )

    @property
    def wants_rebuild(self) -> bool:
        base = 0 if self.base is None else len(self.base.ids)
        changes = len(self.delta_ids) + (0 if self.gone is None else int(self.gone.sum()))
        return changes > max(_MIN_REBUILD, base // 10) or (changes > 0 and base <= _MIN_REBUILD)

    def search(self, vector: Vector, limit: int, allowed: Ids | None) -> dict[int, float]:
        """The nearest `limit` chunks by id, of those `allowed` (rising ids) if given."""
        import numpy as np

        found = self._search_base(vector, limit, allowed)
        if len(self.delta_ids):
            scores = self.delta @ vector
            if allowed is not None:
                scores = np.where(np.isin(self.delta_ids, allowed), scores, -np.inf)
            best = np.argsort(-scores)[:limit]
            found |= {int(self.delta_ids[i]): float(scores[i]) for i in best if scores[i] > -np.inf}
        return dict(sorted(found.items(), key=lambda item: -item[1])[:limit])

    def _search_base(self, vector: Vector, limit: int, allowed: Ids | None) -> dict[int, float]:
        import numpy as np

        if self.base is None or not len(self.base.ids):
            return {}
        keep = None if self.gone is None else ~self.gone
        if allowed is not None:
            inside = np.isin(self.base.ids, allowed, assume_unique=True)
            keep = inside if keep is None else keep & inside
        scores, positions = search_index(self.base, vector[None, :], limit, keep)
        return {
            int(self.base.ids[p]): float(s)
            for s, p in zip(scores[0], positions[0], strict=True)
            if p >= 0
        }

    @property
    def exact(self) -> bool:
        return self.base is None or self.base.exact


def search_index(
    base: Base, vectors: Matrix, limit: int, keep: NDArray[np.bool_] | None
) -> tuple[Matrix, Ids]:
    """FAISS's own search: scores and positions, -1 where fewer than `limit` were found."""
    import faiss

    # For this thread: two that share a question wait for each other as soon as a core is taken.
    faiss.omp_set_num_threads(1)
    limit = min(limit, len(base.ids))
    if base.exact:
        return _scanned(base.index, vectors, limit, keep)
    scores, positions = base.index.search(vectors, limit)
    if keep is None or keep[positions].all():
        return scores, positions
    # 4-bit codes are scanned in blocks that cannot be filtered; the 8-bit ones can.
    return _scanned(faiss.downcast_index(base.index.refine_index), vectors, limit, keep)


def _scanned(
    index: Any, vectors: Matrix, limit: int, keep: NDArray[np.bool_] | None
) -> tuple[Matrix, Ids]:
    import faiss
    import numpy as np

    parameters: Any = None
    if keep is not None:
        bits = np.packbits(keep, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(keep), faiss.swig_ptr(bits))
        options: dict[str, Any] = {"sel": selector}
        parameters = faiss.SearchParameters(**options)
    scores, positions = index.search(vectors, limit, params=parameters)
    return scores, positions


def build_base(ids: Ids, vectors: Matrix, generation: int) -> Base:
    """Exact up to EXACT_LIMIT vectors, else all of them by 4-bit codes and the best by 8-bit ones.

    How many are looked at again is chosen so that recall@10 against exact search, measured on a
    sample of the vectors themselves, reaches TARGET_RECALL. Inverted lists and graphs lose here:
    questions lie outside the cloud of the passages, so that half the lists must be read.
    """
    import faiss
    import numpy as np

    dimension = vectors.shape[1]
    if len(ids) <= EXACT_LIMIT:
        flat = faiss.IndexFlatIP(dimension)
        return Base(_mapped(flat, ids, vectors), flat, ids, generation, exact=True)
    subspaces = dimension // 2 if dimension % 2 == 0 else dimension
    kind = f"PQ{subspaces}x4fs,Refine(SQ8)"
    index: Any = faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    generator = np.random.default_rng(1)
    index.train(vectors[generator.choice(len(ids), min(len(ids), _TRAINING), replace=False)])
    base = Base(_mapped(index, ids, vectors), index, ids, generation, exact=False)
    _choose_factor(base, vectors, generator)
    return base


def _mapped(index: Any, ids: Ids, vectors: Matrix) -> Any:
    import faiss

    mapped = faiss.IndexIDMap(index)
    mapped.add_with_ids(vectors, ids)
    return mapped


def _choose_factor(base: Base, vectors: Matrix, generator: np.random.Generator) -> None:
    import numpy as np

    chosen = vectors[generator.choice(len(vectors), 100, replace=False)]
    # Questions lie beside, not on, the chunks.
    beside = chosen + generator.normal(0, 0.5 / np.sqrt(chosen.shape[1]), chosen.shape)
    sample = (beside / np.linalg.norm(beside, axis=1, keepdims=True)).astype(np.float32)
    truth = np.argpartition(-(sample @ vectors.T), 10, axis=1)[:, :10]
    base.index.k_factor = _MIN_FACTOR
    while base.index.k_factor < _MAX_FACTOR:
        # 50 candidates are taken and scored exactly afterwards, so that is what must hold the ten.
        _, found = search_index(base, sample, 50, None)
        recall = np.mean([len(set(t) & set(f)) / 10 for t, f in zip(truth, found, strict=True)])
        if recall >= TARGET_RECALL:
            return
        base.index.k_factor *= 2


def save_base(base: Base, folder: Path) -> None:
    """Writes `vectors.<generation>.faiss` and deletes older ones."""
    import faiss

    final = folder / f"vectors.{base.generation}.faiss"
    temporary = final.with_suffix(".tmp")
    faiss.write_index(base.mapped, str(temporary))
    replace_durably(temporary, final)
    for path, generation in base_files(folder):
        if generation < base.generation:
            path.unlink(missing_ok=True)


def load_base(path: Path, generation: int, dimension: int) -> Base | None:
    """None if the file is not what was written: it is only a cache."""
    import faiss
    import numpy as np

    try:
        mapped: Any = faiss.read_index(str(path))
        index = faiss.downcast_index(mapped.index)
        ids = faiss.vector_to_array(mapped.id_map).astype(np.int64)
    except (RuntimeError, AttributeError, MemoryError):
        return None
    exact = isinstance(index, faiss.IndexFlat)
    known = exact or isinstance(index, faiss.IndexRefine)
    if not known or index.d != dimension or index.ntotal != len(ids):
        return None
    return Base(mapped, index, ids, generation, exact=exact)


def base_files(folder: Path) -> list[tuple[Path, int]]:
    """Newest first."""
    found = [(p, _FILE.search(p.name)) for p in folder.glob("vectors.*.faiss")]
    return sorted(((p, int(m[1])) for p, m in found if m), key=lambda f: -f[1])


def gather(rows: Iterable[tuple[int, bytes]], dimension: int) -> tuple[Ids, Matrix]:
    """Database rows to arrays."""
    import numpy as np

    ids: list[int] = []
    blobs: list[bytes] = []
    for chunk_id, blob in rows:
        ids.append(chunk_id)
        blobs.append(blob)
    matrix = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, dimension)
    return np.array(ids, np.int64), matrix.astype(np.float32, copy=False)


def as_ids(values: Sequence[int]) -> Ids:
    import numpy as np

    return np.array(values, np.int64)
