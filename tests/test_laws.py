"""The laws of the house that can be read off the source. CONTRIBUTING.md tells them in words."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.cli import COMMANDS, load_commands

ROOT = Path(__file__).parent.parent

# From the ground up; a room may use the floors below it, never its own floor or one above.
FLOORS = (
    (
        "rag",
        "rag.errors",
        "rag.application",
        "rag.redis_link",
        "rag.types",
        "rag.records",
        "rag.specs",
        "rag.config",
        "rag.text",
        "rag.ocr",
    ),
    (
        "rag.load",
        "rag.split",
        "rag.embed",
        "rag.stores",
        "rag.prompt",
        "rag.citations",
        "rag.extract",
        "rag.calibrate",
        "rag.images",
        "rag.chat",
        "rag.catalog",
        "rag.sessions",
        "rag.wire",
        "rag.ledger",
        "rag.prices",
        "rag.tools",
        "rag.audit",
        "rag.reviews",
        "rag.shared",
        "rag.callers",
        "rag.cache",
    ),
    ("rag.ingest", "rag.retrieve", "rag.migrate", "rag.transfer", "rag.places"),
    (
        "rag.files",
        "rag.watch",
        "rag.sources",
        "rag.release",
        "rag.pictures",
        "rag.gateway",
        "rag.bases",
    ),
    ("rag.conversation", "rag.complete", "rag.keeping", "rag.moving", "rag.origins"),
    ("rag.generate",),
    ("rag.answer",),
    ("rag.asking",),
    ("rag.engine", "rag.langchain", "rag.batch"),
    ("rag.evaluate", "rag.doctor"),
    ("rag.console",),
    ("rag.tables", "api.schemas", "api.problems", "api.dependencies"),
    ("rag.commands", "api.routes", "api.safety", "api.observe"),
    ("rag.cli", "api.app"),
    ("rag.__main__", "api"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
GROUND = 0

# On the ground floor even these stand in order.
GROUND_ORDER = (
    "rag",
    "rag.errors",
    "rag.application",
    "rag.redis_link",
    "rag.text",
    "rag.types",
    "rag.ocr",
    "rag.records",
    "rag.specs",
    "rag.config",
)

PARTS = sorted((*(ROOT / "rag").rglob("*.py"), *(ROOT / "api").rglob("*.py")))
WEB_AND_METRICS = {"fastapi", "starlette", "uvicorn", "prometheus_client"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """`rag.stores.indexes.vectors` is part of the room `rag.stores`."""
    while module not in FLOOR:
        if "." not in module:
            pytest.fail(f"{module} has no floor: give it one here and in CONTRIBUTING.md")
        module = module.rpartition(".")[0]
    return module


def imports_of(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node, whole if is_module(whole) else str(node.module)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def ours(name: str) -> bool:
    return name.split(".")[0] in ("rag", "api")


@pytest.mark.parametrize("path", PARTS, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(name_of(path))
    for _, name in imports_of(ast.parse(path.read_text())):
        if not ours(name) or room_of(name) == room:
            continue
        used = room_of(name)
        if FLOOR[room] == FLOOR[used] == GROUND:
            assert GROUND_ORDER.index(used) < GROUND_ORDER.index(room), f"{room} uses {used}"
        else:
            assert FLOOR[used] < FLOOR[room], f"{room} uses {used}, which is not below it"


STORES = ROOT / "rag" / "stores"
SHARED_BY_STORES = sorted((*STORES.glob("*.py"), *(STORES / "indexes").glob("*.py")))


@pytest.mark.parametrize("path", SHARED_BY_STORES, ids=name_of)
def test_what_both_stores_use_knows_neither(path: Path) -> None:
    names = {name for _, name in imports_of(ast.parse(path.read_text()))}
    own = ("rag.stores.embedded", "rag.stores.milvus")
    assert not [name for name in names if name.startswith(own)]


@pytest.mark.parametrize("store", ["embedded", "milvus"])
def test_a_store_knows_nothing_of_the_other(store: str) -> None:
    other = {"embedded": "milvus", "milvus": "embedded"}[store]
    for path in (STORES / store).glob("*.py"):
        names = {name for _, name in imports_of(ast.parse(path.read_text()))}
        assert not [n for n in names if n.startswith(f"rag.stores.{other}")], path


@pytest.mark.parametrize("path", PARTS, ids=name_of)
def test_no_import_of_the_project_hides_in_a_function(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            hidden = [name for _, name in imports_of(function) if ours(name)]
            assert not hidden, f"{function.name} imports {hidden}"


@pytest.mark.parametrize("path", [p for p in PARTS if name_of(p).startswith("rag")], ids=name_of)
def test_the_library_knows_neither_the_server_nor_the_metrics(path: Path) -> None:
    tops = {name.split(".")[0] for _, name in imports_of(ast.parse(path.read_text()))}
    assert not tops & (WEB_AND_METRICS | {"api"}) or name_of(path) == "rag.commands.running", tops


def test_only_the_command_line_starts_the_server() -> None:
    tree = ast.parse((ROOT / "rag/commands/running.py").read_text())
    tops = {name.split(".")[0] for _, name in imports_of(tree)}
    assert tops & (WEB_AND_METRICS | {"api"}) == {"uvicorn"}


def test_the_command_line_lists_exactly_the_commands_there_are() -> None:
    commands = load_commands()
    assert set(COMMANDS) == set(commands)
    for name, summary in COMMANDS.items():
        assert commands[name].help.startswith(summary.rstrip(".")), name


def test_an_import_upwards_would_be_found() -> None:
    tree = ast.parse("from rag.engine import Engine\nfrom rag import errors")
    assert [name for _, name in imports_of(tree)] == ["rag.engine", "rag.errors"]
    assert FLOOR[room_of("rag.engine")] > FLOOR[room_of("rag.stores.indexes.vectors")]
