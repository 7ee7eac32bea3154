"""Which models there are to choose from."""

from __future__ import annotations

from dataclasses import dataclass

from rag.catalog.models import READY
from rag.catalog.profiles import OPENAI, PROFILES
from rag.catalog.ways import Secret, keys_in, needs, way_to
from rag.config import Settings
from rag.specs import ModelSpec
from rag.types import EXTRACTIVE


@dataclass(frozen=True, slots=True)
class Row:
    """A model in a list. `state` is "configured" (named in the settings), "ready" (its key is
    there) or "needs VARIABLE"."""

    name: str
    profile: str
    id: str
    state: str


def offered(settings: Settings, secret: Secret) -> list[ModelSpec]:
    """The models a question may ask for, the default first, each name once.

    With no list in the settings these are all ready models whose provider's key is there; not
    OpenAI's where OPENAI_BASE_URL names another server.
    """
    specs: dict[str, ModelSpec] = {}
    tables = {spec.name: spec for spec in reversed(settings.models)}
    if settings.model and settings.model != EXTRACTIVE:
        specs[settings.model] = tables.get(settings.model) or ModelSpec(name=settings.model)
    for spec in settings.models:
        specs.setdefault(spec.name, tables[spec.name])
    if not settings.models:
        for model in READY.values():
            profile = PROFILES[model.profile]
            elsewhere = profile is OPENAI and settings.openai_base_url is not None
            if not elsewhere and keys_in(profile.key_env, settings, secret):
                specs.setdefault(model.name, ModelSpec(name=model.name))
    return list(specs.values())


def ready(settings: Settings, secret: Secret) -> list[Row]:
    """The offered models, then those of the catalogue that are not. Raises ConfigError if a table
    names a profile there is not."""
    named = {settings.model, *(spec.name for spec in settings.models)}
    rows: dict[str, Row] = {}
    for spec in offered(settings, secret):
        way = way_to(spec, settings, secret)
        state = "configured" if spec.name in named else "ready"
        rows[spec.name] = Row(spec.name, way.profile.name, way.id, way.needs or state)
    for model in READY.values():
        if model.name in rows:
            continue
        way = way_to(ModelSpec(name=model.name), settings, secret)
        if way.profile.name == model.profile:
            state = way.needs or "ready"
        elif model.profile == OPENAI.name:
            continue  # its key and address serve another server here
        else:
            state = needs(PROFILES[model.profile].key_env)
        rows[model.name] = Row(model.name, model.profile, model.id, state)
    return list(rows.values())
