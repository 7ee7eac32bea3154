"""A folder as it would be if a recorded process, or the machine, had stopped after some step."""

from __future__ import annotations

import random
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.crash.recording import Step, files_in

_NAMES = ("create", "rename", "unlink", "mkdir", "rmdir")
_DATA = ("write", "truncate")
_SECTOR = 512


class Disk:
    """Names of files, and their contents by number."""

    def __init__(self, place: Path) -> None:
        files = files_in(place)
        self.names = {str(p.relative_to(place)): n for n, p in enumerate(files)}
        self.contents = {n: bytearray(p.read_bytes()) for n, p in enumerate(files)}
        self.folders = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_dir()}

    def apply(self, step: Step) -> None:
        if step.kind == "create":
            self.names[step.path] = step.file
            self.contents.setdefault(step.file, bytearray())
        elif step.kind == "rename":
            self._rename(step.path, step.target)
        elif step.kind == "unlink":
            self.names.pop(step.path, None)
        elif step.kind == "mkdir":
            self.folders.add(step.path)
        elif step.kind == "rmdir":
            self.folders.discard(step.path)
        elif step.kind == "truncate":
            data = self.contents.setdefault(step.file, bytearray())
            del data[step.offset :]
            data.extend(bytes(step.offset - len(data)))
        elif step.kind == "write":
            data = self.contents.setdefault(step.file, bytearray())
            data.extend(bytes(max(0, step.offset - len(data))))
            data[step.offset : step.offset + len(step.data)] = step.data

    def _rename(self, old: str, new: str) -> None:
        for path in [p for p in self.names if p == old or p.startswith(f"{old}/")]:
            self.names[new + path[len(old) :]] = self.names.pop(path)
        for path in [p for p in self.folders if p == old or p.startswith(f"{old}/")]:
            self.folders.discard(path)
            self.folders.add(new + path[len(old) :])

    def lay_out(self, within: Path) -> Path:
        """The folder, a new one each time: threads of those who opened the last may still write
        there. SQLite's WAL-index is left out: the first to open the database makes it anew."""
        shutil.rmtree(within, ignore_errors=True)
        place = within / secrets.token_hex(4)
        place.mkdir(parents=True)
        for folder in sorted(self.folders):
            (place / folder).mkdir(parents=True, exist_ok=True)
        for path, file in self.names.items():
            if not path.endswith("-shm"):
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(self.contents[file])
        return place


def after_kill(place: Path, steps: Sequence[Step]) -> Disk:
    """The process was killed after these steps: the system still writes all of them."""
    disk = Disk(place)
    for step in steps:
        disk.apply(step)
    return disk


def after_power_cut(place: Path, steps: Sequence[Step], generator: random.Random) -> Disk:
    """What was synced is there. Of later writes to a file any may have got to the disk, whole or by
    sectors from their beginning, in any order. Names change in their order (a journal): all changes
    before one that was synced are there, and some of those after."""
    disk = Disk(place)
    kept = generator.choice((0.0, 0.5, 1.0, generator.random()))
    for step in _names_kept(steps, generator):
        disk.apply(step)
    synced = {step.file: n for n, step in enumerate(steps) if step.kind == "sync"}
    for n, step in enumerate(steps):
        if step.kind in _DATA:
            if n < synced.get(step.file, -1):
                disk.apply(step)
            elif generator.random() < kept:
                disk.apply(_torn(step, generator))
    return disk


def _names_kept(steps: Sequence[Step], generator: random.Random) -> Iterable[Step]:
    created: dict[int, int] = {}
    durable = 0
    for n, step in enumerate(steps):
        if step.kind == "create":
            created[step.file] = n + 1
        elif step.kind == "sync":
            durable = max(durable, created.get(step.file, 0))
        elif step.kind == "sync_folder":
            durable = max(durable, n)
    until = generator.choice((durable, len(steps), generator.randint(durable, len(steps))))
    return [step for step in steps[:until] if step.kind in _NAMES]


def _torn(step: Step, generator: random.Random) -> Step:
    if step.kind != "write" or generator.random() < 0.7:
        return step
    cut = generator.randrange(0, len(step.data) + _SECTOR, _SECTOR)
    return Step("write", step.path, step.file, step.offset, step.data[:cut])
