"""The numbered sources of one answer, to which a model may add by searching for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rag.prompt import sources_text
from rag.retrieve import Retrieves
from rag.tools import Tool, tool
from rag.types import Filters, Hit

_MAX_SEARCHED = 10
_RESULT_TOKENS = 1500
_NOTHING = "Nothing was found. Try other words, or answer from what is known."
_NOTHING_NEW = "Nothing new was found: sources {numbers} are what there is."


class Sources:
    """`hits[n - 1]` is source [n]; `shown` holds, by number, those that the model has seen."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self.first = tuple(hits)  # those that were found before the model was asked
        self.hits = list(hits)
        self.shown: dict[int, Hit] = {}
        self._told: dict[int, Hit] = {}  # in results of searches

    def show(self, count: int) -> None:
        """Of `first`, the first `count` stand in the prompt."""
        self.shown.clear()
        self.shown.update(enumerate(self.first[:count], 1))
        self.shown.update(self._told)

    def add(self, found: Sequence[Hit]) -> str:
        """Numbers what is new; returns what the model has not seen, as it is to read it."""
        if not found:
            return _NOTHING
        places = {_place(hit): n for n, hit in enumerate(self.hits, 1)}
        known = [places[_place(hit)] for hit in found if _place(hit) in places]
        texts = [self._seen(n) for n in known if n not in self.shown]
        start = len(self.hits) + 1
        new = [hit for hit in found if _place(hit) not in places]
        if new:
            text, fitting = sources_text(start, new, budget=_RESULT_TOKENS)
            self.hits += fitting
            self._told.update(enumerate(fitting, start))
            texts.append(text)
        self.shown.update(self._told)
        return "".join(texts) or _NOTHING_NEW.format(numbers=sorted(known))

    def _seen(self, n: int) -> str:
        hit = self._told[n] = self.hits[n - 1]
        return sources_text(n, [hit], budget=_RESULT_TOKENS)[0]


def _place(hit: Hit) -> tuple[str, int]:
    return hit.chunk.document_id, hit.chunk.ordinal


def search_tool(sources: Sources, retriever: Retrieves, filters: Filters) -> Tool:
    """`search_knowledge`, for one answer: what it finds becomes further sources."""

    @tool(cacheable=True)
    async def search_knowledge(question: str, passages: int = 5) -> str:
        """Search the documents again, with a question of your own. Use it when the sources do not
        hold what is needed, or when the answer takes several steps. The passages found are new
        numbered sources; cite them like the others."""
        found = await asyncio.to_thread(
            retriever.retrieve,
            question,
            top_k=max(1, min(passages, _MAX_SEARCHED)),
            filters=filters,
        )
        return sources.add(found)

    return search_knowledge
