"""A model by name, as it is to be called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from rag.catalog.models import looks_as_if_it_sees
from rag.catalog.profiles import OPENAI, OPENAI_KEY
from rag.catalog.ways import Secret, Way, way_to
from rag.config import Settings
from rag.errors import ConfigError
from rag.specs import ModelSpec
from rag.types import Abilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A model with everything there is to know before it is called.

    `keys` is empty for a server without one; `key_labels` names each key without showing it, and
    `key_env` the variables they come from, or would. `timeout` is in seconds without a byte,
    prices in US dollars per million tokens, None where only `provider` may know; `id` and
    `provider` are what to look them up by.
    """

    name: str
    id: str
    profile: str
    base_url: str | None
    keys: tuple[SecretStr, ...]
    key_labels: tuple[str, ...]
    key_env: tuple[str, ...]
    abilities: Abilities
    timeout: float
    price_in: float | None
    price_out: float | None
    provider: str | None
    local: bool
    priority: int
    tags: tuple[str, ...]
    extra: Mapping[str, Any]


def resolve(spec: ModelSpec, settings: Settings, secret: Secret) -> Resolved:
    """What to call, and how. Raises ConfigError if there is no way to it, or no such profile.

    What the table says goes before what is known of the model, and that before its profile's
    defaults and the settings. A model goes to the server of its table, else to its provider's if
    the provider's own key is there, else to OPENAI_BASE_URL whatever its name.
    """
    way = way_to(spec, settings, secret)
    if way.missing:
        hint = f"Set {' or '.join(way.key_env)}."
        if way.key_env == OPENAI.key_env:
            hint = f"Set {OPENAI_KEY}, and OPENAI_BASE_URL for a server other than OpenAI's."
        raise ConfigError(f"There is no way to the model {spec.name!r}.", hint)
    profile = way.profile
    local = profile.local or not way.keys
    free = 0.0 if local else None
    return Resolved(
        name=spec.name,
        id=way.id,
        profile=profile.name,
        base_url=way.base_url,
        keys=tuple(way.keys.values()),
        key_labels=tuple(way.keys),
        key_env=way.key_env,
        abilities=_abilities(spec, way, settings),
        timeout=settings.model_timeout if spec.timeout is None else spec.timeout,
        price_in=free if spec.price_in is None else spec.price_in,
        price_out=free if spec.price_out is None else spec.price_out,
        provider=profile.provider,
        local=local,
        priority=spec.priority,
        tags=spec.tags,
        extra={**(way.ready.extra if way.ready else {}), **spec.extra},
    )


def _abilities(spec: ModelSpec, way: Way, settings: Settings) -> Abilities:
    known, profile = way.ready, way.profile
    window = settings.context_window
    if known:
        # A window that an operator set is a wish to send less, never more than the model takes.
        asked = "context_window" in settings.model_fields_set
        window = min(window, known.context_window) if asked else known.context_window
    looks = looks_as_if_it_sees(spec.name, way.id)
    return Abilities(
        context_window=spec.context_window or window,
        max_output_tokens=spec.max_output_tokens or (known.max_output_tokens if known else None),
        vision=_first(
            spec.vision, settings.vision, known.vision if known else None, profile.vision, looks
        ),
        tools=_first(spec.tools, known.tools if known else None, profile.tools),
        schema=_first(spec.schema_mode, known.schema_mode if known else None, profile.schema_mode),
        max_image_side=spec.max_image_side,
    )


def _first(*told: bool | None) -> bool:
    """The first of them that is told at all."""
    return next((value for value in told if value is not None), False)
