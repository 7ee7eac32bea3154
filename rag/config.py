"""Settings: environment (`RAG_*`, plus the three OpenAI names), then `.env`, then `rag.toml`."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

import platformdirs
from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from rag.errors import ConfigError
from rag.specs import Budget, DatabaseSpec, ModelSpec, PresetSpec, Rule

_SETTINGS_HINT = "See the table of settings in README.md."
BUNDLED_MODEL = "intfloat/multilingual-e5-small"


class _Environment(EnvSettingsSource):
    """Lists are written as JSON or with commas: `RAG_MODELS=a,b`."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
            return [part.strip() for part in value.split(",") if part.strip()]
        return super().decode_complex_value(field_name, field, value)


class _DotEnv(_Environment, DotEnvSettingsSource):
    """`.env` is shared with other programs: only an unknown name that starts with `RAG_` is one
    misspelt for us."""

    def __call__(self) -> dict[str, Any]:
        prefix = self.env_prefix.lower()
        known = EnvSettingsSource.__call__(self)
        return known | {
            name: value
            for name, value in super().__call__().items()
            if name in known or name.lower().startswith(prefix)
        }


class Settings(BaseSettings):
    """Everything an operator can set. Frozen; an unknown name in `rag.toml` is an error."""

    model_config = SettingsConfigDict(
        env_prefix="RAG_",
        env_ignore_empty=True,
        env_file=".env",
        toml_file="rag.toml",
        frozen=True,
        extra="forbid",
        populate_by_name=True,
    )

    # places
    indexes: Path = Path("indexes")
    cache_dir: Path = Field(default_factory=lambda: platformdirs.user_cache_path("rag"))

    store: Literal["embedded", "milvus"] = Field(
        default="embedded", description="where new knowledge bases are made"
    )
    milvus_uri: SecretStr | None = Field(
        default=None, description="a server's, or a file that ends in .db for Milvus Lite"
    )
    milvus_token: SecretStr | None = Field(default=None, description="user:password, or a key")
    milvus_keywords: Literal["auto", "local", "server"] = Field(
        default="auto", description="who ranks by keywords: Milvus 2.5 and later can"
    )
    database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL's; default: SQLite in the indexes"
    )

    keep_generations: int = Field(
        default=2, ge=0, description="earlier ones, kept for `rag rollback`"
    )

    # embedding
    embedding: tuple[str, ...] = ("moka-ai/m3e-small", BUNDLED_MODEL)
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    embedding_base_url: str | None = None
    embedding_api_key: SecretStr | None = None
    embedding_threads: int = Field(default=0, ge=0, description="0: one for each core")

    # splitting, in tokens of the embedding model
    chunk_tokens: int = Field(default=192, ge=32)
    chunk_overlap: int = Field(default=32, ge=0)

    # loading
    max_file_mb: int = Field(default=100, gt=0)
    max_text_mb: float = Field(default=50, gt=0, description="of text in one file")
    max_unpacked_mb: int = Field(default=2000, gt=0, description="of an archive: docx, xlsx, ...")
    max_unpacked_ratio: float = Field(default=200, ge=1, description="unpacked over packed")
    max_parse_seconds: float = Field(default=120, gt=0, description="for reading one file")
    max_parse_mb: int = Field(default=2048, ge=256, description="of memory, for reading one file")
    parse_workers: int = Field(
        default=2, ge=0, le=64, description="processes that read files; 0: this one, unlimited"
    )
    follow_links: bool = Field(default=False, description="out of the folder that is ingested")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="hosts and networks of private addresses that may be fetched"
    )
    max_documents: int = Field(default=1000, ge=1, description="of one web address or bucket")
    watch_debounce: float = Field(default=1.0, gt=0, description="seconds without a change")

    # retrieval
    top_k: int = Field(default=5, ge=1, le=50)
    candidates: int = Field(default=50, ge=1, le=1000, description="from each leg")
    threshold: float = Field(
        default=0.25, ge=0, le=1, description="under it nothing was found; see rag/retrieve.py"
    )

    # the chat model
    model: str | None = None
    models: tuple[ModelSpec, ...] = Field(
        default=(), description="those a question may ask for, by name or as tables"
    )
    route_by: Literal["priority", "price", "latency"] = "priority"
    rules: tuple[Rule, ...] = ()
    extractive_fallback: bool = Field(
        default=True, description="quote passages when no model answers"
    )
    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("openai_api_key", "OPENAI_API_KEY")
    )
    openai_base_url: str | None = Field(
        default=None, validation_alias=AliasChoices("openai_base_url", "OPENAI_BASE_URL")
    )
    vision: bool | None = Field(default=None, description="None: told from the model's name")
    context_window: int = Field(default=16_384, ge=1024)
    max_answer_tokens: int = Field(default=1024, ge=16)
    temperature: float | None = Field(default=None, ge=0, le=2)
    model_timeout: float = Field(default=60.0, gt=0, description="seconds without a byte")

    # tries, in seconds; see rag/chat/retry.py and rag/chat/breaker.py
    retry_attempts: int = Field(default=4, ge=1, le=20)
    retry_base: float = Field(default=0.5, gt=0)
    retry_max: float = Field(default=20.0, gt=0)
    retry_deadline: float = Field(default=90.0, gt=0, description="until the first token")
    breaker_failures: int = Field(default=5, ge=1)
    breaker_window: float = Field(default=60.0, gt=0)
    breaker_open: float = Field(default=30.0, gt=0)
    breaker_probes: int = Field(default=1, ge=1)
    breaker_successes: int = Field(default=2, ge=1)
    redis_url: SecretStr | None = Field(default=None, description="shares breakers and answers")

    # money, in US dollars
    budgets: tuple[Budget, ...] = ()

    # answers kept, in seconds
    cache: bool = True
    cache_ttl: float = Field(default=3600.0, gt=0)
    cache_refusal_ttl: float = Field(default=60.0, gt=0)
    cache_entries: int = Field(default=1000, ge=1)

    # what a model may do, and how it answers
    preset: str = "assistant"
    presets: dict[str, PresetSpec] = {}
    databases: tuple[DatabaseSpec, ...] = ()
    tool_modules: tuple[str, ...] = Field(
        default=(), description="Python modules with tools of your own: package.module"
    )
    tool_steps: int = Field(default=5, ge=1, le=20)
    tool_seconds: float = Field(default=60.0, gt=0, description="for all steps of one answer")

    # who asks, and who may see
    callers: dict[str, str] = Field(
        default={}, description="a caller's name: the environment variable with its key"
    )
    reviewers: tuple[str, ...] = Field(default=(), description="callers who approve answers")
    review_tags: tuple[str, ...] = Field(
        default=(), description="answers from documents with these tags wait for a person"
    )
    audit: bool = True
    audit_texts: bool = Field(default=False, description="questions, prompts and replies too")
    audit_dir: Path | None = Field(default=None, description="default: `audit` in the indexes")
    audit_mb: float = Field(default=50, gt=0, description="of one file")
    audit_days: int = Field(default=90, ge=1)

    # images
    max_images: int = Field(default=4, ge=0)
    max_image_mb: float = Field(default=10, gt=0)
    max_image_pixels: int = Field(default=40_000_000, gt=0)
    ocr: bool = Field(default=True, description="read the text in pictures, with the ocr extra")

    # the server
    host: str = "127.0.0.1"
    max_request_mb: int = Field(default=500, gt=0)
    port: int = Field(default=8000, ge=0, le=65535)

    @field_validator("models", mode="before")
    @classmethod
    def _names_are_models(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"name": entry} if isinstance(entry, str) else entry for entry in value]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            _Environment(settings_cls),
            _DotEnv(settings_cls),
            TomlConfigSettingsSource(settings_cls),
        )

    @property
    def application_url(self) -> str:
        """SQLAlchemy's, of the application database: sessions, costs, reviews, and the records of
        knowledge bases in Milvus."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.indexes / 'application.db'}"

    @classmethod
    def read(cls, **overrides: object) -> Settings:
        """The settings of this process. Raises ConfigError naming each wrong setting."""
        try:
            return cls(**{k: v for k, v in overrides.items() if v is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            lines = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
                for e in error.errors(include_input=False)
            )
            raise ConfigError(f"Wrong settings: {lines}.", _SETTINGS_HINT) from None
        except SettingsError as error:
            raise ConfigError(f"Wrong settings: {error}.", _SETTINGS_HINT) from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"rag.toml is not TOML: {error}.", _SETTINGS_HINT) from None


def secret(variable: str) -> SecretStr | None:
    """The value of an environment variable, else of `.env`; None if there is none, or empty."""
    value = os.environ.get(variable) or dotenv_values(".env", interpolate=False).get(variable)
    return SecretStr(value) if value else None
