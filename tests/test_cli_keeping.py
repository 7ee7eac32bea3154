"""Keeping a knowledge base sound from the command line: real processes on real files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.desks import Desk, done, parsed, ready_cache, set_up

pytestmark = pytest.mark.slow

QUESTION = "How many days of annual leave?"


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = set_up(
        tmp_path_factory.mktemp("keeping") / "desk", ready_cache(tmp_path_factory.mktemp("cache"))
    )
    folder = desk.root / "documents"
    folder.mkdir()
    (folder / "leave.md").write_text("# Leave\n\nAnnual leave is 15 days a year.\n", "utf-8")
    (folder / "travel.md").write_text("# Travel\n\nA hotel costs at most 650.\n", "utf-8")
    done(desk.rag("ingest", "documents"))
    return desk


@pytest.fixture
def desk(ingested: Desk, tmp_path: Path) -> Desk:
    """Two documents, ingested once; a copy of its own."""
    root = tmp_path / "desk"
    shutil.copytree(ingested.root, root)
    return Desk(root, ingested.env)


def answer(desk: Desk) -> str:
    return done(desk.rag("ask", QUESTION)).stdout


def test_a_sound_knowledge_base_is_proved_sound(desk: Desk) -> None:
    assert "All of them agree." in done(desk.rag("verify")).stdout
    found = parsed(desk.rag("verify", "--json", "--recall"))
    assert (found["ok"], found["documents"], found["generation"]) == (True, 2, 1)
    assert "recall@10 1.000" in done(desk.rag("status")).stdout
    assert "There is no knowledge base" in done(desk.rag("verify", "--kb", "none"), 1).stderr


def test_damage_is_named_and_mended_without_embedding(desk: Desk) -> None:
    before = answer(desk)
    base = desk.root / "indexes" / "default"
    shutil.rmtree(next(base.glob("keywords-*")))
    finished = done(desk.rag("verify"), 1)
    assert "bad   keyword index" in finished.stdout
    assert "Mend it with: rag repair" in finished.stderr
    done(desk.rag("repair", RAG_EMBEDDING='["there/is-no-such-model"]'))
    done(desk.rag("verify"))
    assert answer(desk) == before


def test_what_was_backed_up_comes_back_whole(desk: Desk) -> None:
    before = answer(desk)
    assert "2 documents" in done(desk.rag("backup", "kb.zip")).stdout
    done(desk.rag("docs", "rm", "leave.md"))
    assert answer(desk) != before
    assert "--replace" in done(desk.rag("restore", "kb.zip"), 1).stderr
    done(desk.rag("restore", "kb.zip", "--replace"))
    assert answer(desk) == before
    done(desk.rag("restore", "kb.zip", "--kb", "copy"))
    assert done(desk.rag("ask", QUESTION, "--kb", "copy")).stdout == before
    done(desk.rag("verify"))


def test_a_damaged_backup_changes_nothing(desk: Desk) -> None:
    before = answer(desk)
    done(desk.rag("backup", "kb.zip"))
    archive = desk.root / "kb.zip"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    done(desk.rag("restore", "kb.zip", "--replace"), 1)
    assert answer(desk) == before


def test_an_earlier_generation_comes_back_until_it_is_let_go(desk: Desk) -> None:
    before = answer(desk)
    done(desk.rag("docs", "rm", "leave.md"))
    assert answer(desk) != before
    listed = done(desk.rag("rollback", "--list")).stdout
    assert "GENERATION" in listed
    assert "now" in listed
    done(desk.rag("rollback"))
    assert answer(desk) == before
    done(desk.rag("gc"))
    assert done(desk.rag("rollback"), 1).stderr.startswith("Error: ")
    assert answer(desk) == before
    done(desk.rag("verify"))


def test_a_knowledge_base_is_deleted_for_good_when_one_says_yes(desk: Desk) -> None:
    before = answer(desk)
    asked = done(desk.rag("drop", "default", said="n\n"), 1)
    assert "2 documents" in asked.stdout
    assert answer(desk) == before
    done(desk.rag("drop", "default", "--yes"))
    assert not list((desk.root / "indexes").glob("*default*"))
    assert "There is no knowledge base" in done(desk.rag("ask", QUESTION), 1).stderr
    assert "There is no knowledge base" in done(desk.rag("drop", "default", "--yes"), 1).stderr
    done(desk.rag("ingest", "documents"))
    assert answer(desk) == before
