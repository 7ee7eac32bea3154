"""Models, what they cost, and what they may do."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Any, Literal

from fastapi import APIRouter

from api.dependencies import EngineDependency
from api.schemas import CostsResponse, ModelsResponse
from rag.gateway import ModelStatus
from rag.types import EXTRACTIVE

router = APIRouter(tags=["models"])


@router.get("/models", response_model=ModelsResponse)
async def models(engine: EngineDependency) -> dict[str, Any]:
    """The chat models that may be asked for, how they stand, the presets and the tools."""
    statuses = await engine.gateway.statuses()
    return {
        "default": next(iter(engine.gateway.configured), EXTRACTIVE),
        "models": [_model(status) for status in statuses],
        "presets": engine.presets.names(),
        "tools": engine.tools,
    }


def _model(status: ModelStatus) -> dict[str, Any]:
    resolved, circuit = status.resolved, status.circuit
    return {
        "name": resolved.name,
        "profile": resolved.profile,
        "id": resolved.id,
        "vision": resolved.abilities.vision,
        "tools": resolved.abilities.tools,
        "context_window": resolved.abilities.context_window,
        "tags": resolved.tags,
        "circuit": circuit.state,
        "recent_failures": circuit.recent_failures,
        "probing_in": circuit.probing_in,
        "rejected_keys": status.rejected_keys,
        "first_token_seconds": status.latency,
    }


@router.get("/costs", response_model=CostsResponse)
def costs(
    engine: EngineDependency,
    by: Literal["day", "model", "caller", "session"] = "day",
    since: date | None = None,
    until: date | None = None,
) -> dict[str, Any]:
    """What the models have cost, and how far the budgets are used."""
    rows = engine.ledger.costs(by, since=since, until=until)
    return {
        "by": by,
        "rows": [asdict(row) for row in rows],
        "total": sum(row.cost for row in rows),
        "budgets": [asdict(use) for use in engine.ledger.budgets_used()],
    }
