"""A model's code without the fence it may have put round it, as it streams."""

from __future__ import annotations

import re

_OPENING = re.compile(r"\s*(`{3,})[^`\n]*\n")
_MAY_OPEN = re.compile(r"\s*(?:`{0,2}|`{3,}[^`\n]*)")
_MAY_CLOSE = re.compile(r"\n[ \t]*`*[ \t\r]*\Z")


class FenceStripper:
    """Text that begins with a fence is what stands between that and the closing one, if there is
    one; any other text is left as it is. How the text is cut into pieces makes no difference."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._opening = ""  # the backticks of the fence
        self._first = True  # nothing inside the fence was given out yet
        self._closed = False

    def feed(self, piece: str) -> str:
        """What can be given out by now."""
        if self._closed:
            return ""
        self._held += piece
        if not self._begun and not self._begin():
            return ""
        if not self._opening:
            return self._give(len(self._held))
        closing = re.search(rf"\n[ \t]*{self._opening}`*[ \t\r]*\n", self._held)
        if closing:
            self._closed = True
            return self._give(closing.start())
        may_close = _MAY_CLOSE.search(self._held)
        return self._give(may_close.start() if may_close else len(self._held))

    def finish(self) -> str:
        """What was held back at the end of the text."""
        if self._closed or (not self._begun and self._held.lstrip().startswith("```")):
            return ""
        if not self._opening:
            return self._give(len(self._held))
        closing = re.search(rf"\n[ \t]*{self._opening}`*[ \t\r]*\Z", self._held)
        return self._give(closing.start() if closing else len(self._held))

    def _begin(self) -> bool:
        """Whether it can be told if there is a fence."""
        opening = _OPENING.match(self._held)
        if opening:
            self._opening = opening[1]
            # The end of the opening line is kept, so that each line inside has one before it.
            self._held = self._held[opening.end() - 1 :]
        self._begun = bool(opening) or not _MAY_OPEN.fullmatch(self._held)
        return self._begun

    def _give(self, length: int) -> str:
        given, self._held = self._held[:length], self._held[length:]
        if given and self._opening and self._first:
            self._first = False
            return given[1:]
        return given


def clean_completion(text: str) -> str:
    """A whole reply without its fence."""
    stripper = FenceStripper()
    return stripper.feed(text) + stripper.finish()
