"""What a person sees in the terminal of models, money and approvals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rag.catalog import Row
from rag.chat.check import CheckResult
from rag.console import say, write
from rag.ledger import BudgetUse, CostRow
from rag.reviews import Review
from rag.stores.managed import Generation
from rag.stores.recall import Recall
from rag.stores.soundness import Verification


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        write(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def print_models(rows: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        write(json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=2))
        return
    _table(
        [("MODEL", "PROFILE", "ID", "STATE"), *((r.name, r.profile, r.id, r.state) for r in rows)]
    )
    say("\nAny model of a profile: --model ollama/NAME. Try them with: rag models check NAME")


def print_checks(results: Sequence[CheckResult]) -> None:
    rows = [("MODEL", "", "FIRST TOKEN", "STREAMS", "TOOLS", "USAGE")]
    for result in results:
        seconds = "-" if result.first_token is None else f"{result.first_token:.2f} s"
        tools = {True: "yes", False: "no", None: "-"}[result.tools]
        rows.append(
            (
                result.name,
                "ok" if result.ok else "bad",
                seconds,
                "yes" if result.streams else "no",
                tools,
                "yes" if result.usage_reported else "no",
            )
        )
    _table(rows)
    for result in results:
        if result.problem:
            write(f"{result.problem}\n  {result.hint}".rstrip())


def print_costs(by: str, rows: Sequence[CostRow], budgets: Sequence[BudgetUse]) -> None:
    if not rows:
        write("No model has been called yet.")
    else:
        head = (by.upper(), "CALLS", "PROMPT", "COMPLETION", "US DOLLARS")
        _table([head, *(_cost_row(row) for row in [*rows, _sum(rows)])])
    if any(row.estimated_calls for row in rows):
        say("~ some tokens are estimated, because the server reported none")
    if any(row.unknown_cost_calls for row in rows):
        say("+ without calls of models whose price is not known: set price_in and price_out")
    for use in budgets:
        write(
            f"budget {use.budget}, {use.period}: {use.spent:.4f} of {use.limit:.2f}"
            f" ({use.share:.0%})"
        )


def _cost_row(row: CostRow) -> tuple[str, ...]:
    about = "~" if row.estimated_calls else ""
    more = "+" if row.unknown_cost_calls else ""
    return (
        row.key or "-",
        str(row.calls),
        f"{about}{row.prompt_tokens}",
        f"{about}{row.completion_tokens}",
        f"{about}{row.cost:.4f}{more}",
    )


def _sum(rows: Sequence[CostRow]) -> CostRow:
    return CostRow(
        key="total",
        calls=sum(r.calls for r in rows),
        prompt_tokens=sum(r.prompt_tokens for r in rows),
        completion_tokens=sum(r.completion_tokens for r in rows),
        estimated_calls=sum(r.estimated_calls for r in rows),
        unknown_cost_calls=sum(r.unknown_cost_calls for r in rows),
        cost=sum(r.cost for r in rows),
    )


def print_reviews(found: Sequence[Review]) -> None:
    for review in found:
        write(f"{review.id}  {review.state:8}  {review.created_at}  {review.reason}")
        write(f"    {' '.join(review.question.split())[:120]}")
    write(f"{len(found)} answers.")


def print_review(review: Review) -> None:
    write(f"{review.id}: {review.state}, {review.reason}, asked {review.created_at}")
    write(f"\nQ: {review.question}\n\nA: {review.answer['answer']}\n")
    for cited in review.answer["citations"]:
        write(f"[{cited['n']}] {cited['document']} ({cited['start']}-{cited['end']})")
        write(f"    “{' '.join(cited['quote'].split())}”")
    if review.decided_at:
        write(f"\n{review.state} by {review.reviewer}, {review.decided_at}. {review.note}")


def print_verification(found: Verification, recall: Recall | None) -> None:
    write(
        f"generation {found.generation}: {found.documents} documents, {found.chunks} chunks,"
        f" {found.vectors} vectors; the indexes hold {found.in_vector_index} and"
        f" {found.in_keyword_index}."
    )
    for finding in found.findings:
        write(f"bad   {finding.kind}: {finding.what}")
    if found.ok:
        write("All of them agree.")
    if recall is not None:
        write(
            f"recall@10 {recall.recall_at_10:.3f} against exact search"
            f" ({recall.questions} questions, {recall.seconds:.1f} s)"
        )


def print_generations(found: Sequence[Generation]) -> None:
    head = ("GENERATION", "PUBLISHED", "DOCUMENTS", "CHUNKS", "EMBEDDING", "")
    rows = [
        (
            str(each.number),
            each.published_at,
            str(each.documents),
            str(each.chunks),
            each.fingerprint.model,
            "now" if each.current else f"as {each.restores}" if each.restores else "",
        )
        for each in found
    ]
    _table([head, *rows])
