"""The promises of `rag.origins.git`, with real repositories in folders and over HTTP."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from rag.engine import Engine
from rag.errors import InputError, LoadError
from rag.ingest import Plan
from rag.load import load
from rag.origins.addresses import Guard
from rag.origins.git import Git, parse_repository, plan_git
from rag.origins.remote import Limits

# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "url", "ref", "folder"),
    [
        ("git+https://Host.org/a/b", "https://host.org/a/b", "", ""),
        ("git+https://host.org/a/b.git@v1.2#docs/zh", "https://host.org/a/b.git", "v1.2",
         "docs/zh"),
        ("git+https://host.org/a@feature/x", "https://host.org/a", "feature/x", ""),
        ("git+file:///srv/repo#%E6%8C%87", "file:///srv/repo", "", "指"),
    ],
)  # fmt: skip
def test_an_address_names_repository_ref_and_folder(
    address: str, url: str, ref: str, folder: str
) -> None:
    repository = parse_repository(address)
    assert (repository.url, repository.ref, repository.folder) == (url, ref, folder)


@pytest.mark.parametrize(
    "address",
    [
        "git+ssh://host/a", "git+https://host", "git+ext::sh -c x", "git+file://host/a",
        "git+https://token:secret@host/a", "git+https://secret@host/a", "git+https://h/a?x=secret",
        "git+https://h/a@--upload-pack=secret", "git+https://h/a@x..y", "git+https://h/a@a:b",
        "git+https://h/a#../x", "git+https://h/a@+x y",
    ],
)  # fmt: skip
def test_what_could_mean_more_than_an_address_is_refused(address: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_repository(address)
    assert "token:secret" not in str(refused.value)


# --- repositories -----------------------------------------------------------------------------


class Repository:
    """A repository that is worked in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    @property
    def address(self) -> str:
        return f"git+file://{self.folder}"

    def git(self, *command: str) -> str:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c",
            "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c",
        }  # fmt: skip
        done = subprocess.run(
            ["git", *command], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, **files: str | None) -> str:
        """None deletes a file."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "handbook")
    made.commit(**{"a.md": "# A", "docs/指南.md": "# 指南", "main.py": "x = 1", "docs/b.txt": "b"})
    return made


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git(
        folder=tmp_path / "kept/git", max_bytes=1000, loads=load,
        limits=Limits(git_seconds=30), secret=lambda _name: None,
    )  # fmt: skip


def read(plan: Plan) -> dict[str, str]:
    found = {}
    for source in plan.sources:
        try:
            found[source.name] = source.read().decode()  # type: ignore[union-attr]
        except LoadError as error:
            found[source.name] = str(error)
    return found


def test_files_at_the_commit_become_documents(repository: Repository, git: Git) -> None:
    plan = plan_git(repository.address, git)
    assert read(plan) == {
        "handbook/a.md": "# A", "handbook/docs/b.txt": "b", "handbook/docs/指南.md": "# 指南",
    }  # fmt: skip
    assert plan.sources[0].uri == f"{repository.address}#a.md"
    assert plan.notes == ["1 files of handbook are of types that are not read."]


def test_a_folder_a_branch_a_tag_and_a_commit_can_be_named(
    repository: Repository, git: Git
) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "v1")
    repository.git("checkout", "--quiet", "-b", "feature/x")
    repository.commit(**{"new.md": "new"})
    repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
    address = repository.address
    assert "handbook/new.md" in read(plan_git(f"{address}@feature/x", git))
    assert "handbook/new.md" not in read(plan_git(f"{address}@v1", git))
    assert "handbook/new.md" not in read(plan_git(f"{address}@{first}", git))
    plan = plan_git(f"{address}@main#docs", git)
    assert list(read(plan)) == ["handbook/docs/b.txt", "handbook/docs/指南.md"]
    assert plan.covers(f"{address}@main#docs/gone.md")
    assert not plan.covers(f"{address}@main#a.md")
    assert not plan.covers(f"{address}@main#docs2/a.md")
    with pytest.raises(LoadError, match="Check the name after the @"):
        plan_git(f"{address}@nosuch", git)


def test_the_whole_way_and_again_with_what_was_deleted(
    repository: Repository, git: Git, engine: Engine
) -> None:
    report = engine.ingest_plan(plan_git(repository.address, git))
    assert len(report.added) == 3
    repository.commit(**{"a.md": None, "c.md": "# C"})
    again = engine.ingest_plan(plan_git(repository.address, git))
    assert (again.added, again.removed, len(again.unchanged)) == (
        ["handbook/c.md"], ["handbook/a.md"], 2,
    )  # fmt: skip


def test_an_empty_repository_is_more_often_a_mistake(repository: Repository, git: Git) -> None:
    repository.commit(**{"a.md": None, "docs/指南.md": None, "docs/b.txt": None})
    plan = plan_git(repository.address, git)
    assert not plan.covers(f"{repository.address}#a.md")
    assert any("no documents" in note for note in plan.notes)


def test_nothing_of_a_repository_takes_effect(
    repository: Repository, git: Git, tmp_path: Path
) -> None:
    """No hook, no filter, no symbolic link, no submodule, and not the user's configuration."""
    mark = tmp_path / "ran"
    for hook in ("post-checkout", "post-merge", "reference-transaction", "pre-upload-pack"):
        script = repository.folder / ".git/hooks" / hook
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\ntouch {mark}\n")
        script.chmod(0o755)
    (repository.folder / "secret.md").symlink_to("/etc/passwd")
    repository.git("update-index", "--add", "--cacheinfo", "160000", "1" * 40, "sub.md")
    (repository.folder / ".gitattributes").write_text("*.md filter=evil")
    (repository.folder / ".gitmodules").write_text(
        '[submodule "sub.md"]\n\tpath = sub.md\n\turl = https://h/x\n'
    )
    repository.git("add", "secret.md", ".gitattributes", ".gitmodules")
    mark.unlink(missing_ok=True)
    repository.git("-c", "core.hooksPath=/dev/null", "commit", "--quiet", "-m", "x")
    mark.unlink(missing_ok=True)
    assert sorted(read(plan_git(repository.address, git))) == [
        "handbook/a.md", "handbook/docs/b.txt", "handbook/docs/指南.md",
    ]  # fmt: skip
    assert not mark.exists()


def test_a_large_file_and_one_in_lfs_fail_alone(repository: Repository, git: Git) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    repository.commit(**{"large.md": "x" * 2000, "lfs.md": pointer})
    found = read(plan_git(repository.address, git))
    assert "more than the 0.001 MB" in found["handbook/large.md"]
    assert "Git LFS" in found["handbook/lfs.md"]
    assert found["handbook/a.md"] == "# A"


def test_what_git_may_write_and_how_many_documents_are_read_is_limited(
    repository: Repository, git: Git
) -> None:
    plan = plan_git(repository.address, replace(git, limits=Limits(max_documents=2)))
    assert len(plan.sources) == 2
    assert not plan.covers(f"{repository.address}#a.md")
    repository.commit(**{"random.md": os.urandom(200_000).hex()})
    with pytest.raises(LoadError):
        plan_git(repository.address, replace(git, limits=Limits(max_total_bytes=50_000)))


def test_a_folder_that_is_no_repository_says_so(git: Git, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="git cannot read nothing"):
        plan_git(f"git+file://{tmp_path}/nothing", git)


# --- over HTTP --------------------------------------------------------------------------------


@pytest.fixture
def served(repository: Repository) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """The repository by git's own server program, as a web server runs it."""
    headers: list[dict[str, str]] = []
    backend = Path(subprocess.check_output(["git", "--exec-path"], text=True).strip())

    class Handler(SimpleHTTPRequestHandler):
        def serve(self) -> None:
            headers.append({k.lower(): v for k, v in self.headers.items()})
            if self.path.startswith("/moved"):
                self.send_response(301)
                self.send_header("Location", self.path.replace("/moved", "/handbook"))
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            environment = {
                "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(repository.folder.parent),
                "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
                "REQUEST_METHOD": self.command, "GATEWAY_INTERFACE": "CGI/1.1",
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            }  # fmt: skip
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            done = subprocess.run(
                [backend / "git-http-backend"], input=body, env=environment, capture_output=True
            )
            head, _, data = done.stdout.partition(b"\r\n\r\n")
            said = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response(int(said.pop("Status", "200").split()[0]))
            for name, value in said.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = serve

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port, headers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_over_http_git_asks_the_address_that_was_checked(
    served: tuple[int, list[dict[str, str]]], git: Git
) -> None:
    """The name exists nowhere but in our own look-up: git cannot have resolved it itself."""
    port, headers = served
    guard = Guard((f"code.invalid:{port}",), lambda _host, _port: ["127.0.0.1"])
    git = replace(git, guard=guard, secret=lambda _name: SecretStr("secret-token"))
    plan = plan_git(f"git+http://code.invalid:{port}/handbook", git)
    assert len(read(plan)) == 3
    assert {asked["host"] for asked in headers} == {f"code.invalid:{port}"}
    assert not any("authorization" in asked for asked in headers)  # never without TLS
    stored = b"".join(p.read_bytes() for p in git.folder.rglob("*") if p.is_file())
    assert b"secret-token" not in stored


def test_a_redirect_is_not_followed(served: tuple[int, list[dict[str, str]]], git: Git) -> None:
    port, _ = served
    guard = Guard((f"code.invalid:{port}",), lambda _host, _port: ["127.0.0.1"])
    with pytest.raises(LoadError):
        plan_git(f"git+http://code.invalid:{port}/moved", replace(git, guard=guard))


def test_a_private_address_is_refused_before_git_starts(git: Git) -> None:
    guard = Guard((), lambda _host, _port: ["169.254.169.254"])
    with pytest.raises(LoadError, match="private address"):
        plan_git("git+https://code.invalid/a", replace(git, guard=guard))


def test_the_token_goes_to_its_host_alone_and_not_through_arguments(
    git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], dict[str, str]]] = []

    def run(command: list[str], *, env: dict[str, str], **_: object) -> object:
        calls.append((command, env))
        code = 0 if "init" in command else 128
        return subprocess.CompletedProcess(command, code, b"", b"fatal: Authentication failed")

    monkeypatch.setattr(subprocess, "run", run)
    guard = Guard((), lambda _host, _port: ["1.1.1.1"])
    tokens = {"GIT_TOKEN_CODE_EXAMPLE": SecretStr("secret-token")}
    git = replace(git, guard=guard, secret=tokens.get)
    with pytest.raises(LoadError) as failed:
        plan_git("git+https://code.example/a", git)
    coded = base64.b64encode(b"x-access-token:secret-token").decode()
    told = str(failed.value)
    assert "".join(value for _, env in calls for value in env.values()).count(coded) == 1
    for command, env in calls:
        assert not any(coded in part or "secret-token" in part for part in command)
        assert env["GIT_TERMINAL_PROMPT"] == "0"
        keys = [k for k, v in env.items() if coded in v]
        for key in keys:
            name = env[key.replace("VALUE", "KEY")]
            assert name == "http.https://code.example/.extraHeader"
    assert "secret-token" not in told
    assert coded not in told


def test_only_what_git_needs_of_our_environment_is_handed_on(
    git: Git, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []
    real: Callable[..., object] = subprocess.run

    def run(command: list[str], *, env: dict[str, str], **options: object) -> object:
        seen.append(env)
        return real(command, env=env, **options)

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("GIT_SSH_COMMAND", "touch /x")
    monkeypatch.setattr(subprocess, "run", run)
    plan_git(repository.address, git)
    assert not any({"OPENAI_API_KEY", "GIT_SSH_COMMAND"} & set(env) for env in seen)
