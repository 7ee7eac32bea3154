"""Where documents come from besides files: the web, git repositories, buckets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rag.errors import InputError
from rag.files import Loads
from rag.ingest import Covers, Plan
from rag.load import load
from rag.origins.addresses import Guard, shown
from rag.origins.bucket import Bucket, plan_bucket
from rag.origins.git import Git, plan_git
from rag.origins.kept import Kept
from rag.origins.remote import USER_AGENT, Limits
from rag.origins.web import Web, plan_web

__all__ = ["Limits", "is_address", "merged", "plan_of"]

_WEB = ("http://", "https://")
_GIT = ("git+http://", "git+https://", "git+file://")
_BUCKET = ("s3://",)


def is_address(text: str) -> bool:
    """Whether `text` is meant as an address, and not as a path."""
    return "://" in text


def plan_of(
    address: str,
    *,
    cache: Path,
    max_bytes: int,
    loads: Loads = load,
    limits: Limits = Limits(),
    allowed_hosts: Sequence[str] = (),
    user_agent: str = USER_AGENT,
    on_notice: Callable[[str], None] = lambda _notice: None,
) -> Plan:
    """A plan for what is at `address`: a page, a sitemap, a repository or a bucket.

    What is fetched is kept below `cache` so that the unchanged is not fetched again; the folder can
    be deleted at any moment. `max_bytes` is the limit of one document. `allowed_hosts` names what
    is trusted though it is at a private address or another port (see `rag.origins.addresses`).

    Raises InputError for an address of another kind or a wrong one, LoadError if a repository or
    bucket cannot be reached. A page that cannot be fetched is a source that fails.
    """
    guard = Guard(tuple(allowed_hosts))
    kept = Kept(cache / "origins")
    if address.startswith(_WEB):
        web = Web(
            kept=kept, max_bytes=max_bytes, loads=loads, guard=guard, limits=limits,
            user_agent=user_agent, on_notice=on_notice,
        )  # fmt: skip
        return plan_web(address, web)
    if address.startswith(_GIT):
        git = Git(
            folder=cache / "git", max_bytes=max_bytes, loads=loads, guard=guard, limits=limits,
            on_notice=on_notice,
        )  # fmt: skip
        return plan_git(address, git)
    if address.startswith(_BUCKET):
        bucket = Bucket(
            kept=kept, max_bytes=max_bytes, loads=loads, limits=limits, on_notice=on_notice
        )
        return plan_bucket(address, bucket)
    raise InputError(
        f"{shown(address)} is an address of a kind that is not read.",
        "Supported: https://, http://, git+https://, git+file://, s3://.",
    )


def merged(plans: Sequence[Plan]) -> Plan:
    """One plan for all of them; of two sources with one uri the first counts."""
    sources = {source.uri: source for plan in reversed(plans) for source in reversed(plan.sources)}
    return Plan(
        list(reversed(sources.values())),
        covers=Covers(
            tuple(prefix for plan in plans for prefix in plan.covers.prefixes),
            lambda uri: any(plan.covers(uri) for plan in plans),
        ),
        is_gone=lambda uri: any(plan.is_gone(uri) for plan in plans),
        skipped=[failure for plan in plans for failure in plan.skipped],
        notes=[note for plan in plans for note in plan.notes],
    )
