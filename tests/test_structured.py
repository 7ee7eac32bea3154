"""JSON answers: schemas are checked and wrapped, replies are read and refused, never trusted."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rag.errors import InputError, SchemaError
from rag.prompt import Structured, Wrapped, repair_message

FAST = settings(deadline=None, derandomize=True, database=None, max_examples=150)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: st.lists(inside, max_size=4)
    | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=12,
)  # fmt: skip

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0},
        "children": {"type": "array", "items": {"$ref": "#"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def reply(answer: Any, *sources: int) -> str:
    return json.dumps({"answer": answer, "sources": list(sources)}, ensure_ascii=False)


def refused(text: str, schema: dict[str, Any] = PERSON) -> str:
    with pytest.raises(SchemaError) as caught:
        Wrapped.of(schema).parse(text)
    return caught.value.message


@FAST
@given(
    JSON,
    st.sampled_from(["{}", "```json\n{}\n```", "Here it is:\n{}\nDone.", "<think>{{</think> {}"]),
)
def test_any_value_that_fits_comes_back_as_it_was(value: Any, around: str) -> None:
    text = around.format(reply(value, 2, 1))
    assert Wrapped.of({}).parse(text) == Structured(value, (2, 1), refused=False)


@FAST
@given(
    st.text()
    | st.text(st.sampled_from('{}[]":,answersources1e null\\u\ud800-'))
    | JSON.map(json.dumps)
)
def test_any_other_text_is_a_schema_error(text: str) -> None:
    try:
        parsed = Wrapped.of(PERSON).parse(text)
    except SchemaError:
        return
    assert parsed.refused or isinstance(parsed.data, dict)


SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"multipleOf": 0.1},
    {"uniqueItems": True},
    {"pattern": "^a+$"},
    {"oneOf": [PERSON, {"type": "array"}]},
    {"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"maxProperties": 1}},
]


@FAST
@given(JSON, st.sampled_from(SCHEMAS))
def test_what_is_parsed_fits_the_wrapped_schema_and_what_is_refused_does_not(
    value: Any, schema: dict[str, Any]
) -> None:
    wrapped = Wrapped.of(schema)
    text = reply(value)
    fits = Draft202012Validator(wrapped.schema).is_valid(json.loads(text))
    try:
        wrapped.parse(text)
        assert fits
    except SchemaError:
        assert not fits


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}},
        {"$ref": "#/definitions/n", "definitions": {"n": {"type": "integer"}}},
        {"$ref": "#/%24defs/a~1b", "$defs": {"a/b": {"type": "integer"}}},
        {"$ref": "#/$defs/answer", "$defs": {"answer": {"type": "integer"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "integer"}}},
        {"allOf": [{"type": "integer"}], "anyOf": [{"$ref": "#/allOf/0"}]},
        {
            "$defs": {"answer": {"$ref": "#/anyOf/0"}},
            "anyOf": [{"type": "integer"}, {"$ref": "#/$defs/answer"}],
        },
    ],
)
def test_references_survive_the_wrapping(schema: dict[str, Any]) -> None:
    wrapped = Wrapped.of(schema)
    Draft202012Validator.check_schema(wrapped.schema)
    whole = Draft202012Validator(wrapped.schema)
    assert whole.is_valid({"answer": 1, "sources": []})
    assert whole.is_valid({"answer": None, "sources": []})
    assert not whole.is_valid({"answer": "1", "sources": []})
    assert wrapped.parse(reply(1)).data == 1
    with pytest.raises(SchemaError):
        wrapped.parse(reply("1"))


def test_a_schema_that_refers_to_itself_is_checked_at_every_level() -> None:
    family = {"name": "a", "children": [{"name": "b", "children": [{"name": 3}]}]}
    assert "/answer/children/0/children/0/name: 3 is not of type 'string'" in refused(reply(family))
    assert not Draft202012Validator(Wrapped.of(PERSON).schema).is_valid(
        {"answer": family, "sources": []}
    )


def test_the_callers_schema_is_not_changed() -> None:
    before = json.dumps(PERSON)
    Wrapped.of(PERSON)
    assert json.dumps(PERSON) == before


def test_the_top_of_a_schema_may_name_itself() -> None:
    wrapped = Wrapped.of(
        {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://x/y", **PERSON}
    )
    assert "$id" not in wrapped.own
    assert wrapped.parse(reply({"name": "a"}, 1)).sources == (1,)


def test_data_in_a_schema_is_not_read_as_schema() -> None:
    data = {"$ref": "https://x/y", "$id": "z"}
    assert Wrapped.of({"const": data}).parse(reply(data)).data == data
    assert Wrapped.of({"properties": {"$id": {}, "pattern": {}}}).parse(reply({"$id": 1})).data


KEYWORDS = [
    "$ref",
    "$defs",
    "$id",
    "allOf",
    "const",
    "definitions",
    "enum",
    "if",
    "items",
    "pattern",
]
WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["#", "#/items", "#/$defs/a", "(x"]),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYWORDS, "a", "type"]), inside, max_size=4)
    ),
    max_leaves=10,
)


@FAST
@given(st.dictionaries(st.sampled_from([*KEYWORDS, "a"]), WILD, max_size=4), JSON)
def test_any_schema_is_either_refused_or_can_be_used(schema: dict[str, Any], value: Any) -> None:
    try:
        wrapped = Wrapped.of(schema)
    except InputError:
        return
    Draft202012Validator.check_schema(wrapped.schema)
    try:
        assert wrapped.parse(reply(value, 1)).data == value
    except SchemaError:
        return


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def _lists(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integr"},
        {"properties": 3},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "other.json#/a"},
        {"$ref": "#name"},
        {"$ref": "#/$defs/missing"},
        {"$ref": 3},
        {"$ref": "#/const", "const": {"$ref": "https://example.org"}},
        {"$ref": "#/properties", "properties": {"patternProperties": {}}},
        {"items": {"$id": "https://example.org/x"}},
        {"items": {"$schema": "http://json-schema.org/draft-04/schema#"}},
        {"$dynamicRef": "#x"},
        {"patternProperties": {"(a+)+$": {}}},
        {"unevaluatedProperties": False, "$ref": "#"},
        {"pattern": "("},
        {"pattern": "a" * 1001},
        {"description": "x" * 70_000},
        {"const": float("nan")},
        {"const": {1, 2}},
        _deep(33),
        _deep(5000),
        ["type"],
    ],
)
def test_a_schema_that_is_wrong_too_large_or_leads_outside_is_refused(schema: Any) -> None:
    with pytest.raises(InputError) as caught:
        Wrapped.of(schema)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": "^(a|aa)+$"}, "a" * 60 + "!"),
        ({"items": {"allOf": [{"$ref": "#"}] * 3}}, _lists(25)),
        ({"items": {"$ref": "#"}}, _lists(300)),
        ({"multipleOf": 0.5}, 10**4000),
    ],
)
def test_a_reply_cannot_make_the_check_endless(schema: dict[str, Any], value: Any) -> None:
    started = time.monotonic()
    assert "too long" in refused(reply(value), schema)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"if": {"$ref": "#"}},
        {
            "type": "object",
            "not": {"$ref": "#/$defs/a"},
            "$defs": {"a": {"anyOf": [{"$ref": "#"}]}},
        },
        {
            "$ref": "#/$defs/x0",
            "$defs": {
                **{f"x{n}": {"allOf": [{"$ref": f"#/$defs/x{n + 1}"}] * 3} for n in range(25)},
                "x25": {},
            },
        },
    ],
)
def test_a_schema_that_never_ends_is_refused_before_a_model_is_asked(
    schema: dict[str, Any],
) -> None:
    with pytest.raises(InputError, match="without end"):
        Wrapped.of(schema)


def test_unique_items_are_checked_in_linear_time() -> None:
    items = [{"n": n} for n in range(20_000)]
    wrapped = Wrapped.of({"uniqueItems": True})
    assert wrapped.parse(reply(items)).data == items
    with pytest.raises(SchemaError):
        wrapped.parse(reply([*items, {"n": 0}]))


@pytest.mark.parametrize("text", [reply(None), '{"answer": null}', "```\n" + reply(None) + "\n```"])
def test_null_says_that_the_documents_do_not_tell(text: str) -> None:
    assert Wrapped.of(PERSON).parse(text) == Structured(None, (), refused=True)


def test_null_with_sources_is_an_answer_where_the_schema_has_null() -> None:
    nullable = Wrapped.of({"type": ["string", "null"]})
    assert nullable.parse(reply(None, 1)) == Structured(None, (1,), refused=False)
    assert nullable.parse(reply(None)).refused
    assert Wrapped.of(PERSON).parse(reply(None, 1)).refused


def test_what_does_not_fit_is_named_briefly() -> None:
    message = refused(reply({"name": "x" * 5000, "age": -1, "other": ["y" * 5000]}))
    assert "/answer/name" in message
    assert "/answer/age: -1 is less than the minimum of 0" in message
    assert len(message) < 700
    many = refused(reply(list(range(100))), {"items": {"type": "string"}})
    assert many.count("/answer/") == 5


def test_of_alternatives_the_closest_is_named() -> None:
    schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}
    assert "/answer/0: 'a' is not of type 'integer'" in refused(reply(["a"]), schema)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no whole JSON object"),
        ("No.", "no whole JSON object"),
        ('{"answer": {"name"', "no whole JSON object"),
        ('{"answer": NaN, "sources": []}', "no whole JSON object"),
        ('{"answer": 1e999, "sources": []}', "no whole JSON object"),
        ('{"name": "a"}', 'object with "answer"'),
        ('{"answer": {"name": "a"}}', '"sources" is missing'),
        ('{"answer": {"name": "a"}, "sources": "1"}', "list of whole numbers"),
        ('{"answer": {"name": "a"}, "sources": [true]}', "list of whole numbers"),
        ('{"answer": {"name": "\\ud800"}, "sources": []}', "half a character"),
        ("[" * 100_000, "no whole JSON object"),
        ('{"a":' * 60_000, "no whole JSON object"),
        (" " * 400_001, "more than 400000"),
        ('{"answer": ' + "[" * 900 + "]" * 900 + ', "sources": []}', "/answer: "),
    ],
)
def test_a_reply_that_is_no_answer_says_why(text: str, what: str) -> None:
    assert what in refused(text)


def test_of_several_objects_the_last_with_an_answer_counts() -> None:
    text = f'<think>{{"plan": 1}} {reply({"name": "draft"})}</think>{reply({"name": "a"}, 1)} {{}}'
    assert Wrapped.of(PERSON).parse(text).data == {"name": "a"}


def test_sources_are_named_once() -> None:
    assert Wrapped.of(PERSON).parse(reply({"name": "a"}, 3, 1, 3)).sources == (3, 1)


def test_the_instruction_shows_the_schema_unless_the_server_holds_the_model_to_it() -> None:
    wrapped = Wrapped.of({"enum": ["是", "否"]})
    for tongue in ("zh", "en"):
        told = wrapped.instruction(tongue)  # type: ignore[arg-type]
        assert '{"enum":["是","否"]}' in told
        assert '{"answer": null, "sources": []}' in told
        assert told.startswith(wrapped.instruction(tongue, enforced=True))  # type: ignore[arg-type]
        assert "enum" not in wrapped.instruction(tongue, enforced=True)  # type: ignore[arg-type]


def test_the_repair_turn_tells_the_model_what_to_correct() -> None:
    with pytest.raises(SchemaError) as caught:
        Wrapped.of(PERSON).parse(reply({"name": 3}))
    message = repair_message(caught.value, "en")
    assert message.role == "user"
    assert "/answer/name: 3 is not of type 'string'" in message.text
    assert "whole JSON object again" in message.text
