"""A git repository as documents, by the git command line.

Nothing is checked out: files are read from git's own store, so that no hook, filter, symbolic link
or submodule of a repository takes effect here. git sees neither the user's nor the machine's
configuration, asks nothing, and talks to the one address that was checked.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from rag.config import secret
from rag.errors import InputError, LoadError
from rag.files import Loads
from rag.ingest import Covers, Plan
from rag.origins.addresses import Guard, shown
from rag.origins.remote import (
    USER_AGENT,
    Limits,
    RemoteSource,
    check_size,
    is_document,
)

if TYPE_CHECKING:
    from pydantic import SecretStr

_HEAD = "refs/rag/head"
_REF = re.compile(r"(?!-)(?!.*(\.\.|@\{|//))[\w./+-]{1,200}(?<![./])")
_LFS = b"version https://git-lfs.github.com/spec/"
_FILES = ("100644", "100755")
_BLOCK = 512  # bytes, of `ulimit -f`
_SECONDS_FOR_A_FILE = 60.0


@dataclass(frozen=True, slots=True)
class Repository:
    """`git+https://host/path[@ref][#subfolder]`, taken apart. `url` is what git is given."""

    url: str
    ref: str
    folder: str

    @property
    def base(self) -> str:
        """What the uris of its documents begin with."""
        return f"git+{self.url}{f'@{self.ref}' if self.ref else ''}#"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def name(self) -> str:
        last = unquote(urlsplit(self.url).path).rstrip("/").rpartition("/")[2]
        return last.removesuffix(".git") or "repository"


def parse_repository(address: str) -> Repository:
    """Raises InputError."""
    parts = urlsplit(address.removeprefix("git+"))
    if parts.scheme not in ("https", "http", "file") or not parts.path.strip("/"):
        raise InputError(
            f"{shown(address)} is not the address of a repository.",
            "Write git+https://host/repository[@branch][#folder].",
        )
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"{shown(address)} holds a user name or password.",
            f"Addresses are kept: put the token into {token_variable(parts.hostname or '')}.",
        )
    if parts.query or (parts.scheme == "file" and parts.netloc):
        raise InputError(f"{shown(address)} is not the address of a repository.", "Check it.")
    path, _, ref = parts.path.partition("@")
    folder = unquote(parts.fragment).strip("/")
    if ref and not _REF.fullmatch(ref):
        raise InputError(f"{ref!r} is not the name of a branch, tag or commit.", "Check it.")
    if any(part in ("..", ".") for part in folder.split("/")):
        raise InputError(f"{folder!r} is not a folder of a repository.", "Check it.")
    url = urlunsplit((parts.scheme, parts.netloc.lower(), path.rstrip("/"), "", ""))
    return Repository(url, ref, folder)


def token_variable(host: str) -> str:
    """Where the token for a host is looked for: GIT_TOKEN_GITHUB_COM. Each host has its own, so
    that no token is sent to another."""
    return "GIT_TOKEN_" + host.upper().replace("-", "__").replace(".", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """How repositories are fetched. `secret` gives a token by the name of its variable."""

    folder: Path
    max_bytes: int
    loads: Loads
    guard: Guard = field(default_factory=Guard)
    limits: Limits = field(default_factory=Limits)
    secret: Callable[[str], SecretStr | None] = secret
    on_notice: Callable[[str], None] = lambda _notice: None


@dataclass(frozen=True, slots=True)
class _Blob:
    mode: str
    sha: str
    size: int
    path: str


def plan_git(address: str, git: Git) -> Plan:
    """The documents of a repository, at the commit that the ref names now.

    Only that commit is fetched, and nothing if it is here. A document's uri is the address with
    `#path`, its name `repository/path`. The plan covers all documents below the folder, unless none
    is left there. Raises InputError for a wrong address, LoadError if it cannot be fetched.
    """
    repository = parse_repository(address)
    git.on_notice(f"Fetching {shown(repository.url)}.")
    store = _Store(git, repository)
    store.fetch()
    sources: list[RemoteSource] = []
    left = 0
    for blob in store.files():
        name = _shown(f"{repository.name}/{blob.path}")
        if not is_document(blob.path):
            left += 1
        else:
            sources.append(
                RemoteSource(
                    repository.base + blob.path, name, name.rpartition("/")[2],
                    store.reader(blob, name), git.max_bytes, git.loads,
                )
            )  # fmt: skip
    limit = git.limits.max_documents
    notes = [f"{left} files of {repository.name} are of types that are not read."] if left else []
    if len(sources) > limit:
        notes.append(f"{repository.name} holds {len(sources)} documents; {limit} were read.")
    if not sources:
        notes.append(f"{repository.name} holds no documents; what was ingested before is kept.")
    below = repository.base + (f"{repository.folder}/" if repository.folder else "")
    whole = 0 < len(sources) <= limit
    return Plan(
        sources[:limit],
        covers=Covers((below,) if whole else ()),
        notes=notes,
    )


class _Store:
    """The bare repository here that holds the last commit fetched."""

    def __init__(self, git: Git, repository: Repository) -> None:
        self._git = git
        self._repository = repository
        key = hashlib.sha256(repository.base.encode()).hexdigest()[:32]
        self._folder = git.folder / f"{key}.git"

    def fetch(self) -> None:
        url, ref = self._repository.url, self._repository.ref or "HEAD"
        configuration = self._configuration()
        if not (self._folder / "HEAD").exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._run(["init", "--quiet", "--bare", "--template=", str(self._folder)], {})
        self._run(
            ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--force",
             "--no-write-fetch-head", "--", url, f"+{ref}:{_HEAD}"],
            configuration,
        )  # fmt: skip

    def files(self) -> Iterator[_Blob]:
        """In the order of their paths. Symbolic links and submodules are not among them."""
        command = ["ls-tree", "-r", "-z", "--long", "--full-tree", _HEAD]
        folder = self._repository.folder
        if folder:
            command += ["--", f"{folder}/"]
        for entry in self._run(command, {}).split(b"\0"):
            head, _, path = entry.partition(b"\t")
            if not path:
                continue
            mode, _, sha, size = head.decode().split()
            if mode in _FILES:
                yield _Blob(mode, sha, int(size), path.decode(errors="replace"))

    def reader(self, blob: _Blob, name: str) -> Callable[[], bytes]:
        def read() -> bytes:
            check_size(name, blob.size, self._git.max_bytes)
            data = self._run(["cat-file", "blob", blob.sha], {}, _SECONDS_FOR_A_FILE)
            if data.startswith(_LFS):
                raise LoadError(
                    f"{name} is kept in Git LFS, which is not read.", "Ingest the file itself."
                )
            return data

        return read

    def _configuration(self) -> dict[str, str]:
        """The checked address, and the token for this host alone."""
        parts = urlsplit(self._repository.url)
        if parts.scheme == "file":
            return {}
        self._git.guard.check(self._repository.url)
        host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
        addresses = self._git.guard.addresses(host, port)
        found = {"http.curloptResolve": f"{host}:{port}:{','.join(addresses)}"}
        token = self._git.secret(token_variable(host))
        if token is not None and parts.scheme == "https":
            user = f"x-access-token:{token.get_secret_value()}"
            coded = base64.b64encode(user.encode()).decode()
            site = f"{parts.scheme}://{parts.netloc}/"
            found[f"http.{site}.extraHeader"] = f"Authorization: Basic {coded}"
        return found

    def _run(
        self, command: Sequence[str], configuration: Mapping[str, str], seconds: float | None = None
    ) -> bytes:
        name = self._repository.name
        blocks = self._git.limits.max_total_bytes // _BLOCK
        # a limit on what git may write, set by a shell: `preexec_fn` is not safe beside threads
        limited = ["/bin/sh", "-c", f'ulimit -f {blocks} && exec git "$@"', "git", *command]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed command; arguments are never options
                limited,
                cwd=self._git.folder if not self._folder.exists() else self._folder,
                env=_environment(configuration),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds or self._git.limits.git_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LoadError(f"git took too long over {name}.", "Try again later.") from None
        except OSError as error:
            raise LoadError(f"git cannot be started: {error.strerror}.", "Try again.") from None
        if done.returncode == 127:
            raise LoadError("git is not installed.", "Install it: apt-get install git")
        if done.returncode != 0:
            raise LoadError(
                f"git cannot read {name}: {_reason(done.stderr)}.",
                _hint(done.stderr, self._repository.host),
            )
        return done.stdout


def _environment(configuration: Mapping[str, str]) -> dict[str, str]:
    """Nothing of this process's but where programs and certificates are. What is secret goes this
    way, for arguments can be seen by every user of the machine."""
    settings = {
        "core.hooksPath": "/dev/null",
        "core.symlinks": "false",
        "credential.helper": "",
        "http.followRedirects": "false",
        "http.proxy": "",
        "http.userAgent": USER_AGENT,
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": "60",
        "protocol.allow": "never",
        "protocol.https.allow": "always",
        "protocol.http.allow": "always",
        "protocol.file.allow": "always",
        "gc.autoDetach": "false",
        "submodule.recurse": "false",
        **configuration,
    }
    numbered: dict[str, str] = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        numbered[f"GIT_CONFIG_KEY_{number}"] = key
        numbered[f"GIT_CONFIG_VALUE_{number}"] = value
    kept = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        **numbered,
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_ALLOW_PROTOCOL": "https:http:file",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
    }


def _reason(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    told = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines or [""]
    text = re.sub(r"https?://\S+", lambda url: shown(url[0]), told[0])
    return text.partition(": ")[2].rstrip(".")[:200] or "it failed"


def _hint(stderr: bytes, host: str) -> str:
    text = stderr.decode(errors="replace")
    if "Authentication failed" in text or "could not read Username" in text:
        return f"If it is private, set {token_variable(host)}."
    if "couldn't find remote ref" in text or "not our ref" in text:
        return "Check the name after the @."
    if "redirect" in text:
        return "It has moved: use its new address, with .git at the end."
    return "Check the address."


def _shown(name: str) -> str:
    return unicodedata.normalize("NFC", re.sub("[\x00-\x1f\x7f]", "\ufffd", name))
