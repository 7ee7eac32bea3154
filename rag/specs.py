"""The tables of `rag.toml`: models, rules, budgets, databases, presets."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Table):
    """A chat model by the name we call it. What is left out comes from the profile, then from the
    settings; see rag/catalog."""

    name: str = Field(min_length=1, max_length=128)
    profile: str | None = None
    id: str | None = Field(default=None, description="the server's name for it")
    base_url: str | None = None
    key_env: tuple[str, ...] = Field(
        default=(), description="environment variables; each may hold several keys, with commas"
    )
    context_window: int | None = Field(default=None, ge=1024)
    max_output_tokens: int | None = Field(default=None, ge=16)
    price_in: float | None = Field(default=None, ge=0, description="US dollars per million tokens")
    price_out: float | None = Field(default=None, ge=0)
    vision: bool | None = None
    tools: bool | None = None
    schema_mode: bool | None = Field(default=None, description="takes response_format json_schema")
    max_image_side: int = Field(default=2048, ge=64, description="pixels; larger is made smaller")
    timeout: float | None = Field(default=None, gt=0, description="seconds without a byte")
    priority: int = Field(default=0, description="lower is asked first")
    tags: tuple[str, ...] = ()
    extra: dict[str, Any] = Field(default={}, description="into every request body")

    @field_validator("key_env", "tags", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Rule(_Table):
    """Models for some questions. All conditions given must hold; the first rule that fits decides.

    `use` names models or tags of models, the first being asked first.
    """

    use: tuple[str, ...] = Field(min_length=1)
    vision: bool | None = None
    tools: bool | None = None
    preset: str | None = None
    knowledge_base: str | None = None
    caller: str | None = None
    tag: str | None = Field(default=None, description="one that the question filters by")
    pattern: str | None = Field(default=None, description="regular expression on the question")
    longer_than: int | None = Field(default=None, ge=0, description="characters of the question")
    shorter_than: int | None = Field(default=None, ge=0)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"is not a regular expression: {error}") from None
        return value


class Budget(_Table):
    """At most so many US dollars. `caller` and `model` may name one, or "*" for each its own;
    with neither, the budget is for all together."""

    caller: str | None = None
    model: str | None = None
    day: float | None = Field(default=None, ge=0)
    month: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _limits_something(self) -> Budget:
        if self.day is None and self.month is None:
            raise ValueError("a budget needs `day` or `month`")
        return self


class DatabaseSpec(_Table):
    """A database a model may read. The URL is SQLAlchemy's and stands in an environment variable,
    because it often holds a password."""

    name: str = Field(pattern=r"[A-Za-z0-9_\-]{1,64}")
    url_env: str
    description: str = ""
    tables: tuple[str, ...] = Field(default=(), description="those it may read; none: all")
    max_rows: int = Field(default=100, ge=1)
    max_seconds: float = Field(default=5.0, gt=0)
    max_bytes: int = Field(default=20_000, ge=100)


class Example(_Table):
    """A question and the answer a model should have given."""

    question: str
    answer: str


class PresetSpec(_Table):
    """How a model is to answer. Texts may be given for one language or for each: zh, en."""

    role: str | dict[Literal["zh", "en"], str] = ""
    rules: str | dict[Literal["zh", "en"], str] = ""
    output: str | dict[Literal["zh", "en"], str] = ""
    examples: tuple[Example, ...] = ()
    step_by_step: bool = False
    tools: tuple[str, ...] = ()
    model: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_answer_tokens: int | None = Field(default=None, ge=16)
    review: bool = Field(default=False, description="a person approves each answer")
