"""Our nouns in the OpenAI chat format, and its replies as our nouns.

Source: the OpenAI API reference, "Chat Completions": create, and streaming chunks.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rag.types import Abilities, ChatRequest, Delta, Image, Message, ToolCall, Usage


def body(request: ChatRequest, model_id: str, abilities: Abilities) -> dict[str, Any]:
    """What a request says, but whether the reply is to be streamed."""
    sent: dict[str, Any] = {"model": model_id, "messages": [_message(m) for m in request.messages]}
    if request.temperature is not None:
        sent["temperature"] = request.temperature
    if request.max_tokens is not None:
        limits = (request.max_tokens, abilities.max_output_tokens)
        sent["max_tokens"] = min(limit for limit in limits if limit is not None)
    if request.tools and abilities.tools:
        sent["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                },
            }
            for tool in request.tools
        ]
    if request.schema is not None and abilities.schema:
        schema = {"name": "answer", "schema": dict(request.schema)}
        sent["response_format"] = {"type": "json_schema", "json_schema": schema}
    return sent


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}
    if message.tool_calls:
        return {
            "role": message.role,
            "content": message.text or None,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in message.tool_calls
            ],
        }
    if not message.images:
        return {"role": message.role, "content": message.text}
    content: list[dict[str, Any]] = [{"type": "text", "text": message.text}]
    content += [{"type": "image_url", "image_url": {"url": data_url(i)}} for i in message.images]
    return {"role": message.role, "content": content}


def data_url(image: Image) -> str:
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


def whole(reply: Any, model: str) -> Delta:
    """A reply that came in one piece, as JSON.

    Raises TypeError, LookupError or AttributeError if it is not in the format.
    """
    choice = reply["choices"][0]
    message, calls = choice["message"], _Calls()
    for position, call in enumerate(message.get("tool_calls") or ()):
        calls.add(position, call)
    return Delta(
        message.get("content") or "",
        _usage(reply.get("usage")),
        choice.get("finish_reason") or "stop",
        calls.finished(),
        model,
    )


class _Calls:
    """Tool calls, whose names and arguments arrive in fragments.

    A fragment belongs to the call of its index; servers that number every call 0 give each an id
    of its own.
    """

    def __init__(self) -> None:
        self._order: list[dict[str, str]] = []
        self._at: dict[int, dict[str, str]] = {}

    def add(self, index: int | None, fragment: Mapping[str, Any]) -> None:
        id_, function = fragment.get("id"), fragment.get("function") or {}
        index = len(self._order) if index is None else index
        call = self._at.get(index)
        if call is None or (id_ and call["id"] and id_ != call["id"]):
            call = self._at[index] = {"id": "", "name": "", "arguments": ""}
            self._order.append(call)
        call["id"] = call["id"] or id_ or ""
        call["name"] += function.get("name") or ""
        call["arguments"] += function.get("arguments") or ""

    def finished(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(call["id"] or f"call_{n}", call["name"], call["arguments"])
            for n, call in enumerate(self._order)
        )


@dataclass(slots=True)
class Pieces:
    """The chunks of one stream, as JSON. Text passes at once, tool calls and usage when whole.

    `feed` raises TypeError, LookupError or AttributeError for what is not in the format.
    """

    model: str
    begun: bool = False
    finished: bool = False
    _usage: Usage | None = None
    _calls: _Calls = field(default_factory=_Calls)

    def feed(self, part: Any) -> Delta | None:
        """What can be passed on of this chunk."""
        self.begun = True
        self._usage = _usage(part.get("usage")) or self._usage
        choices = part.get("choices")
        if not choices:
            return None
        choice = choices[0]
        delta = choice["delta"]
        for call in delta.get("tool_calls") or ():
            self._calls.add(call.get("index"), call)
        text, finish_reason = delta.get("content") or "", choice.get("finish_reason")
        if finish_reason is None:
            return Delta(text, model=self.model) if text else None
        self.finished = True
        return Delta(
            text,
            finish_reason=finish_reason,
            tool_calls=self._calls.finished(),
            model=self.model,
        )

    def usage(self) -> Delta | None:
        """The last piece; some servers report usage with every chunk, and the last is the sum."""
        return Delta(usage=self._usage, model=self.model) if self._usage else None


def _usage(usage: Any) -> Usage | None:
    """None also where half of it is missing: an estimate of all is nearer the truth."""
    if usage is None:
        return None
    asked, said = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return None if asked is None or said is None else Usage(asked, said)
