"""Which files a folder stands for, what they are called, and what belongs to a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.engine import Engine
from rag.errors import FileTooLargeError, InputError, LoadError
from rag.files import path_of, plan_files, uri_of
from rag.ingest import Plan

Folder = Callable[..., Path]


def plan(*paths: Path, indexes: Path, max_bytes: int = 10**6) -> Plan:
    return plan_files(paths, indexes=indexes, max_bytes=max_bytes, known=None)


def names(plan: Plan) -> list[str]:
    return [source.name for source in plan.sources]


@pytest.fixture
def indexes(tmp_path: Path) -> Path:
    return tmp_path / "indexes"


def test_a_folder_stands_for_all_documents_below_it_in_order(folder: Folder, indexes: Path) -> None:
    root = folder(**{"b.md": "x", "a/deep/er.PDF": "x", "a.txt": "x"})
    assert names(plan(root, indexes=indexes)) == ["a.txt", "a/deep/er.PDF", "b.md"]


@pytest.mark.parametrize("root", ["docs", "docs/deep", "project", "project/kept", "", "手册"])
@pytest.mark.parametrize("below", ["a.md", "deep/a.md", "project/a.md", "project/kept/a.md"])
def test_what_a_folder_covers_lies_below_its_prefixes(
    tmp_path: Path, root: str, below: str
) -> None:
    path, indexes = tmp_path / root / below, tmp_path / "project" / "kept" / "indexes"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    covers = plan(tmp_path / root, indexes=indexes).covers
    assert uri_of(path, indexes).startswith(covers.prefixes)
    (source,) = plan(path, indexes=indexes).sources
    assert source.uri == uri_of(path, indexes)
    inside = indexes / "note.md"
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.write_text("x")
    assert [s.uri for s in plan(inside, indexes=indexes).sources] == ["file:note.md"]
    assert covers(uri_of(path.with_name("gone.md"), indexes))
    assert not covers(uri_of(tmp_path / f"{root}2" / below, indexes)) or not root
    assert not covers("upload:a.md")


def test_a_single_file_is_called_by_its_own_name(folder: Folder, indexes: Path) -> None:
    root = folder(**{"a/b.md": "x"})
    assert names(plan(root / "a/b.md", indexes=indexes)) == ["b.md"]


def test_a_file_given_twice_is_one_source(folder: Folder, indexes: Path) -> None:
    root = folder(**{"a.md": "x"})
    assert names(plan(root / "a.md", root, root / ".." / root.name, indexes=indexes)) == ["a.md"]


def test_a_document_keeps_the_name_it_has(engine: Engine, folder: Folder) -> None:
    root = folder(**{"a/b.md": "x"})
    engine.ingest([root])
    folder(**{"a/b.md": "changed"})
    assert engine.ingest([root / "a"]).changed == ["a/b.md"]
    assert [i.name for i in engine.store("default").documents()] == ["a/b.md"]


@pytest.mark.parametrize(
    "name",
    [".hidden.md", ".git/config.md", "~$draft.docx", "node_modules/x/readme.md",
     "__pycache__/a.txt", "._resource.md"],
)  # fmt: skip
def test_hidden_and_left_over_files_are_ignored(folder: Folder, indexes: Path, name: str) -> None:
    found = plan(folder(**{"a.md": "x", name: "x"}), indexes=indexes)
    assert names(found) == ["a.md"]
    assert list(found.skipped) == []


def test_the_folder_of_indexes_is_never_ingested(folder: Folder) -> None:
    root = folder(**{"a.md": "x", "indexes/default/notes.md": "x", "other/indexes/b.md": "x"})
    assert names(plan(root, indexes=root / "indexes")) == ["a.md", "other/indexes/b.md"]


def test_files_of_other_types_are_skipped_by_name(folder: Folder, indexes: Path) -> None:
    found = plan(folder(**{"a.md": "x", "sub/b.gif": "x", "LICENSE": "x"}), indexes=indexes)
    assert [(f.name, f.code) for f in found.skipped] == [
        ("LICENSE", "unsupported_type"),
        ("sub/b.gif", "unsupported_type"),
    ]


def test_a_path_that_is_not_there_is_an_error_that_names_it(indexes: Path) -> None:
    with pytest.raises(InputError, match="nothing-here"):
        plan(Path("nothing-here"), indexes=indexes)


@pytest.mark.parametrize(
    "name",
    ["员工手册.md", "Ünïcode — façade.md", "データ.md", "회사.md", "مرحبا.md", "😀.md",
     "a b 'c\".md", "100%.md", "%2e%2e.md", "a\nb.md", "-rf.md", "[x]*?.md"],
)  # fmt: skip
def test_a_name_in_any_script_goes_all_the_way(engine: Engine, folder: Folder, name: str) -> None:
    root = folder(**{name: "quagga"})
    assert engine.ingest([root]).added == [name]
    assert engine.ingest([root]).unchanged == [name]
    assert engine.retrieve("quagga")[0].document == name
    assert engine.find(name).text == "quagga"
    (root / name).rename(root / "b.md")
    assert engine.ingest([root]).removed == [name]


def test_a_name_whose_accents_are_written_apart_is_shown_joined(
    engine: Engine, folder: Folder
) -> None:
    root = folder(**{"cafe\u0301.md": "x"})
    assert engine.ingest([root]).added == ["caf\u00e9.md"]
    assert engine.ingest([root]).unchanged == ["caf\u00e9.md"]


def test_a_name_that_is_no_utf8_is_read_and_told_apart(engine: Engine, folder: Folder) -> None:
    root = folder(**{"a.md": "a"})
    for stem in ("手册", "手冊"):
        path = os.fsencode(root) + b"/" + stem.encode("gb18030") + b".md"
        Path(os.fsdecode(path)).write_text(f"quagga {stem}")
    report = engine.ingest([root])
    assert len(report.added) == 3
    assert report.failed == []
    assert len({i.uri for i in engine.store("default").documents()}) == 3
    for name in report.added:
        name.encode()
    assert len(engine.ingest([root]).unchanged) == 3
    Path(os.fsdecode(path)).unlink()
    assert len(engine.ingest([root]).removed) == 1


@settings(deadline=None, derandomize=True, database=None, max_examples=200)
@given(st.binary(min_size=1, max_size=12).filter(lambda b: not {0, 47} & set(b)))
def test_a_uri_leads_back_to_its_path(raw: bytes) -> None:
    path = Path("/data/docs") / os.fsdecode(raw)
    if path.name in (".", ".."):
        return
    uri = uri_of(path, Path("/data/indexes"))
    uri.encode()
    assert path_of(uri, Path("/data/indexes")) == path


def test_a_uri_does_not_change_when_the_project_moves() -> None:
    here = uri_of(Path("/a/project/knowledge/x.md"), Path("/a/project/indexes"))
    assert here == uri_of(Path("/b/knowledge/x.md"), Path("/b/indexes"))
    assert path_of("upload:a.md", Path("/x")) is None


def test_a_folder_that_cannot_be_listed_is_reported_and_its_documents_kept(
    engine: Engine, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(**{"a.md": "a", "gone.md": "g", "closed/b.md": "b", "closed/deep/c.md": "c"})
    engine.ingest([root])
    (root / "gone.md").unlink()
    scan = os.scandir

    def refusing(path: str | int) -> object:
        if not isinstance(path, int) and Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = engine.ingest([root])
    assert [(f.name, f.code) for f in report.failed] == [("closed", "load")]
    assert "Permission denied" in report.failed[0].reason
    assert report.removed == ["gone.md"]
    assert report.exit_code == 3
    kept = [i.name for i in engine.store("default").documents()]
    assert kept == ["a.md", "closed/b.md", "closed/deep/c.md"]


def test_a_file_that_is_too_large_is_refused_before_it_is_read(
    folder: Folder, indexes: Path
) -> None:
    (source,) = plan(folder(**{"a.md": "x" * 2000}), indexes=indexes, max_bytes=1000).sources
    with pytest.raises(FileTooLargeError, match=r"a\.md"):
        source.read()


def test_a_file_that_is_gone_when_its_turn_comes_is_a_load_error(
    folder: Folder, indexes: Path
) -> None:
    root = folder(**{"a.md": "x"})
    (source,) = plan(root, indexes=indexes).sources
    (root / "a.md").unlink()
    with pytest.raises(LoadError, match=r"a\.md cannot be read: No such file"):
        source.read()


def test_a_dangling_link_is_a_failure_and_not_the_end(engine: Engine, folder: Folder) -> None:
    root = folder(**{"a.md": "a"})
    (root / "b.md").symlink_to(root / "nowhere.md")
    report = engine.ingest([root])
    assert (report.added, [f.name for f in report.failed]) == (["a.md"], ["b.md"])
