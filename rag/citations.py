"""Marks in a streamed answer, [n], tied to the exact characters that support what they follow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from rag.text import sentences, terms
from rag.types import Citation, Cited, Hit, Token

# [1], [1, 2], [1-3], 【1】, ［1］, the footnote form [^1]; or code, inside which nothing is a mark.
# A mark is on one line, and so short that it can be waited for.
_SPACE = r"[^\S\n]*"
_MARK = (
    r"[\[【［](?=[^\]】］]{1,60}[\]】］])"
    rf"\^?{_SPACE}(\d{{1,2}}(?:{_SPACE}[,，、;；\-–~]{_SPACE}\d{{1,2}})*){_SPACE}[\]】］]"
)
_SPECIAL = re.compile(rf"`+|\n|{_MARK}")
_UNFINISHED = re.compile(r"(?:(?<!`)`+|[\[【［](?=.{0,60}\Z)\^?(?:[^\S\n]|[\d,，、;；\-–~])*)\Z")
_RANGE = re.compile(r"(\d+)\s*[\-–~]\s*(\d+)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

_FENCE = 3  # backticks that open a block, which goes on over line ends
_MAX_STATEMENT = 600
_MAX_SOURCE = 99
_NUMBER_WEIGHT = 3.0
_MAX_QUOTE_SENTENCES = 3
_WORTH_ADDING = 0.15  # share of the statement that another sentence must explain
_TOO_WEAK = 0.1  # below, no sentence stands out: another language, or a summary of the whole


class CitationParser:
    """Turns pieces of a reply into events as they arrive.

    A mark is held back until it is whole; other text passes at once. Marks are written as [n], one
    number each; numbers that name no source are taken out.
    """

    def __init__(self, sources: Mapping[int, Hit], question: str = "") -> None:
        """`sources` by number; more may be added while the reply comes. `question` stands in for
        the statement of a mark that follows none."""
        self._sources = sources
        self._question = question
        self._pending = ""
        self._code = ""  # the backticks that opened the code we are in
        self._statement = ""
        self._marked = False  # the last thing written was a mark
        self._written: list[str] = []
        self._citations: dict[tuple[int, int, int], Citation] = {}

    @property
    def text(self) -> str:
        return "".join(self._written)

    @property
    def citations(self) -> tuple[Citation, ...]:
        """In the order of the answer, each quote once."""
        return tuple(self._citations.values())

    def feed(self, piece: str) -> Iterator[Token | Cited]:
        text = self._pending + piece
        unfinished = _UNFINISHED.search(text)
        cut = unfinished.start() if unfinished else len(text)
        self._pending = text[cut:]
        yield from self._scan(text[:cut])

    def finish(self) -> Iterator[Token | Cited]:
        """What was held back at the end of the reply."""
        rest, self._pending = self._pending, ""
        yield from self._scan(rest)

    def _scan(self, text: str) -> Iterator[Token | Cited]:
        position = 0
        for special in _SPECIAL.finditer(text):
            if special[1] is not None and not self._code:
                yield from self._plain(text[position : special.start()])
                yield from self._mark(special[1])
                position = special.end()
            elif special[1] is None:
                self._code = _code_after(self._code, special[0])
        yield from self._plain(text[position:])

    def _plain(self, text: str) -> Iterator[Token]:
        if not text:
            return
        if self._marked and any(c.isalnum() for c in text):
            self._statement, self._marked = "", False
        self._statement = (self._statement + text)[-_MAX_STATEMENT:]
        self._written.append(text)
        yield Token(text)

    def _mark(self, numbers: str) -> Iterator[Token | Cited]:
        for n in _expanded(numbers):
            if n not in self._sources:
                continue
            statement = _last_sentence(self._statement) or self._question
            citation = cite(n, self._sources[n], statement)
            self._citations[n, citation.start, citation.end] = citation
            self._marked = True
            self._written.append(f"[{n}]")
            yield Token(f"[{n}]")
            yield Cited(citation)


def _code_after(code: str, special: str) -> str:
    """Which code we are in after these backticks or this line end."""
    if special == "\n":
        return "" if len(code) < _FENCE else code
    if not code:
        return special
    closes = special == code or (len(code) >= _FENCE and special.startswith(code))
    return "" if closes else code


def _expanded(numbers: str) -> list[int]:
    def spelled(match: re.Match[str]) -> str:
        first, last = int(match[1]), min(int(match[2]), _MAX_SOURCE)
        return ",".join(map(str, range(first, last + 1)))

    return list(dict.fromkeys(int(n) for n in re.findall(r"\d+", _RANGE.sub(spelled, numbers))))


def _last_sentence(statement: str) -> str:
    spans = list(sentences(statement))
    if not spans:
        return ""
    start, end = spans[-1]
    if end - start < 8 and len(spans) > 1:
        start = spans[-2][0]
    return statement[start:end]


def cite(n: int, hit: Hit, statement: str) -> Citation:
    """The sentences of the hit that share most with the statement; all of it if none stands out."""
    chunk = hit.chunk
    start, end = supporting(statement, chunk.text)
    return citation(n, hit, chunk.start + start, chunk.start + end)


def citation(n: int, hit: Hit, start: int, end: int) -> Citation:
    """`start` and `end` count in the document and lie within the hit's chunk."""
    chunk = hit.chunk
    return Citation(
        n=n,
        document_id=chunk.document_id,
        document=hit.document,
        page=chunk.page,
        sheet=chunk.sheet,
        row=chunk.row_between(start, end),
        heading=chunk.heading,
        quote=chunk.text[start - chunk.start : end - chunk.start],
        start=start,
        end=end,
        score=hit.score,
    )


def supporting(statement: str, text: str) -> tuple[int, int]:
    """Start and end, in `text`, of the up to three sentences in a row that explain `statement`.

    A sentence explains the words it shares; numbers count three times, because a wrong number is
    the worst of wrong citations.
    """
    wanted = _weights(statement)
    total = sum(wanted.values())
    spans = list(sentences(text))
    if not total or not spans:
        return 0, len(text)
    found = [{w for w in _weights(text[s:e]) if w in wanted} for s, e in spans]

    def explained(first: int, last: int) -> float:
        return sum(wanted[w] for w in set().union(*found[first : last + 1])) / total

    best = max(range(len(spans)), key=lambda i: (explained(i, i), -(spans[i][1] - spans[i][0])))
    first = last = best
    if explained(first, last) < _TOO_WEAK:
        return 0, len(text)
    while last - first + 1 < _MAX_QUOTE_SENTENCES:
        wider = [
            (a, b) for a, b in ((first - 1, last), (first, last + 1)) if a >= 0 and b < len(spans)
        ]
        gain, choice = max(
            ((explained(*w) - explained(first, last), w) for w in wider),
            default=(0.0, (first, last)),
        )
        if gain < _WORTH_ADDING:
            break
        first, last = choice
    return spans[first][0], spans[last][1]


def _weights(text: str) -> Counter[str]:
    """Words that carry meaning, each with its weight."""
    weights: Counter[str] = Counter()
    for word in terms(text):
        if _NUMBER.search(word):
            weights[word] = _NUMBER_WEIGHT  # type: ignore[assignment]
        elif len(word) > 1:
            weights[word] = 1
    return weights
