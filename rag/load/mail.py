"""E-mail: subject, who and when, the body, the names of what is attached.

The standard library takes the message apart; an HTML body goes through `unstructured`. A plain one
is kept as it is, because `unstructured` decodes by the declared charset alone, and mail that calls
itself GB2312 mostly is not.
"""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage
from typing import cast

from rag.errors import DamagedFileError
from rag.load.build import Builder, Parsed
from rag.load.decode import decode
from rag.load.plain import read as read_plain
from rag.load.rich import add_html
from rag.load.webpage import known_charset, text_of_html

# In the words of a header; what calls itself GB2312 is often written in a larger set.
_MISLABELLED = re.compile(rb"=\?(?:gb2312|gbk|x-gbk|cp936)\?", re.IGNORECASE)
_SHOWN = ("From", "To", "Cc", "Date")
_MAX_HEADER = 10_000  # characters: the standard library takes time in proportion to the square


class _ShortHeaders(email.policy.EmailPolicy):
    """The usual policy, but of a header that is too long only the beginning is read."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[:_MAX_HEADER]


def read(data: bytes, name: str) -> Parsed:
    """Raises DamagedFileError for a file without any of a mail's headers."""
    data = _MISLABELLED.sub(b"=?gb18030?", data)
    message = cast(EmailMessage, email.message_from_bytes(data, policy=_ShortHeaders()))
    if not any(message.get(header) for header in (*_SHOWN, "Subject", "Received", "Content-Type")):
        raise DamagedFileError(
            f"{name} is not an e-mail: it has none of its headers.",
            "Save it again from the mail program, as eml.",
        )
    subject = " ".join(str(message.get("Subject") or "").split())
    builder = Builder()
    builder.heading(subject, 0)
    builder.text("\n".join(_header_lines(message)))
    _add_body(builder, message, name)
    attached = [part.get_filename() or part.get_content_type() for part in _attachments(message)]
    if attached:
        builder.text("Attachments: " + ", ".join(attached))
    return builder.parsed(subject)


def _header_lines(message: EmailMessage) -> list[str]:
    values = ((header, " ".join(str(message.get(header) or "").split())) for header in _SHOWN)
    return [f"{header}: {value}" for header, value in values if value]


def _attachments(message: EmailMessage) -> list[EmailMessage]:
    if not message.is_multipart():
        return []
    return [part for part in message.iter_attachments() if isinstance(part, EmailMessage)]


def _add_body(builder: Builder, message: EmailMessage, name: str) -> None:
    """Plain text rather than HTML, where a mail has both."""
    body = message.get_body(preferencelist=("plain", "html"))
    if body is None:
        return
    payload = body.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return
    charset = body.get_content_charset()
    if body.get_content_subtype() == "html":
        add_html(builder, _decoded(payload, charset) or text_of_html(payload, name))
        return
    parsed = read_plain(_decoded(payload, charset) or decode(payload, name))
    for element in parsed.elements:
        builder.text(parsed.text[element.start : element.end])


def _decoded(payload: bytes, charset: str | None) -> str:
    """By the declared charset, if it is known and fits; else empty."""
    try:
        return payload.decode(known_charset(charset)).replace("\r\n", "\n") if charset else ""
    except (LookupError, UnicodeDecodeError):
        return ""
