"""How much of what is nearest the approximate search finds, on the knowledge base's own vectors."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

LEAST_RECALL = 0.98
_FILE = "recall.json"
_NEAREST = 10


@dataclass(frozen=True, slots=True)
class Recall:
    """`recall_at_10` is the share of the ten nearest chunks (by exact search over all vectors) that
    a search finds, 0..1. `width` is how many candidates for each chunk asked for the short codes
    choose, 0 where search is exact. `generation` and `chunks` are what it was measured on."""

    recall_at_10: float
    width: float
    seconds: float
    questions: int
    chunks: int
    generation: int


def keep(folder: Path, recall: Recall) -> None:
    """Raises OSError."""
    temporary = folder / f"{_FILE}.tmp"
    temporary.write_text(json.dumps(asdict(recall)), encoding="utf-8")
    temporary.replace(folder / _FILE)


def kept(folder: Path) -> Recall | None:
    """The last measurement, None if there was none, or the file is not what was written."""
    try:
        return Recall(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
