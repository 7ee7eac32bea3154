"""Reads the pickle beside a LangChain FAISS index without running it.

A pickle is a program for a machine that can import and call anything. The machine here can only
put plain values together: what the program names is looked up in a list of names, as a mark on the
stack, and is never imported or called. Keys are plain values, so that nothing is hashed that could
take forever.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rag.errors import DamagedStoreError

Kind = Literal["document", "docstore", "set", "reconstruct", "object", "other"]

_DOCUMENT = (
    "langchain.docstore.document",
    "langchain.schema",
    "langchain.schema.document",
    "langchain_community.docstore.document",
    "langchain_core.documents",
    "langchain_core.documents.base",
)
_DOCSTORE = (
    "langchain.docstore",
    "langchain.docstore.in_memory",
    "langchain_classic.docstore.in_memory",
    "langchain_community.docstore",
    "langchain_community.docstore.in_memory",
)
_NAMES: dict[tuple[str, str], Kind] = {
    **{(module, "Document"): "document" for module in _DOCUMENT},
    **{(module, "InMemoryDocstore"): "docstore" for module in _DOCSTORE},
    **{(module, "set"): "set" for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): "set" for module in ("builtins", "__builtin__")},
    **{(module, "object"): "object" for module in ("builtins", "__builtin__")},
    **{(module, "_reconstructor"): "reconstruct" for module in ("copyreg", "copy_reg")},
    # Metadata can hold these; what they say is not needed.
    ("_codecs", "encode"): "other",  # bytes, in protocols 0 to 2
    **{("datetime", name): "other" for name in ("datetime", "date", "timezone", "timedelta")},
}
_PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Docstore:
    """What the pickle holds: text and metadata by id, and the id at each position of the index."""

    documents: dict[str, tuple[str, dict[Any, Any]]]
    ids: dict[int, str]


class _RefusedError(Exception):
    """The pickle does what LangChain's does not."""


@dataclass(frozen=True, slots=True)
class _Name:
    kind: Kind


@dataclass(slots=True, eq=False)
class _Made:
    """In the place of an instance: what it is of, and its fields."""

    kind: Kind
    fields: dict[Any, Any] = field(default_factory=dict)


def read_docstore(data: bytes, name: str) -> Docstore:
    """`name` is what errors call it. Raises DamagedStoreError for anything else than LangChain's
    (docstore, ids by position)."""
    try:
        return _docstore(_Machine().run(data))
    except _RefusedError as error:
        raise _refused(name, str(error)) from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise _refused(name, f"{type(error).__name__}: {str(error)[:150]}") from None


class _Machine:
    """The pickle machine (pickletools has its description), as far as plain values need it."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        argument: Any
        for instruction, argument, _ in pickletools.genops(data):
            name = instruction.name
            if name in _VALUES:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _PUTS:
                self._memo[int(argument)] = self._stack[-1]
            elif name == "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            elif name in _GETS:
                self._stack.append(self._memo[int(argument)])
            elif name == "STOP":
                return self._stack.pop()
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise _RefusedError(f"it uses the instruction {name}")
        raise _RefusedError("it breaks off")

    # --- collections --------------------------------------------------------------------------

    def mark(self, _: object) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        """What was put on the stack since the mark."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def pop(self, _: object) -> None:
        self._stack.pop()

    def pop_mark(self, _: object) -> None:
        self._marked()

    def dup(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def list_(self, _: object) -> None:
        items = self._marked()
        self._stack.append(items)

    def tuple_(self, _: object) -> None:
        items = self._marked()
        self._stack.append(tuple(items))

    def dict_(self, _: object) -> None:
        items = self._marked()
        self._stack.append({})
        self._set(items)

    def frozenset_(self, _: object) -> None:
        items = self._marked()
        self._stack.append(_set_of(items))

    def tuple_of(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        if len(items) != count:
            raise _RefusedError("its stack is empty")
        self._stack.append(items)

    def append(self, _: object) -> None:
        item = self._stack.pop()
        self._top(list).append(item)

    def appends(self, _: object) -> None:
        items = self._marked()
        self._top(list).extend(items)

    def setitem(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def setitems(self, _: object) -> None:
        self._set(self._marked())

    def additems(self, _: object) -> None:
        items = self._marked()
        self._top(set).update(_set_of(items))

    def _set(self, items: list[Any]) -> None:
        keys = items[::2]
        _check_keys(keys)
        self._top(dict).update(zip(keys, items[1::2], strict=True))

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise _RefusedError(f"it puts something into what is no {kind.__name__}")
        return self._stack[-1]

    # --- what it names ------------------------------------------------------------------------

    def global_(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(_named(module, name))

    def stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(_named(module, name))

    def reduce(self, _: object) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if type(called) is not _Name or type(arguments) is not tuple:
            raise _RefusedError("it calls what it must not")
        if called.kind == "reconstruct":
            called = arguments[0]
            if type(called) is not _Name:
                raise _RefusedError("it makes an instance of no class")
        elif called.kind == "set":
            (items,) = arguments or ([],)
            self._stack.append(_set_of(items))
            return
        self._stack.append(_Made(called.kind))

    def newobj(self, _: object) -> None:
        _arguments, made = self._stack.pop(), self._stack.pop()
        if type(made) is not _Name:
            raise _RefusedError("it makes an instance of no class")
        self._stack.append(_Made(made.kind))

    def newobj_ex(self, _: object) -> None:
        self._stack.pop()
        self.newobj(_)

    def build(self, _: object) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        if type(made) is not _Made:
            raise _RefusedError("it changes what is no instance")
        if made.kind in ("document", "docstore"):
            if type(state) is not dict:
                raise _RefusedError("the fields of an instance are no dictionary")
            fields = state.get("__dict__", state)  # where pydantic keeps them
            if type(fields) is not dict:
                raise _RefusedError("the fields of an instance are no dictionary")
            made.fields = fields


_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    )
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    "LIST": _Machine.list_,
    "TUPLE": _Machine.tuple_,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "DICT": _Machine.dict_,
    "FROZENSET": _Machine.frozenset_,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "ADDITEMS": _Machine.additems,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.newobj,
    "NEWOBJ_EX": _Machine.newobj_ex,
    "BUILD": _Machine.build,
}


def _named(module: object, name: object) -> _Name:
    if type(module) is not str or type(name) is not str or (module, name) not in _NAMES:
        raise _RefusedError(f"it names {str(module)[:80]}.{str(name)[:80]}")
    return _Name(_NAMES[module, name])


def _check_keys(keys: list[Any]) -> None:
    if any(type(key) not in _PLAIN for key in keys):
        raise _RefusedError("a key is no plain value")


def _set_of(items: object) -> set[Any]:
    if type(items) is not list:
        raise _RefusedError("a set is made of no list")
    _check_keys(items)
    return set(items)


def _docstore(loaded: object) -> Docstore:
    if type(loaded) is not tuple or len(loaded) != 2:
        raise _RefusedError("it does not hold a docstore and ids")
    store, ids = loaded
    held = store.fields.get("_dict") if type(store) is _Made and store.kind == "docstore" else None
    if type(held) is not dict or type(ids) is not dict:
        raise _RefusedError("it does not hold an InMemoryDocstore and ids")
    documents: dict[str, tuple[str, dict[Any, Any]]] = {}
    for key, value in held.items():
        fields = value.fields if type(value) is _Made and value.kind == "document" else {}
        text, metadata = fields.get("page_content"), fields.get("metadata")
        if type(key) is not str or type(text) is not str or type(metadata) is not dict:
            raise _RefusedError("a document is not as LangChain writes it")
        documents[key] = (text, metadata)
    if any(type(place) is not int or type(key) is not str for place, key in ids.items()):
        raise _RefusedError("its ids are not as LangChain writes them")
    return Docstore(documents, ids)


def _refused(name: str, reason: str) -> DamagedStoreError:
    return DamagedStoreError(
        f"{name} is not what LangChain writes: {reason}.",
        "Nothing of it was run. Import only folders that FAISS.save_local of LangChain made.",
    )
