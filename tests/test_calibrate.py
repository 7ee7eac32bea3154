"""What a model says of unrelated texts is measured once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag.calibrate import Calibration
from tests.fakes import FakeEmbedder


def test_the_passages_are_embedded_once_for_a_model(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    first = Calibration.of(embedder, tmp_path)
    asked = embedder.texts
    assert 0 < asked < 100
    second = Calibration.of(embedder, tmp_path)
    assert embedder.texts == asked
    assert second.floor == first.floor


@pytest.mark.parametrize("other", [{"model": "b"}, {"revision": "2"}, {"dimension": 32}])
def test_another_model_is_measured_anew(tmp_path: Path, other: dict[str, str]) -> None:
    Calibration.of(FakeEmbedder(), tmp_path)
    embedder = FakeEmbedder(**other)  # type: ignore[arg-type]
    Calibration.of(embedder, tmp_path)
    assert embedder.texts > 0


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    embedder = FakeEmbedder()
    before = Calibration.of(embedder, tmp_path)
    (file,) = (tmp_path / "calibration").iterdir()
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert Calibration.of(embedder, tmp_path).floor == before.floor
    assert [f.suffix for f in file.parent.iterdir()] == [".npy"]


def test_a_place_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert -1 <= Calibration.of(FakeEmbedder(), blocked).floor <= 1


def test_floors_are_mean_cosines_with_unrelated_passages(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    calibration = Calibration.of(embedder, tmp_path)
    question = embedder.embed_query("年假有几天？")
    floors = calibration.floors(question)
    assert set(floors) == {"zh", "en"}
    for tongue, floor in floors.items():
        cosines = [float(np.dot(p, question)) for p in calibration.passages[tongue]]
        assert floor == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
