"""Texts and questions to measure with: from files, or made up from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from benchmarks.options import Options

_SEED = 7
_WORDS = 12_000
_SYLLABLES = (
    "ba",
    "con",
    "der",
    "fi",
    "gra",
    "hel",
    "in",
    "jor",
    "ka",
    "lo",
    "men",
    "nu",
    "or",
    "pra",
    "qui",
    "ren",
    "sto",
    "ta",
    "ul",
)
_PLACEMENT = (2, 3)  # characters of a Chinese word, syllables of an English one


def texts(options: Options, count: int) -> list[str]:
    """Passages of some 300 characters; of made-up ones every third is English."""
    if options.scale is None:
        return [made_up(place) for place in range(count)]
    found = [str(row["text"]) for row in islice(_rows(options.scale), count)]
    if len(found) < count:
        raise SystemExit(f"{options.scale} has {len(found)} texts; {count} are needed.")
    return found


def questions(options: Options, count: int) -> list[str]:
    """Each asks for something that one of the texts says."""
    if options.questions is not None:
        return [str(row["question"]) for row in islice(_rows(options.questions), count)]
    generator = random.Random(_SEED)
    return [_asked(made_up(generator.randrange(10_000)), generator) for _ in range(count)]


def _rows(path: Path) -> Iterator[dict[str, object]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


def made_up(place: int) -> str:
    """The same for the same place. Words fall off in frequency as in natural text."""
    generator = random.Random(f"{_SEED}:{place}")
    english = place % 3 == 2
    words, weights = _vocabulary(english)
    sentences = []
    for _ in range(5 if english else 9):
        chosen = generator.choices(words, cum_weights=weights, k=generator.randint(9, 18))
        sentences.append(
            " ".join(chosen).capitalize() + ". " if english else "".join(chosen) + "。"
        )
    return "".join(sentences).strip()


def _asked(text: str, generator: random.Random) -> str:
    if text.isascii():
        words = generator.choice(text.split(". ")).rstrip(".").split()
        return f"what is the {' '.join(words[2:8])}?"
    sentence = generator.choice([s for s in text.split("。") if s])
    start = generator.randrange(max(1, len(sentence) - 12))
    return f"{sentence[start : start + 12]}是什么？"


@cache
def _vocabulary(english: bool) -> tuple[list[str], list[float]]:
    generator = random.Random(_SEED)

    def word() -> str:
        length = generator.choice(_PLACEMENT)
        if english:
            return "".join(generator.choices(_SYLLABLES, k=length))
        # Characters too have their favourites: squaring leans to the front of the block.
        return "".join(chr(0x4E00 + int(3000 * generator.random() ** 2)) for _ in range(length))

    words = list(dict.fromkeys(word() for _ in range(_WORDS)))
    total, weights = 0.0, []
    for rank in range(1, len(words) + 1):
        total += 1 / rank
        weights.append(total)
    return words, weights
