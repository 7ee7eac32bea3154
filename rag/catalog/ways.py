"""Which server a model is reached at, and with which keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from rag.catalog.models import READY, Ready, id_of, known
from rag.catalog.profiles import OPENAI, OPENAI_KEY, OTHER, PROFILES, Profile, by_host
from rag.config import Settings
from rag.errors import ConfigError
from rag.specs import ModelSpec

Secret = Callable[[str], SecretStr | None]
"""The value of an environment variable; `rag.config.secret` is the one outside tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """`keys` by their labels; `missing` if there has to be one and there is none."""

    profile: Profile
    ready: Ready | None
    id: str
    base_url: str | None
    key_env: tuple[str, ...]
    keys: Mapping[str, SecretStr]
    missing: bool

    @property
    def needs(self) -> str:
        return needs(self.key_env) if self.missing else ""


def way_to(spec: ModelSpec, settings: Settings, secret: Secret) -> Way:
    """Raises ConfigError if the model's table names a profile there is not."""
    named = _named(spec)
    base_url: str | None
    if spec.base_url:
        profile = named if named and spec.profile else by_host(spec.base_url)
        base_url = spec.base_url
        key_env = spec.key_env or profile.key_env
        needed = bool(spec.key_env) or by_host(base_url) is not OTHER
    elif named and named is not OPENAI and _goes_home(spec, named, settings, secret):
        profile, base_url = named, named.base_url
        key_env = spec.key_env or profile.key_env
        needed = bool(key_env)
    else:
        base_url = settings.openai_base_url
        profile = by_host(base_url) if base_url else OPENAI
        key_env = spec.key_env or (OPENAI_KEY,)
        needed = bool(spec.key_env) or base_url is None
    keys = keys_in(key_env, settings, secret)
    id_ = spec.id or id_of(spec.name, profile)
    return Way(
        profile=profile,
        ready=known(spec.name, id_, profile),
        id=id_,
        base_url=base_url,
        key_env=key_env,
        keys=keys,
        missing=needed and not keys,
    )


def _named(spec: ModelSpec) -> Profile | None:
    """The profile that the table or the name tells."""
    if spec.profile:
        if spec.profile not in PROFILES:
            raise ConfigError(
                f"The model {spec.name!r} names a profile {spec.profile!r} that there is not.",
                f"Profiles: {', '.join(PROFILES)}. Any other server is given with base_url.",
            )
        return PROFILES[spec.profile]
    if spec.name in READY:
        return PROFILES[READY[spec.name].profile]
    prefix, slash, _ = spec.name.partition("/")
    return PROFILES.get(prefix) if slash else None


def _goes_home(spec: ModelSpec, profile: Profile, settings: Settings, secret: Secret) -> bool:
    """Whether it goes to its provider, and not to OPENAI_BASE_URL, where a gateway or a local
    server may have a model of that name."""
    said = spec.profile is not None or bool(spec.key_env) or profile.local
    return said or not settings.openai_base_url or bool(keys_in(profile.key_env, settings, secret))


def keys_in(
    variables: tuple[str, ...], settings: Settings, secret: Secret
) -> Mapping[str, SecretStr]:
    """By label, in order; a key that stands twice counts once."""
    found: dict[str, SecretStr] = {}
    for variable in variables:
        value = (settings.openai_api_key if variable == OPENAI_KEY else None) or secret(variable)
        told = value.get_secret_value() if value else ""
        parts = [part.strip() for part in told.split(",") if part.strip()]
        for n, part in enumerate(parts, 1):
            label = f"key {n} of {len(parts)}" if len(parts) > 1 else "the key"
            if SecretStr(part) not in found.values():
                found[f"{label} in {variable}"] = SecretStr(part)
    return found


def needs(variables: tuple[str, ...]) -> str:
    return f"needs {' or '.join(variables)}"
