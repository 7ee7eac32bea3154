"""What a process did to the files of one folder, read from strace's record of its system calls."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,read,readv,ftruncate,truncate,"
    "fallocate,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,mkdir,"
    "mkdirat,rmdir,link,linkat,symlink,symlinkat,close,dup,dup2,dup3,mmap,sendfile,copy_file_range,"
    "fork,vfork"
)


@dataclass(frozen=True)
class Step:
    """One change. `file` numbers a file whatever its name is at the time.

    create (path, file), truncate (file, offset: the new length), write (file, offset, data),
    sync (file), sync_folder (path), rename (path, target), unlink, mkdir, rmdir (path), mark.
    """

    kind: str
    path: str = ""
    file: int = -1
    offset: int = 0
    data: bytes = b""
    target: str = ""


def record(command: list[str], place: Path, trace: Path, mark: str, before: Path) -> list[Step]:
    """Runs `python COMMAND` under strace; it works on `place`, of which `before` is a copy."""
    subprocess.run(
        [
            *("strace", "-f", "-s", "100000000", "-xx", "-o", trace, "-e", f"trace={CALLS}"),
            *(sys.executable, *command),
        ],
        check=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    return steps_of(trace.read_text(), place, mark, before)


def files_in(place: Path) -> list[Path]:
    return sorted(p for p in place.rglob("*") if p.is_file())


_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


def _finished_calls(trace: str) -> list[tuple[str, str, int]]:
    """(name, arguments, result) in the order in which the calls ended."""
    calls, begun = [], {}
    for line in trace.splitlines():
        if broken := _UNFINISHED.match(line):
            begun[broken[1]] = f"{broken[1]} {broken[2]}({broken[3]}"
            continue
        if resumed := _RESUMED.match(line):
            line = begun.pop(resumed[1]) + resumed[3]
        if whole := _LINE.match(line):
            if whole[4] == "?":
                continue
            calls.append((whole[2], whole[3], int(whole[4], 0)))
    return calls


def _texts(arguments: str) -> list[bytes]:
    found = _TEXT.findall(arguments)
    assert not any(cut for _, cut in found), "strace has shortened a string"
    return [bytes.fromhex(text.replace("\\x", "")) for text, _ in found]


class _Open:
    def __init__(self, path: str, file: int, *, append: bool) -> None:
        self.path, self.file, self.append, self.position = path, file, append, 0


class _Reader:
    def __init__(self, place: Path, before: Path) -> None:
        self.place = place
        self.steps: list[Step] = []
        self.names = {str(p.relative_to(before)): n for n, p in enumerate(files_in(before))}
        self.next_file = len(self.names)
        self.open: dict[int, _Open] = {}
        self.others: dict[int, str] = {}  # whatever else is open: folders among it

    def inside(self, path: str) -> str | None:
        prefix = str(self.place)
        if path == prefix:
            return "."
        return path[len(prefix) + 1 :] if path.startswith(prefix + "/") else None

    def resolve(self, folder: str, path: bytes) -> str:
        name = path.decode()
        if name.startswith("/") or folder == "AT_FDCWD":
            return name
        return f"{self.others.get(int(folder), '?')}/{name}"

    def add(self, kind: str, **values: object) -> None:
        self.steps.append(Step(kind, **values))  # type: ignore[arg-type]


def steps_of(trace: str, place: Path, mark: str, before: Path) -> list[Step]:
    reader = _Reader(place, before)
    for name, arguments, result in _finished_calls(trace):
        if name == "openat" and mark.encode() in _texts(arguments):
            reader.add("mark")
        if result >= 0:
            _take(reader, name, arguments, result)
    return reader.steps


def _take(reader: _Reader, name: str, arguments: str, result: int) -> None:
    parts = [part.strip() for part in _TEXT.sub("TEXT", arguments).split(",")]
    texts = _texts(arguments) if name not in ("read", "readv") else []
    if name in ("open", "openat", "creat"):
        _take_open(reader, name, parts, texts, result)
    elif name == "close":
        reader.open.pop(int(parts[0]), None)
        reader.others.pop(int(parts[0]), None)
    elif name in ("rename", "renameat", "renameat2"):
        folders = ("AT_FDCWD", "AT_FDCWD") if name == "rename" else (parts[0], parts[2])
        _take_rename(reader, *(reader.resolve(f, t) for f, t in zip(folders, texts, strict=True)))
    elif name in ("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"):
        folder = parts[0] if name.endswith("at") else "AT_FDCWD"
        path = reader.inside(reader.resolve(folder, texts[0]))
        kind = name.removesuffix("at")
        if path is not None:
            kind = "rmdir" if "AT_REMOVEDIR" in arguments else kind
            reader.names.pop(path, None)
            reader.add(kind, path=path)
    elif name == "mmap":
        _take_mmap(reader, parts)
    elif name in ("symlink", "symlinkat"):
        # What is linked there is only read by that name, and nobody looks there after a crash.
        assert b".next/" in texts[1], texts
    elif name in ("fork", "vfork", "dup", "dup2", "dup3", "link", "linkat"):
        assert not (parts[0].isdigit() and int(parts[0]) in reader.open), name
        inside = [t for t in texts if reader.inside(t.decode()) is not None]
        assert not inside, f"{name} {inside}"
    elif parts[0].isdigit() and int(parts[0]) in reader.open:
        _take_data(reader, name, parts, texts, result)
    elif name in ("fsync", "fdatasync") and int(parts[0]) in reader.others:
        path = reader.inside(reader.others[int(parts[0])])
        if path is not None:
            reader.add("sync_folder", path=path)


def _take_open(
    reader: _Reader, name: str, parts: list[str], texts: list[bytes], result: int
) -> None:
    folder = parts[0] if name == "openat" else "AT_FDCWD"
    flags = "O_CREAT|O_TRUNC" if name == "creat" else parts[2 if name == "openat" else 1]
    whole = reader.resolve(folder, texts[0])
    path = reader.inside(whole)
    if path is None or "O_DIRECTORY" in flags or path == "." or (reader.place / path).is_dir():
        reader.others[result] = whole
        return
    if path not in reader.names:
        if "O_CREAT" not in flags:  # a folder that is there no more
            reader.others[result] = whole
            return
        reader.names[path] = reader.next_file
        reader.next_file += 1
        reader.add("create", path=path, file=reader.names[path])
    elif "O_TRUNC" in flags:
        reader.add("truncate", file=reader.names[path], path=path)
    reader.open[result] = _Open(path, reader.names[path], append="O_APPEND" in flags)


def _take_rename(reader: _Reader, source: str, target: str) -> None:
    old, new = reader.inside(source), reader.inside(target)
    assert (old is None) == (new is None), "a file moved into the folder or out of it"
    if old is None or new is None:
        return
    for path in [p for p in reader.names if p == old or p.startswith(f"{old}/")]:
        reader.names[new + path[len(old) :]] = reader.names.pop(path)
    reader.add("rename", path=old, target=new)


def _take_mmap(reader: _Reader, parts: list[str]) -> None:
    """The WAL-index of SQLite alone is written through memory, and is made anew after a crash."""
    if "MAP_SHARED" in parts[3] and "PROT_WRITE" in parts[2] and parts[4].isdigit():
        mapped = reader.open.get(int(parts[4]))
        assert mapped is None or mapped.path.endswith("-shm"), mapped and mapped.path


def _take_data(
    reader: _Reader, name: str, parts: list[str], texts: list[bytes], result: int
) -> None:
    file = reader.open[int(parts[0])]
    if name == "lseek":
        file.position = result
    elif name in ("read", "readv"):
        file.position += result
    elif name in ("fsync", "fdatasync"):
        reader.add("sync", file=file.file, path=file.path)
    elif name == "ftruncate":
        reader.add("truncate", file=file.file, path=file.path, offset=int(parts[1]))
    elif name in ("write", "writev", "pwrite64"):
        assert not file.append, "appending is not followed"
        data = b"".join(texts)[:result]
        offset = int(parts[3]) if name == "pwrite64" else file.position
        file.position += 0 if name == "pwrite64" else result
        reader.add("write", file=file.file, path=file.path, offset=offset, data=data)
    else:
        raise AssertionError(f"{name} is not followed")
