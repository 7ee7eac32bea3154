"""Commands on models, money and approvals."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import date
from typing import Annotated, Literal

import typer

from rag.commands.common import FAILED, JsonOption, caller, opened
from rag.tables import print_checks, print_costs, print_models, print_review, print_reviews

app = typer.Typer(rich_markup_mode=None)
models = typer.Typer(help="Chat models: list them, check them.", invoke_without_command=True)
reviews = typer.Typer(help="Answers that wait for approval.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(reviews, name="reviews")


@models.callback()
def list_models(context: typer.Context, as_json: JsonOption = False) -> None:
    """Chat models: list them, check them.

    \b
    rag models
    rag models check qwen-3.0
    """
    if context.invoked_subcommand is None:
        with opened() as engine:
            print_models(engine.gateway.listed(), as_json=as_json)


@models.command("check")
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Default: those configured.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Call each with one token, and say how fast it is, what it can do, and what is wrong.

    Exit code: 0 if all can be used, else 1.
    """
    with opened() as engine:
        results = asyncio.run(engine.gateway.check(names))
    if as_json:
        print(json.dumps([asdict(r) for r in results], ensure_ascii=False, indent=2))
    else:
        print_checks(results)
    if not all(result.ok for result in results):
        raise typer.Exit(FAILED)


@app.command()
def costs(
    by: Annotated[
        Literal["day", "model", "caller", "session"], typer.Option(help="One line for each.")
    ] = "day",
    since: Annotated[str | None, typer.Option(help="First day, as 2026-11-01.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What the models have cost, and how far the budgets are used, in US dollars.

    \b
    rag costs --by model --since 2026-11-01
    """
    with opened() as engine:
        rows = engine.ledger.costs(by, since=_day(since), until=_day(until))
        used = engine.ledger.budgets_used()
    if as_json:
        shown = {"by": by, "rows": [asdict(r) for r in rows], "budgets": [asdict(u) for u in used]}
        print(json.dumps(shown, ensure_ascii=False, indent=2))
    else:
        print_costs(by, rows, used)


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a day like 2026-11-01.") from None


@reviews.command("ls")
def list_reviews(
    state: Annotated[
        Literal["waiting", "approved", "rejected"] | None, typer.Option(help="Only these.")
    ] = "waiting",
    as_json: JsonOption = False,
) -> None:
    """List answers that wait for approval."""
    with opened() as engine:
        found = engine.reviews.list(state)
    if as_json:
        print(json.dumps([asdict(r) for r in found], ensure_ascii=False, indent=2))
    else:
        print_reviews(found)


@reviews.command("show")
def show_review(review_id: str, as_json: JsonOption = False) -> None:
    """Show a question, the answer that waits, and its sources."""
    with opened() as engine:
        found = engine.reviews.get(review_id)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False, indent=2))
    else:
        print_review(found)


@reviews.command("approve")
def approve(review_id: str, note: Annotated[str, typer.Option(help="For the asker.")] = "") -> None:
    """Release an answer."""
    _decide(review_id, approve=True, note=note)


@reviews.command("reject")
def reject(review_id: str, note: Annotated[str, typer.Option(help="For the asker.")] = "") -> None:
    """Keep an answer back for good."""
    _decide(review_id, approve=False, note=note)


def _decide(review_id: str, *, approve: bool, note: str) -> None:
    with opened() as engine:
        review = engine.decide(review_id, approve=approve, reviewer=caller(), note=note)
    print(f"{review.id} {review.state}")
