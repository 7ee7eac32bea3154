"""Settings: environment (`RAG_*`, plus the three OpenAI names), then `.env`, then `rag.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from rag.errors import ConfigError

BUNDLED_MODEL = "intfloat/multilingual-e5-small"


class Settings(BaseSettings):
    """Everything an operator can set. Frozen; an unknown name in `rag.toml` is an error."""

    model_config = SettingsConfigDict(
        env_prefix="RAG_",
        env_file=".env",
        toml_file="rag.toml",
        frozen=True,
        extra="forbid",
        populate_by_name=True,
    )

    # places
    indexes: Path = Path("indexes")
    cache_dir: Path = Field(default_factory=lambda: platformdirs.user_cache_path("rag"))

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

    # retrieval
    top_k: int = Field(default=5, ge=1, le=50)
    candidates: int = Field(default=50, ge=1, le=1000, description="from each leg")
    threshold: float = Field(
        default=0.25, ge=0, le=1, description="under it nothing was found; see rag/retrieve.py"
    )

    # the chat model
    model: str | None = None
    models: tuple[str, ...] = Field(default=(), description="others a question may ask for")
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

    # images
    max_images: int = Field(default=4, ge=0)
    max_image_mb: float = Field(default=10, gt=0)
    max_image_pixels: int = Field(default=40_000_000, gt=0)

    # the server
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)

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
            env_settings,
            dotenv_settings,
            TomlConfigSettingsSource(settings_cls),
        )

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
            raise ConfigError(
                f"Wrong settings: {lines}.", "See the table of settings in README.md."
            ) from None
