"""Which questions are the same one."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from rag.types import Image, Message

_CLOSING = " ?？.。!！"


def normalised(question: str) -> str:
    """The question without what does not change its meaning: width and form of characters
    (NFKC), case, the amount of white space, and the marks that close a sentence.

    A question of nothing but closing marks keeps them.
    """
    folded = unicodedata.normalize("NFKC", question).casefold()
    text = " ".join(unicodedata.normalize("NFKC", folded).split())
    return text.rstrip(_CLOSING) or text


def answer_key(
    question: str,
    *,
    history: Sequence[Message] = (),
    images: Sequence[Image] = (),
    model: str,
    parameters: Mapping[str, Any],
    prompt: str,
    knowledge_base: str,
    stamp: str,
) -> str:
    """SHA-256 (hex) of everything an answer depends on.

    `parameters` holds what JSON can hold, under names that are text; their order is indifferent,
    that of history and images is not. `prompt` is the version of the prompt's texts. `stamp`
    identifies one published generation of one knowledge base, for all time: whoever takes it
    before retrieving never gets an answer from older documents.
    """
    parts = {
        "question": normalised(question),
        "history": [_message(message) for message in history],
        "images": [_image(image) for image in images],
        "model": model,
        "parameters": dict(parameters),
        "prompt": prompt,
        "knowledge_base": knowledge_base,
        "stamp": stamp,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _message(message: Message) -> list[Any]:
    calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
    images = [_image(image) for image in message.images]
    return [message.role, message.text, images, calls, message.tool_call_id]


def _image(image: Image) -> list[str]:
    return [image.media_type, hashlib.sha256(image.data).hexdigest()]
