"""What every embedder promises, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rag.embed import BundledEmbedder, EndpointEmbedder, SentenceEmbedder
from rag.types import Embedder
from tests.embed_parts import embedding_server, write_tiny_model
from tests.fakes import FakeEmbedder

TEXTS = [
    "猫喜欢吃鱼",
    "the cat eats fish",
    "",
    "今天股市大跌，我们不买了。" * 20,
    " \n\t",
    "猫",
    "😀 \x00 ﷺﷺﷺ Ｆｕｌｌ\ud800",
    "猫喜欢吃鱼",
]
EMBEDDERS = [
    "fake",
    "endpoint",
    pytest.param("sentence", marks=[pytest.mark.slow, pytest.mark.m3e]),
    pytest.param("bundled", marks=pytest.mark.slow),
]


def _open(kind: str, folder: Path) -> Iterator[Embedder]:
    if kind == "fake":
        yield FakeEmbedder()
    elif kind == "endpoint":
        with embedding_server() as server:
            yield EndpointEmbedder(server.url, "key", "tiny")
    elif kind == "sentence":
        yield SentenceEmbedder(str(write_tiny_model(folder / "tiny")))
    else:
        yield BundledEmbedder(folder, threads=2)


@pytest.fixture(scope="module", params=EMBEDDERS)
def embedder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Embedder]:
    yield from _open(request.param, tmp_path_factory.mktemp("models"))


def test_documents_become_float32_rows_of_unit_length(embedder: Embedder) -> None:
    vectors = embedder.embed_documents(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.fingerprint.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_question_becomes_one_float32_row_of_unit_length(embedder: Embedder) -> None:
    vector = embedder.embed_query("猫吃什么")
    assert vector.shape == (embedder.fingerprint.dimension,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_no_texts_become_no_rows_of_the_right_width(embedder: Embedder) -> None:
    vectors = embedder.embed_documents([])
    assert vectors.shape == (0, embedder.fingerprint.dimension)
    assert vectors.dtype == np.float32


def test_rows_stand_in_the_order_of_the_texts_and_do_not_depend_on_the_others(
    embedder: Embedder,
) -> None:
    together = embedder.embed_documents(TEXTS)
    alone = np.concatenate([embedder.embed_documents([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    reverse = embedder.embed_documents(TEXTS[::-1])
    np.testing.assert_allclose(reverse[::-1], together, atol=1e-4)
    assert together[0] @ together[1] < 0.9999


def test_any_sequence_of_texts_will_do(embedder: Embedder) -> None:
    np.testing.assert_allclose(
        embedder.embed_documents(tuple(TEXTS[:2])), embedder.embed_documents(TEXTS[:2]), atol=1e-5
    )


def test_several_threads_get_what_one_gets(embedder: Embedder) -> None:
    expected = embedder.embed_documents(TEXTS)
    question = embedder.embed_query("猫")
    count = embedder.count_tokens(TEXTS[3])

    def work(_: int) -> None:
        np.testing.assert_allclose(embedder.embed_documents(TEXTS), expected, atol=1e-4)
        np.testing.assert_allclose(embedder.embed_query("猫"), question, atol=1e-4)
        assert embedder.count_tokens(TEXTS[3]) == count

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


def test_text_far_beyond_the_limit_is_cut_and_not_refused(embedder: Embedder) -> None:
    long = "猫喜欢吃鱼。" * 5000
    assert embedder.count_tokens(long) > embedder.max_tokens
    assert embedder.embed_documents([long]).shape == (1, embedder.fingerprint.dimension)
    assert np.linalg.norm(embedder.embed_query(long)) == pytest.approx(1, abs=1e-5)


def test_tokens_of_two_texts_add_up(embedder: Embedder) -> None:
    assert embedder.count_tokens("") == 0
    one, other = "猫喜欢吃鱼", "the cat eats fish"
    apart = embedder.count_tokens(one) + embedder.count_tokens(other)
    assert apart > 0
    assert abs(embedder.count_tokens(f"{one} {other}") - apart) <= 2
    assert embedder.count_tokens(one * 40) > 30 * embedder.count_tokens(one) / 2


def test_the_fingerprint_stays_the_same(embedder: Embedder) -> None:
    before = embedder.fingerprint
    embedder.embed_query("猫")
    assert embedder.fingerprint == before
    assert before.model
    assert before.revision
    assert before.normalized
    assert embedder.max_tokens > 0


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_the_fingerprint_is_the_same_when_opened_again(kind: str, tmp_path: Path) -> None:
    if kind == "sentence":
        folder = str(write_tiny_model(tmp_path / "tiny"))
        assert SentenceEmbedder(folder).fingerprint == SentenceEmbedder(folder).fingerprint
        return
    (first,) = _open(kind, tmp_path)
    (second,) = _open(kind, tmp_path)
    assert first.fingerprint == second.fingerprint


def test_the_fake_finds_related_texts_nearer_and_counts() -> None:
    fake = FakeEmbedder()
    near, far = fake.embed_documents(["猫喜欢吃鱼和虾", "股市今天大跌"])
    question = fake.embed_query("猫吃鱼吗")
    assert question @ near > question @ far + 0.1
    assert (fake.calls, fake.texts) == (2, 3)
