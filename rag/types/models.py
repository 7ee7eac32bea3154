"""Chat models: what they are sent, and what they say."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Image:
    """A checked picture: its bytes as they are sent to the model."""

    media_type: str  # "image/png", ...
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a model wants called. `arguments` is JSON as the model wrote it, unchecked."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is described to a model; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """`tool_calls` belong to an assistant's message, `tool_call_id` to the result of one."""

    role: Role
    text: str
    images: tuple[Image, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more model calls; `estimated` if a server reported none.

    `cost` is in US dollars, None where a price is not known.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cost: float | None = None

    def __add__(self, other: Usage) -> Usage:
        known = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
            sum(known) if known else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """On whose behalf a model is called: for routing, budgets and the audit; never sent to it."""

    caller: str = ""
    session_id: str = ""
    knowledge_base: str = ""
    preset: str = ""
    question: str = ""
    documents: tuple[str, ...] = ()  # names of the documents in the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What is sent to a model. `extra` goes into the request body as it is.

    `schema` is the JSON schema that the whole reply has to fit.
    """

    messages: tuple[Message, ...]
    stream: bool = True
    temperature: float | None = None
    max_tokens: int | None = None
    tools: tuple[ToolSpec, ...] = ()
    schema: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    context: CallContext = CallContext()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a model's reply; the texts of all pieces joined are the reply.

    Tool calls come whole, all in one piece, after the text. `model` is the name of the model that
    wrote the piece. Usage comes once, last.
    """

    text: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    model: str = ""

    @property
    def says_something(self) -> bool:
        return bool(self.text or self.tool_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """A try of a model failed before it said anything; `next_model` is asked in `wait` seconds.

    `code` and `reason` are those of the error.
    """

    model: str
    next_model: str
    code: str
    reason: str
    wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a model can do. `context_window` is in tokens of prompt and reply together.

    `tools` and `schema`: it takes the `tools` and `response_format` of the OpenAI format.
    """

    context_window: int
    max_output_tokens: int | None = None
    vision: bool = False
    tools: bool = False
    schema: bool = False
    max_image_side: int = 2048  # pixels


ModelEvent = Delta | Retried


class ChatModel(Protocol):
    """A chat model, or something round one. Raises ModelError; nothing is buffered.

    Closing the iterator, or cancelling its task, cancels the call to the server. Once a piece that
    says something was given out, nothing is tried again: what fails then is raised.
    """

    @property
    def name(self) -> str: ...

    @property
    def abilities(self) -> Abilities: ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]: ...

    async def aclose(self) -> None: ...
