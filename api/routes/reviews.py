"""Answers that wait for a person's approval."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter

from api.dependencies import CallerDependency, EngineDependency
from api.problems import PROBLEMS
from api.schemas import DecisionBody, ReviewBody, ReviewsResponse
from rag.engine import Engine
from rag.errors import CallerError
from rag.reviews import Review

router = APIRouter(prefix="/reviews", tags=["reviews"])


@router.get("", response_model=ReviewsResponse, responses=PROBLEMS)
def reviews(
    engine: EngineDependency,
    caller: CallerDependency,
    state: Literal["waiting", "approved", "rejected"] | None = "waiting",
) -> dict[str, Any]:
    """For reviewers: the answers that wait, or those decided."""
    _need_reviewer(engine, caller)
    return {"reviews": [asdict(review) for review in engine.reviews.list(state)]}


@router.get("/{review_id}", response_model=ReviewBody, responses=PROBLEMS)
def review(review_id: str, engine: EngineDependency, caller: CallerDependency) -> dict[str, Any]:
    """How a review stands; the answer as soon as it is approved, and to reviewers before."""
    found = engine.reviews.get(review_id)
    shown = asdict(found)
    if found.state != "approved" and not _is_reviewer(engine, caller):
        shown["answer"] = None
    return shown


@router.post("/{review_id}", response_model=ReviewBody, responses=PROBLEMS)
def decide(
    review_id: str, body: DecisionBody, engine: EngineDependency, caller: CallerDependency
) -> Review:
    """For reviewers: release an answer, or keep it back for good. Once."""
    _need_reviewer(engine, caller)
    return engine.decide(review_id, approve=body.approve, reviewer=caller, note=body.note)


def _is_reviewer(engine: Engine, caller: str) -> bool:
    return bool(caller) and caller in engine.settings.reviewers


def _need_reviewer(engine: Engine, caller: str) -> None:
    if not _is_reviewer(engine, caller):
        raise CallerError(
            "Only reviewers see and decide answers that wait for approval.",
            "Send a reviewer's key (RAG_REVIEWERS names them), or use: rag reviews ls",
        )
