"""A backup is one file, taken while the knowledge base is in use, and comes back whole or not."""

from __future__ import annotations

import json
import sqlite3
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag.errors import BusyError, DamagedStoreError, NotFoundError, StoreError
from rag.stores.embedded import EmbeddedStore, snapshot
from rag.stores.embedded.snapshot import backup, read_manifest, restore
from tests.test_generations import found_by
from tests.test_store_contract import EMBEDDER, MINE, Died, found, names, publish, put


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "indexes" / "base"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "base.zip"


@pytest.fixture
def opened() -> Iterator[Callable[[Path], EmbeddedStore]]:
    stores: list[EmbeddedStore] = []

    def open_one(place: Path) -> EmbeddedStore:
        stores.append(EmbeddedStore(place, keep_generations=2))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[Path], EmbeddedStore], place: Path) -> EmbeddedStore:
    store = opened(place)
    publish(store, ("a.md", "员工年假 old"), ("b.md", "hotel", "costs"), ("gone.md", "gone"))
    publish(store, ("a.md", "员工年假 new"), remove=["gone.md"])
    return store


def contents(place: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}


# --- taking ---------------------------------------------------------------------------------------


def test_what_is_published_comes_back_elsewhere(
    store: EmbeddedStore, place: Path, file: Path, opened: Callable[[Path], EmbeddedStore]
) -> None:
    manifest = backup(place, file)
    assert (manifest.knowledge_base, manifest.generation) == ("base", 2)
    assert (manifest.documents, manifest.chunks, manifest.fingerprint) == (2, 3, MINE)
    assert read_manifest(file) == manifest
    expected, embedded = found_by(EMBEDDER, store, "年假"), EMBEDDER.texts
    restored = place.parent / "other"
    assert restore(file, restored) == manifest
    again = opened(restored)
    assert again.documents() == store.documents()
    assert again.document("id-a.md") == store.document("id-a.md")
    assert again.chunks("id-b.md") == store.chunks("id-b.md")
    assert EMBEDDER.texts == embedded
    assert found_by(EMBEDDER, again, "年假") == expected
    assert [(g.documents, g.chunks, g.current) for g in again.generations()] == [(2, 3, True)]
    assert sorted(p.name for p in place.parent.iterdir()) == ["base", "other"]
    publish(again, ("c.md", "more"), remove=["b.md"])
    assert names(again) == ["a.md", "c.md"]
    again.rollback()
    assert names(again) == ["a.md", "b.md"]


def test_it_is_of_one_moment_while_an_ingest_goes_on(
    store: EmbeddedStore, place: Path, file: Path, opened: Callable[[Path], EmbeddedStore]
) -> None:
    with store.writer(MINE) as writer:
        put(writer, "staged.md", "quagga unpublished")
        writer.remove("file:b.md")
        backup(place, file)
        writer.publish()
    assert b"unpublished" not in file.read_bytes()
    assert b"gone" not in file.read_bytes()  # nor what an earlier generation showed
    restore(file, place.parent / "other")
    again = opened(place.parent / "other")
    assert names(again) == ["a.md", "b.md"]
    with again.writer(MINE) as writer:
        assert set(writer.known()) == {"file:a.md", "file:b.md"}


def test_backups_during_publishing_are_each_whole(
    store: EmbeddedStore, place: Path, tmp_path: Path, opened: Callable[[Path], EmbeddedStore]
) -> None:
    files, stop = [tmp_path / f"{n}.zip" for n in range(4)], threading.Event()

    def write() -> None:
        version = 0
        while not stop.is_set():
            version += 1
            publish(store, *((f"v{n}.md", f"version {version}") for n in range(3)))

    thread = threading.Thread(target=write)
    thread.start()
    for file in files:
        backup(place, file)
    stop.set()
    thread.join()
    for number, file in enumerate(files):
        restore(file, tmp_path / f"r{number}")
        texts = list(found(opened(tmp_path / f"r{number}"), "version"))
        versions = [text for text in texts if text.startswith("version")]
        assert len(set(versions)) <= 1
        assert sum(n.startswith("v") for n in names(opened(tmp_path / f"r{number}"))) in (0, 3)


def test_an_empty_knowledge_base_can_be_backed_up(
    opened: Callable[[Path], EmbeddedStore], place: Path, file: Path
) -> None:
    opened(place)
    assert backup(place, file).fingerprint is None
    restore(file, place, replace=True)
    store = opened(place)
    publish(store, ("a.md", "one"))
    assert names(store) == ["a.md"]


def test_there_must_be_something_to_back_up(tmp_path: Path, file: Path) -> None:
    with pytest.raises(NotFoundError):
        backup(tmp_path / "nothing", file)
    assert not (tmp_path / "nothing").exists()


def test_a_backup_that_cannot_be_written_leaves_the_one_before(
    store: EmbeddedStore, place: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(b"the one before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(StoreError, match="No space left"):
        backup(place, file)
    assert file.read_bytes() == b"the one before"
    assert [p.name for p in file.parent.iterdir() if p.name.startswith(".")] == []


# --- bringing back --------------------------------------------------------------------------------


def test_an_open_store_follows_to_what_was_put_in_its_place(
    store: EmbeddedStore, place: Path, file: Path, opened: Callable[[Path], EmbeddedStore]
) -> None:
    reader = opened(place)
    backup(place, file)
    for version in range(5):
        publish(store, ("a.md", f"later {version}"), (f"{version}.md", "zebra"))
    stamps = {store.stamp, reader.stamp}
    assert reader.refresh()
    stamps.add(reader.stamp)
    restore(file, place, replace=True)
    for each in (reader, store, opened(place)):
        each.refresh()
        assert found(each, "年假 zebra") == {
            "员工年假 new": "a.md",
            "hotel": "b.md",
            "costs": "b.md",
        }
        assert names(each) == ["a.md", "b.md"]
        assert each.generation == 8
        assert each.stamp not in stamps
    publish(store, ("c.md", "after"))
    reader.refresh()
    assert names(reader) == names(store) == ["a.md", "b.md", "c.md"]
    assert set(found(reader, "after")) == set(found(store, "after"))


def test_the_identity_is_another_one(store: EmbeddedStore, place: Path, file: Path) -> None:
    backup(place, file)
    identities = {store.stamp.partition(":")[0]}
    for name in ("one", "two"):
        restore(file, place.parent / name)
        again = EmbeddedStore(place.parent / name)
        identities.add(again.stamp.partition(":")[0])
        again.close()
    assert len(identities) == 3


def test_what_is_there_is_replaced_only_when_asked(
    store: EmbeddedStore, place: Path, file: Path
) -> None:
    backup(place, file)
    publish(store, ("c.md", "later"))
    with pytest.raises(StoreError, match="already") as caught:
        restore(file, place)
    assert "--replace" in caught.value.hint
    store.refresh()
    assert names(store) == ["a.md", "b.md", "c.md"]


def test_a_damaged_knowledge_base_can_be_replaced(
    store: EmbeddedStore, place: Path, file: Path, opened: Callable[[Path], EmbeddedStore]
) -> None:
    backup(place, file)
    store.close()
    for path in place.glob("knowledge.db*"):
        path.write_bytes(b"\x5a" * 8192)
    restore(file, place, replace=True)
    assert names(opened(place)) == ["a.md", "b.md"]


def test_nothing_is_replaced_while_it_is_written_to(
    store: EmbeddedStore, place: Path, file: Path
) -> None:
    backup(place, file)
    with store.writer(MINE), pytest.raises(BusyError):
        restore(file, place, replace=True)
    assert names(store) == ["a.md", "b.md"]
    assert [p.name for p in place.parent.iterdir()] == ["base"]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def flipped_manifest(data: bytes) -> bytes:
    return data.replace(b'"chunks": 3', b'"chunks": 4', 1)


@pytest.mark.parametrize(
    "harm",
    [cut, flipped, flipped_manifest, lambda _: b"", lambda _: b"no zip" * 100],
    ids=["cut", "flipped", "manifest", "empty", "no zip"],
)
def test_a_damaged_file_changes_nothing(
    store: EmbeddedStore, place: Path, file: Path, harm: Callable[[bytes], bytes]
) -> None:
    backup(place, file)
    file.write_bytes(harm(file.read_bytes()))
    store.close()
    before = contents(place)
    for target, replace in ((place, True), (place.parent / "other", False)):
        with pytest.raises(DamagedStoreError, match=r"base\.zip") as caught:
            restore(file, target, replace=replace)
        assert "Nothing was changed" in caught.value.hint
    assert contents(place) == before
    assert [p.name for p in place.parent.iterdir()] == ["base"]


def made_over(file: Path, change: Callable[[dict[str, object]], None]) -> None:
    """The same backup with another manifest."""
    with zipfile.ZipFile(file) as archive:
        told = json.loads(archive.read("manifest.json"))
        database = archive.read("knowledge.db")
    change(told)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.json", json.dumps(told))
        archive.writestr("knowledge.db", database)


def test_a_newer_format_is_refused_by_name(store: EmbeddedStore, place: Path, file: Path) -> None:
    backup(place, file)
    made_over(file, lambda told: told.update(format=99, unknown="field"))
    with pytest.raises(StoreError, match="format 99") as caught:
        restore(file, place, replace=True)
    assert "upgrade" in caught.value.hint.lower()


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop("format"),
        lambda told: told.pop("members"),
        lambda told: told.update(members={"../../evil": {"bytes": 1, "sha256": ""}}),
        lambda told: told.update(fingerprint={"model": "x"}),
        lambda told: told.update(more=1),
        lambda told: told.update(documents=7),
    ],
)
def test_a_manifest_that_is_not_ours_changes_nothing(
    store: EmbeddedStore, place: Path, file: Path, change: Callable[[dict[str, object]], None]
) -> None:
    backup(place, file)
    made_over(file, change)
    with pytest.raises(DamagedStoreError):
        restore(file, place, replace=True)
    assert names(store) == ["a.md", "b.md"]


def test_a_backup_brings_no_code(
    store: EmbeddedStore, place: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = snapshot._describe

    def with_a_trigger(db: sqlite3.Connection, copy: Path, name: str) -> snapshot.Manifest:
        db.execute("CREATE TRIGGER evil AFTER INSERT ON documents BEGIN DELETE FROM chunks; END")
        db.commit()
        return whole(db, copy, name)

    monkeypatch.setattr(snapshot, "_describe", with_a_trigger)
    backup(place, file)
    with pytest.raises(DamagedStoreError, match="evil"):
        restore(file, place, replace=True)


def test_a_restore_that_dies_before_the_swap_changes_nothing(
    store: EmbeddedStore, place: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(place, file)
    publish(store, ("c.md", "later"))

    def die(*_: object) -> None:
        raise Died

    monkeypatch.setattr(snapshot, "_swap", die)
    with pytest.raises(Died):
        restore(file, place, replace=True)
    assert names(store) == ["a.md", "b.md", "c.md"]


def test_a_second_rename_that_fails_is_taken_back(
    store: EmbeddedStore, place: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(place, file)
    whole = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "coming":
            raise OSError(13, "Permission denied")
        return whole(self, target)

    monkeypatch.setattr(snapshot, "exchange", lambda *_: False)  # a system that cannot
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(StoreError, match="Permission denied"):
        restore(file, place, replace=True)
    assert names(store) == ["a.md", "b.md"]


def test_no_such_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        restore(tmp_path / "nowhere.zip", tmp_path / "base")
