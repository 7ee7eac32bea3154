"""The promises of `rag.watch`: scripted changes and a clock of our own, then real files."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest

from rag.engine import Engine
from rag.errors import BusyError, InputError, RagError
from rag.ingest import Report
from rag.watch import Told, watch, watchfiles_changes


class Script:
    """Changes that happen at set times of a clock that only this moves; stops at the end."""

    def __init__(self, *steps: tuple[float, Sequence[str] | Callable[[], None]]) -> None:
        self.now = 0.0
        self.steps = list(steps)
        self.opened: list[list[Path]] = []
        self.polled: list[bool] = []

    def clock(self) -> float:
        return self.now

    def __call__(
        self, folders: Sequence[Path], *, polling: bool, stop: threading.Event
    ) -> Generator[set[str]]:
        self.opened.append(list(folders))
        self.polled.append(polling)
        yield set()
        while self.steps:
            seconds, happens = self.steps.pop(0)
            self.now += seconds
            if callable(happens):
                happens()
                yield set()
            else:
                yield set(happens)
        stop.set()


class Ingests:
    """Notes when it was called and with what; raises what it is given, once each."""

    def __init__(self, script: Script, *errors: Exception | None) -> None:
        self.script = script
        self.errors = list(errors)
        self.at: list[float] = []
        self.paths: list[list[Path]] = []

    def __call__(self, paths: Sequence[Path]) -> Report:
        self.at.append(self.script.now)
        self.paths.append(list(paths))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return Report(generation=len(self.at))


def followed(script: Script, ingest: Ingests, *paths: Path, **options: object) -> list[object]:
    """Everything that was told, in order."""
    heard: list[object] = []
    told = Told(report=heard.append, error=heard.append, notice=heard.append)
    watch(
        paths, ingest, told=told, debounce=1, retry=5, changes=script, clock=script.clock, **options
    )  # type: ignore[arg-type]
    return heard


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def test_it_ingests_once_at_the_start(docs: Path) -> None:
    script = Script((1, []), (60, []))
    ingest = Ingests(script)
    heard = followed(script, ingest, docs)
    assert ingest.at == [0.0]
    assert ingest.paths == [[docs]]
    assert [report.generation for report in heard] == [1]  # type: ignore[attr-defined]


def test_many_changes_are_one_ingest_after_a_quiet_moment(docs: Path) -> None:
    burst = [(0.25, [str(docs / f"{n}.md")]) for n in range(8)]
    script = Script((10, []), *burst, (0.5, []), (0.5, []), (60, []))
    ingest = Ingests(script)
    followed(script, ingest, docs)
    assert ingest.at == [0.0, 13.0]


def test_changes_that_never_end_do_not_put_the_ingest_off_for_ever(docs: Path) -> None:
    script = Script(*[(0.5, [str(docs / "log.txt")])] * 30)
    ingest = Ingests(script)
    followed(script, ingest, docs)
    assert ingest.at == [0.0, 10.5]


@pytest.mark.parametrize(
    "name",
    [
        "4913", ".a.md.swp", "a.md~", "#a.md#", "a.md.tmp", "~$a.docx", "a.md.part",
        ".git/index.lock", "node_modules/x/readme.md", "sub/.hidden/a.md",
    ],
)  # fmt: skip
def test_what_editors_leave_beside_documents_is_no_change(docs: Path, name: str) -> None:
    script = Script((1, [str(docs / name)]), (5, []))
    ingest = Ingests(script)
    followed(script, ingest, docs)
    assert ingest.at == [0.0]


def test_a_rename_over_the_document_is_a_change(docs: Path) -> None:
    script = Script((1, [str(docs / "a.md.tmp"), str(docs / "a.md")]), (1, []))
    ingest = Ingests(script)
    followed(script, ingest, docs)
    assert ingest.at == [0.0, 2.0]


def test_a_hidden_folder_that_is_itself_watched_counts(tmp_path: Path) -> None:
    folder = tmp_path / ".notes"
    folder.mkdir()
    script = Script((1, [str(folder / "a.md")]), (1, []))
    ingest = Ingests(script)
    followed(script, ingest, folder)
    assert ingest.at == [0.0, 2.0]


def test_its_own_writing_is_no_change(docs: Path) -> None:
    script = Script((1, [str(docs / "indexes/default/store.db")]), (5, []))
    ingest = Ingests(script)
    followed(script, ingest, docs, ignore=[docs / "indexes"])
    assert ingest.at == [0.0]


def test_a_busy_knowledge_base_is_tried_again_later(docs: Path) -> None:
    script = Script((1, []), (3, []), (1, []), (10, []))
    busy = BusyError("Another process writes.")
    ingest = Ingests(script, busy)
    heard = followed(script, ingest, docs)
    assert ingest.at == [0.0, 5.0]
    assert heard[0] is busy
    assert isinstance(heard[1], Report)


@pytest.mark.parametrize("error", [InputError("No."), OSError("disk full"), ValueError("a bug")])
def test_another_error_is_told_and_the_next_change_tries_again(
    docs: Path, error: Exception
) -> None:
    script = Script((60, []), (1, [str(docs / "a.md")]), (1, []))
    ingest = Ingests(script, error)
    heard = followed(script, ingest, docs)
    assert ingest.at == [0.0, 62.0]
    assert isinstance(heard[0], RagError)
    assert isinstance(heard[1], Report)


def test_a_change_during_an_ingest_leads_to_another(docs: Path) -> None:
    script = Script((1, [str(docs / "a.md")]), (1, []), (1, []))

    class Slow(Ingests):
        def __call__(self, paths: Sequence[Path]) -> Report:
            report = super().__call__(paths)
            if len(self.at) == 1:  # while it works, the watcher collects
                script.steps.insert(0, (3, [str(docs / "b.md")]))
            return report

    ingest = Slow(script)
    followed(script, ingest, docs)
    assert ingest.at == [0.0, 5.0]


def test_a_folder_that_goes_and_comes_back_is_left_alone_in_between(
    docs: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    away = tmp_path / "away"
    script = Script(
        (1, lambda: docs.rename(away) and None), (1, []), (60, lambda: docs.mkdir()), (1, []),
        (1, []),
    )  # fmt: skip
    ingest = Ingests(script)
    heard = followed(script, ingest, docs, other)
    assert ingest.paths == [[docs, other], [other], [docs, other]]
    assert script.opened == [[docs, other], [other], [docs, other]]
    assert [told for told in heard if isinstance(told, str)] == [
        f"{docs} is gone; what was ingested from it is kept.",
        f"{docs} is back.",
    ]


def test_when_all_folders_are_gone_nothing_is_ingested(docs: Path) -> None:
    script = Script((1, docs.rmdir), (60, []))
    ingest = Ingests(script)
    followed(script, ingest, docs)
    assert ingest.at == [0.0]


def test_a_folder_replaced_between_two_looks_is_watched_anew(docs: Path) -> None:
    """Even where the new one has the number of the old: the watcher says that the root went."""
    script = Script((1, [str(docs)]), (1, []), (1, []))
    ingest = Ingests(script)
    followed(script, ingest, docs)
    assert script.opened == [[docs], [docs]]
    assert ingest.at == [0.0, 2.0]


def test_a_file_is_followed_through_a_rename_over_it(docs: Path) -> None:
    file = docs / "a.md"
    file.write_text("one")

    def saved() -> None:
        (docs / "new").write_text("two")
        (docs / "new").rename(file)

    script = Script((1, saved), (1, []), (5, []))
    ingest = Ingests(script)
    followed(script, ingest, file)
    assert script.opened == [[]]
    assert ingest.at == [0.0, 2.0]


def test_where_changes_are_not_announced_it_looks_for_them(docs: Path) -> None:
    script = Script((1, []))

    def limited(
        folders: Sequence[Path], *, polling: bool, stop: threading.Event
    ) -> Generator[set[str]]:
        if not polling:
            raise OSError("inotify watch limit reached")
        yield from script(folders, polling=polling, stop=stop)

    heard: list[str] = []
    ingest = Ingests(script)
    watch([docs], ingest, told=Told(notice=heard.append), changes=limited, clock=script.clock)
    assert script.polled == [True]
    assert "inotify watch limit" in heard[0]
    assert len(ingest.at) == 1


@pytest.mark.parametrize("during_ingest", [True, False])
def test_ctrl_c_ends_it_cleanly(docs: Path, during_ingest: bool) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    script = Script((1, interrupt))
    stop = threading.Event()

    def ingest(_paths: Sequence[Path]) -> Report:
        if during_ingest:
            raise KeyboardInterrupt
        return Report()

    watch([docs], ingest, stop=stop, changes=script, clock=script.clock)
    assert stop.is_set()


# --- real files -------------------------------------------------------------------------------


def real(docs: Path, *actions: Callable[[], object], polling: bool = False) -> list[list[str]]:
    """What stands in the folder at each ingest; the next action comes when one is done."""
    stop = threading.Event()
    seen: list[list[str]] = []
    todo: Iterator[Callable[[], object]] = iter(actions)

    def ingest(paths: Sequence[Path]) -> Report:
        found = [p for root in paths for p in root.rglob("*.md")]
        seen.append(sorted(f"{p.name}={p.read_text()}" for p in found))
        action = next(todo, None)
        if action is None:
            stop.set()
        else:
            action()
        return Report()

    def limited(
        folders: Sequence[Path], *, polling: bool, stop: threading.Event
    ) -> Generator[set[str]]:
        yield from itertools.islice(
            watchfiles_changes(folders, polling=polling, stop=stop), 80
        )  # some 20 seconds without what was waited for
        stop.set()

    watch([docs], ingest, stop=stop, debounce=0, polling=polling, changes=limited)
    return seen


@pytest.mark.slow
def test_the_ways_editors_save_are_seen(docs: Path) -> None:
    file = docs / "a.md"
    file.write_text("0")

    def write_beside_and_rename() -> None:
        (docs / "a.md.tmp").write_text("1")
        (docs / "a.md.tmp").rename(file)

    def as_vim_does() -> None:
        (docs / "4913").touch()
        (docs / "4913").unlink()
        file.rename(docs / "a.md~")
        file.write_text("2")
        (docs / "a.md~").unlink()

    def delete_and_create() -> None:
        file.unlink()
        file.write_text("3")

    seen = real(docs, write_beside_and_rename, as_vim_does, delete_and_create)
    told = list(dict.fromkeys(itertools.chain.from_iterable(seen)))
    assert told == ["a.md=0", "a.md=1", "a.md=2", "a.md=3"]


@pytest.mark.slow
@pytest.mark.parametrize("polling", [False, True])
def test_new_and_moved_folders_are_seen(docs: Path, tmp_path: Path, polling: bool) -> None:
    ready = tmp_path / "ready"
    (ready / "deep").mkdir(parents=True)
    (ready / "deep/b.md").write_text("b")

    seen = real(
        docs,
        lambda: ready.rename(docs / "in"),
        lambda: (docs / "in").rename(tmp_path / "out"),
        polling=polling,
    )
    assert [list(names) for names, _ in itertools.groupby(seen)] == [[], ["b.md=b"], []]


@pytest.mark.slow
def test_a_watched_folder_that_is_made_anew_at_once_is_still_followed(docs: Path) -> None:
    def replaced() -> None:
        docs.rmdir()
        docs.mkdir()

    def written() -> None:
        (docs / "a.md").write_text("new")

    seen = real(docs, replaced, written)
    assert seen[-1] == ["a.md=new"]


def test_the_whole_way_with_a_knowledge_base_inside_the_watched_folder(
    engine: Engine, docs: Path
) -> None:
    (docs / "a.md").write_text("# 甲")

    def saved() -> None:
        (docs / "a.md").unlink()
        (docs / "b.md").write_text("# 乙")

    script = Script((1, saved), (0, [str(docs / "a.md"), str(docs / "b.md")]), (1, []), (60, []))
    reports: list[Report] = []
    watch(
        [docs], lambda paths: engine.ingest(paths), told=Told(report=reports.append),
        changes=script, clock=script.clock, debounce=1, ignore=[engine.settings.indexes],
    )  # fmt: skip
    assert [(r.added, r.removed) for r in reports] == [(["a.md"], []), (["b.md"], ["a.md"])]


@pytest.mark.slow
def test_a_process_that_watches_ends_cleanly_by_ctrl_c(docs: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rag.watch import Told, watch;"
        "from rag.ingest import Report;"
        "watch([Path(sys.argv[1])], lambda paths: Report(),"
        " told=Told(report=lambda report: print('ready', flush=True)))"
    )
    command = [sys.executable, "-c", code, str(docs)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert (process.returncode, complaints) == (0, "")
