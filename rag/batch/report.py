"""What a run did."""

from __future__ import annotations

from dataclasses import dataclass, field

from rag.types import Failed, Finished, Held, Usage

Ending = Finished | Held | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. `done` counts what earlier runs answered, and the `failed`."""

    done: int
    failed: int
    total: int
    seconds: float


@dataclass(slots=True, kw_only=True)
class Report:
    """What one run did; `total == kept + answered + held + failed`.

    `kept` were answered or held by an earlier run. `usage` is that of the answers of this run, the
    `cached` ones left out, which cost nothing; `unpriced` of them have no known price.
    """

    total: int = 0
    kept: int = 0
    answered: int = 0
    held: int = 0
    failed: int = 0
    cached: int = 0
    unpriced: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0; 3 if some questions failed."""
        return 3 if self.failed else 0

    @property
    def done(self) -> int:
        return self.kept + self.answered + self.held + self.failed

    def add(self, ending: Ending) -> None:
        match ending:
            case Finished(answer):
                self.answered += 1
                if answer.cached:
                    self.cached += 1
                    return
                self.usage += answer.usage
                tokens = answer.usage.prompt_tokens + answer.usage.completion_tokens
                self.unpriced += answer.usage.cost is None and tokens > 0
            case Held():
                self.held += 1
            case Failed():
                self.failed += 1

    def __str__(self) -> str:
        counts = [f"{self.answered} answered"]
        counts += [f"{self.cached} of them from the cache"] if self.cached else []
        counts += [f"{self.kept} done before"] if self.kept else []
        counts += [f"{self.held} waiting for approval"] if self.held else []
        counts += [f"{self.failed} failed"] if self.failed else []
        spent = [f"{self.usage.prompt_tokens + self.usage.completion_tokens:,} tokens"]
        if self.usage.cost is not None:
            spent.append(f"{'at least ' if self.unpriced else ''}${self.usage.cost:.4f}")
        spent.append(f"{self.seconds:.1f} s")
        return f"{self.total} questions: {', '.join(counts)}; {', '.join(spent)}"
