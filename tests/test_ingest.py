"""Only what changed is read, embedded and stored; nothing is lost; every failure is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine
from rag.errors import EmbedderError, LoadError, RagError
from rag.files import Upload
from rag.ingest import Ingest, Plan, Progress, Report, Source
from rag.types import Chunk, Content, Document, Element
from tests.fakes import FakeEmbedder

if TYPE_CHECKING:
    from rag.types import Matrix

Folder = Callable[..., Path]


class Recording(FakeEmbedder):
    """Remembers each text it embedded; breaks down when asked for a text that holds `fails_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded: list[str] = []
        self.fails_on: str | None = None

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        if self.fails_on and any(self.fails_on in text for text in texts):
            raise EmbedderError("The embedder broke down.", "Try again.")
        self.embedded.extend(texts)
        return super().embed_documents(texts)


@pytest.fixture
def embedder() -> Recording:
    return Recording()


@pytest.fixture
def engine(settings: Settings, embedder: Recording) -> Iterator[Engine]:
    engine = Engine(settings, choose=lambda *_: Choice(embedder, "a fake, for tests"))
    yield engine
    engine.close()


def names(engine: Engine) -> list[str]:
    return [info.name for info in engine.store("default").documents()]


@dataclass
class Made:
    """A source made for a test."""

    name: str
    text: str = "words"
    uri: str = ""
    reads: int = 0
    error: Exception | None = None
    chunks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.uri = self.uri or f"made:{self.name}"

    def read(self) -> bytes:
        self.reads += 1
        if self.error:
            raise self.error
        return self.text.encode()

    def load(self, data: bytes) -> Content:
        text = data.decode()
        whole = Element("text", 0, len(text))
        return Content(type="txt", title=self.name, text=text, elements=(whole,))


class OneLineOneChunk:
    """A splitter whose chunks are the lines."""

    settings = "lines"

    def split(self, document: Document) -> list[Chunk]:
        chunks, start = [], 0
        for line in document.text.split("\n"):
            chunks.append(
                Chunk(
                    document_id=document.id,
                    ordinal=len(chunks),
                    start=start,
                    end=start + len(line),
                    text=line,
                )
            )
            start += len(line) + 1
        return chunks


def run(
    engine: Engine,
    embedder: FakeEmbedder,
    sources: Sequence[Source],
    splitter: object = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """An ingest without an engine round it, into the engine's store."""
    ingest = Ingest(
        embedder=embedder,
        splitter=splitter or OneLineOneChunk(),  # type: ignore[arg-type]
        settings_key="k",
        on_progress=on_progress,
    )
    store = engine.bases.open_store("default")
    with store.writer(embedder.fingerprint) as writer:
        return ingest.run(Plan(sources), writer)


# --- only what changed ----------------------------------------------------------------------------


def test_a_first_run_adds_everything(engine: Engine, folder: Folder) -> None:
    report = engine.ingest([folder(**{"a.md": "# A\n\n年假。", "sub/b.txt": "hotel"})])
    assert (report.added, report.failed, report.exit_code) == (["a.md", "sub/b.txt"], [], 0)
    assert (report.generation, report.chunks, report.embedded) == (1, 2, 2)
    assert names(engine) == ["a.md", "sub/b.txt"]


def test_unchanged_files_are_neither_parsed_nor_embedded_again(
    engine: Engine, embedder: Recording, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(**{"a.md": "年假。", "b.md": "hotel"})
    engine.ingest([root])
    embedder.embedded.clear()
    monkeypatch.setattr("rag.files.load", lambda *_, **__: pytest.fail("an unchanged file parsed"))
    report = engine.ingest([root])
    assert report.unchanged == ["a.md", "b.md"]
    assert (report.generation, report.exit_code) == (1, 0)
    assert embedder.embedded == []


def test_a_changed_file_is_replaced_and_only_it_is_embedded(
    engine: Engine, embedder: Recording, folder: Folder
) -> None:
    folder(**{"a.md": "旧的年假规定。", "b.md": "hotel"})
    engine.ingest([folder()])
    embedder.embedded.clear()
    report = engine.ingest([folder(**{"a.md": "新的年假规定。"})])
    assert (report.changed, report.unchanged, report.generation) == (["a.md"], ["b.md"], 2)
    assert len(embedder.embedded) == 1
    texts = {h.chunk.text for h in engine.retrieve("年假规定", top_k=9)}
    assert texts == {"新的年假规定。", "hotel"}


def test_other_settings_read_everything_again(
    engine: Engine, settings: Settings, folder: Folder, embedder: Recording
) -> None:
    root = folder(**{"a.md": "年假。" * 60})
    engine.ingest([root])
    engine.close()
    other = Engine(
        settings.model_copy(update={"chunk_tokens": 64}), choose=lambda *_: Choice(embedder, "")
    )
    assert other.ingest([root]).changed == ["a.md"]
    other.close()


def test_equal_text_is_embedded_once(engine: Engine, embedder: Recording) -> None:
    sources = [Made("a.txt", "one\ntwo\none"), Made("b.txt", "two\nthree")]
    report = run(engine, embedder, sources)
    assert sorted(embedder.embedded) == ["one", "three", "two"]
    assert (report.chunks, report.embedded) == (5, 3)
    run(engine, embedder, [Made("c.txt", "three\nfour")])
    assert sorted(embedder.embedded) == ["four", "one", "three", "two"]


# --- what vanished --------------------------------------------------------------------------------


def test_a_vanished_file_is_removed_only_below_the_ingested_folder(
    engine: Engine, folder: Folder
) -> None:
    root = folder(**{"x/a.md": "a", "x/b.md": "b", "y/c.md": "c", "y/d.md": "d"})
    engine.ingest([root])
    (root / "x/a.md").unlink()
    (root / "y/c.md").unlink()
    report = engine.ingest([root / "x"])
    assert report.removed == ["x/a.md"]
    assert names(engine) == ["x/b.md", "y/c.md", "y/d.md"]
    assert engine.ingest([root]).removed == ["y/c.md"]


def test_a_single_file_never_removes_another(engine: Engine, folder: Folder) -> None:
    root = folder(**{"a.md": "a", "b.md": "b"})
    engine.ingest([root])
    (root / "a.md").unlink()
    assert engine.ingest([root / "b.md"]).removed == []
    assert names(engine) == ["a.md", "b.md"]


@pytest.mark.parametrize("left", [None, ".hidden.md", "picture.gif"])
def test_an_emptied_folder_keeps_its_documents_and_says_so(
    engine: Engine, folder: Folder, left: str | None
) -> None:
    root = folder(**{"a.md": "a"})
    engine.ingest([root])
    (root / "a.md").unlink()
    if left:
        folder(**{left: "x"})
    report = engine.ingest([root])
    assert (report.removed, names(engine)) == ([], ["a.md"])
    assert len(report.notes) == 1
    assert "kept" in report.notes[0]


def test_a_moved_file_costs_no_embedding_and_is_there_once(
    engine: Engine, embedder: Recording, folder: Folder
) -> None:
    root = folder(**{"old/a.md": "# A\n\n年假。", "b.md": "hotel"})
    engine.ingest([root])
    embedder.embedded.clear()
    (root / "new").mkdir()
    (root / "old/a.md").rename(root / "new/renamed.md")
    report = engine.ingest([root])
    assert (report.added, report.removed) == (["new/renamed.md"], ["old/a.md"])
    assert embedder.embedded == []
    assert names(engine) == ["b.md", "new/renamed.md"]


def test_a_file_moved_to_another_ingested_folder_is_there_once(
    engine: Engine, embedder: Recording, folder: Folder
) -> None:
    root = folder(**{"x/a.md": "# A\n\n年假。", "x/c.md": "c", "y/b.md": "hotel"})
    engine.ingest([root])
    embedder.embedded.clear()
    (root / "x/a.md").rename(root / "y/a.md")
    assert engine.ingest([root / "y"]).removed == ["x/a.md"]
    assert names(engine) == ["a.md", "x/c.md", "y/b.md"]
    assert embedder.embedded == []


def test_a_copied_file_is_a_second_document(engine: Engine, folder: Folder) -> None:
    root = folder(**{"a.md": "# A\n\nx"})
    engine.ingest([root])
    report = engine.ingest([folder(**{"b.md": "# A\n\nx"})])
    assert (report.added, report.removed) == (["b.md"], [])


# --- failures -------------------------------------------------------------------------------------


def test_a_file_that_can_no_longer_be_read_keeps_its_old_version_and_is_named(
    engine: Engine, folder: Folder
) -> None:
    root = folder(**{"a.md": "年假。", "b.md": "hotel", "c.json": "{}"})
    (root / "c.json").write_text('{"x": "words"}')
    engine.ingest([root])
    folder(**{"a.md": b"", "c.json": "{broken"})
    report = engine.ingest([root])
    assert [(f.name, f.code) for f in report.failed] == [
        ("a.md", "empty_file"),
        ("c.json", "damaged_file"),
    ]
    assert all(f.reason for f in report.failed)
    assert report.exit_code == 3
    assert names(engine) == ["a.md", "b.md", "c.json"]
    assert engine.find("a.md").text == "年假。"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"a.md": "a"}, 0),
        ({"a.md": "a", "bad.pdf": "not a pdf"}, 3),
        ({"bad.pdf": "not a pdf"}, 1),
        ({"a.md": "a", "b.xyz": "x"}, 0),
        ({}, 0),
    ],
)
def test_the_exit_code_tells_all_some_or_none(
    engine: Engine, folder: Folder, files: dict[str, str], code: int
) -> None:
    root = folder(**files)
    root.mkdir(exist_ok=True)
    assert engine.ingest([root]).exit_code == code


def test_a_file_of_another_type_is_skipped_by_name(engine: Engine, folder: Folder) -> None:
    report = engine.ingest([folder(**{"a.md": "a", "sub/b.xyz": "x"})])
    assert [(f.name, f.code) for f in report.skipped] == [("sub/b.xyz", "unsupported_type")]
    assert names(engine) == ["a.md"]


def test_an_embedder_that_breaks_down_shows_nothing_and_repeats_nothing(
    engine: Engine, embedder: Recording
) -> None:
    lines = ["\n".join(f"{d}/{n}" for n in range(50)) for d in range(10)]
    sources = [Made(f"{d}.txt", text) for d, text in enumerate(lines)]
    embedder.fails_on = "8/40"
    with pytest.raises(EmbedderError):
        run(engine, embedder, sources)
    assert names(engine) == []
    assert len(embedder.embedded) > 300
    embedder.fails_on = None
    run(engine, embedder, sources)
    assert names(engine) == [f"{d}.txt" for d in range(10)]
    assert len(set(embedder.embedded)) == 500
    again = {text for text in embedder.embedded if embedder.embedded.count(text) > 1}
    assert {text.split("/")[0] for text in again} <= {"8"}  # the document it broke down in


def test_finished_documents_of_the_batch_that_broke_are_kept(
    engine: Engine, embedder: Recording
) -> None:
    sources = [Made(f"{d}.txt", "\n".join(f"{d}/{n}" for n in range(64))) for d in range(4)]
    embedder.fails_on = "2/"
    with pytest.raises(EmbedderError):
        run(engine, embedder, sources)
    embedder.fails_on = None
    report = run(engine, embedder, sources)
    assert sorted(report.unchanged) == ["0.txt", "1.txt"]
    assert len(embedder.embedded) == len(set(embedder.embedded)) == 256


def test_a_broken_run_leaves_the_published_version_alone(
    engine: Engine, embedder: Recording, folder: Folder
) -> None:
    root = folder(**{"a.md": "旧的"})
    engine.ingest([root])
    folder(**{"a.md": "新的 boom"})
    embedder.fails_on = "boom"
    with pytest.raises(EmbedderError):
        engine.ingest([root])
    assert engine.find("a.md").text == "旧的"
    embedder.fails_on = None
    engine.ingest([root])
    assert engine.find("a.md").text == "新的 boom"


def test_a_model_that_never_worked_does_not_bind_the_knowledge_base(
    engine: Engine, embedder: Recording, folder: Folder
) -> None:
    embedder.fails_on = "a"
    with pytest.raises(EmbedderError):
        engine.ingest([folder(**{"a.md": "a"})])
    assert engine.store("default").fingerprint is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("a bug"), "RuntimeError: a bug"),
        (MemoryError(), "MemoryError"),
        (EmbedderError("no tokens"), "no tokens"),
    ],
)
def test_an_error_while_reading_ends_the_run_and_does_not_hang_it(
    engine: Engine, embedder: Recording, error: Exception, told: str
) -> None:
    sources = [Made("a.txt"), Made("b.txt", error=error), Made("c.txt")]
    before = threading.active_count()
    with pytest.raises(RagError, match=told):
        run(engine, embedder, sources)
    assert threading.active_count() == before
    assert names(engine) == []


def test_a_broken_run_stops_reading(engine: Engine, embedder: Recording) -> None:
    sources = [Made(f"{n}.txt", f"boom {n}\n" * 300) for n in range(200)]
    embedder.fails_on = "boom"
    with pytest.raises(EmbedderError):
        run(engine, embedder, sources)
    assert sum(source.reads for source in sources) < 100


def test_one_bad_source_does_not_stop_the_others(engine: Engine, embedder: Recording) -> None:
    bad = Made("b.txt", error=LoadError("b.txt is bad.", "Mend it."))
    report = run(engine, embedder, [Made("a.txt"), bad, Made("c.txt")])
    assert report.added == ["a.txt", "c.txt"]
    assert [(f.name, f.reason, f.hint) for f in report.failed] == [
        ("b.txt", "b.txt is bad.", "Mend it.")
    ]


# --- tags, dry run, progress ----------------------------------------------------------------------


def test_tags_are_kept_unless_given(engine: Engine, folder: Folder) -> None:
    def tags() -> list[tuple[str, ...]]:
        return [info.tags for info in engine.store("default").documents()]

    root = folder(**{"a.md": "a"})
    engine.ingest([root], tags=["hr", "公开", "hr"])
    assert tags() == [("hr", "公开")]
    engine.ingest([root])
    assert tags() == [("hr", "公开")]
    engine.ingest([folder(**{"a.md": "changed"})])
    assert tags() == [("hr", "公开")]
    assert engine.ingest([root], tags=["it"]).changed == ["a.md"]
    assert tags() == [("it",)]
    engine.ingest([root], tags=[])
    assert tags() == [()]


def test_new_tags_cost_no_embedding(engine: Engine, embedder: Recording, folder: Folder) -> None:
    root = folder(**{"a.md": "a"})
    engine.ingest([root])
    embedder.embedded.clear()
    engine.ingest([root], tags=["hr"])
    assert embedder.embedded == []


def test_a_dry_run_tells_what_would_happen_and_changes_nothing(
    engine: Engine, embedder: Recording, folder: Folder
) -> None:
    root = folder(**{"a.md": "a", "b.md": "b", "c.md": "c", "x.mp3": "x"})
    engine.ingest([root])
    embedder.embedded.clear()
    (root / "c.md").unlink()
    folder(**{"b.md": "other", "d.md": "new"})
    before = engine.store("default").documents()
    report = engine.ingest([root], dry_run=True)
    assert report.dry_run
    assert (report.added, report.changed) == (["d.md"], ["b.md"])
    assert (report.unchanged, report.removed) == (["a.md"], ["c.md"])
    assert [f.name for f in report.skipped] == ["x.mp3"]
    assert engine.store("default").documents() == before
    assert engine.store("default").generation == 1
    assert embedder.embedded == []
    real = engine.ingest([root])
    assert (real.added, real.changed, real.removed) == (
        report.added,
        report.changed,
        report.removed,
    )


def test_progress_never_goes_back_and_ends_complete(engine: Engine, embedder: Recording) -> None:
    run(engine, embedder, [Made(f"{n}.txt", "same") for n in range(0, 60, 2)])
    seen: list[Progress] = []
    sources = [
        Made(f"{n}.txt", "same" if n % 2 == 0 else "\n".join(f"{n}/{i}" for i in range(9)))
        for n in range(60)
    ]
    run(engine, embedder, sources, on_progress=seen.append)
    steps = [(p.files_done, p.chunks_done, p.chunks_found, p.seconds) for p in seen]
    for one, two in pairwise(steps):
        assert all(a <= b for a, b in zip(one, two, strict=True))
    assert all(p.chunks_done <= p.chunks_found and p.files == 60 for p in seen)
    assert steps[-1][:3] == (60, 270, 270)


# --- uploads --------------------------------------------------------------------------------------


def upload(name: str, data: bytes = b"words") -> Upload:
    return Upload(name, len(data), lambda: data)


def test_an_upload_replaces_the_one_of_its_name(engine: Engine, folder: Folder) -> None:
    engine.ingest_uploads([upload("a.md", "第一版".encode())])
    report = engine.ingest_uploads([upload("a.md", "第二版".encode()), upload("b.md")])
    assert (report.changed, report.added) == (["a.md"], ["b.md"])
    engine.ingest([folder(**{"c.md": "c"})])
    assert names(engine) == ["a.md", "b.md", "c.md"]


@pytest.mark.parametrize(
    ("given", "name"),
    [("../../etc/a.md", "a.md"), ("C:\\docs\\a.md", "a.md"), (" 手册.md ", "手册.md")],
)
def test_an_upload_has_a_bare_name(engine: Engine, given: str, name: str) -> None:
    assert engine.ingest_uploads([upload(given)]).added == [name]


@pytest.mark.parametrize("given", ["", "..", "folder/", " "])
def test_an_upload_without_a_name_is_refused(engine: Engine, given: str) -> None:
    report = engine.ingest_uploads([upload(given)])
    assert [f.code for f in report.failed] == ["load"]
    assert report.exit_code == 1


def test_an_upload_that_is_too_large_is_never_read(engine: Engine) -> None:
    huge = Upload("a.md", 10**12, lambda: pytest.fail("read"))
    assert [f.code for f in engine.ingest_uploads([huge]).failed] == ["file_too_large"]
