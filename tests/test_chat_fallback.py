"""The next model when one fails before its first word."""

from __future__ import annotations

import asyncio

import pytest

from rag.chat.fallback import Fallback
from rag.errors import (
    BudgetError,
    CircuitOpenError,
    ContextTooLongError,
    InputError,
    ModelAuthError,
    ModelBusyError,
    ModelError,
    ModelFormatError,
    ModelRequestError,
    ModelStreamError,
    ModelUnavailableError,
    RagError,
)
from rag.types import Delta, Retried
from tests.chat_fakes import STOP, FakeChat, ask, texts


def failing(error: Exception, name: str = "first", context_window: int = 8192) -> FakeChat:
    return FakeChat([error], name=name, context_window=context_window)


@pytest.mark.parametrize(
    "kind",
    [
        ModelAuthError,
        ModelRequestError,
        ModelBusyError,
        ModelUnavailableError,
        CircuitOpenError,
        ModelStreamError,
        ModelFormatError,
        BudgetError,
    ],
)
def test_the_next_model_answers_and_the_change_is_told(kind: type[ModelError]) -> None:
    models = [failing(kind("no.")), FakeChat(["fine"], name="second")]
    events, error = ask(Fallback(models))
    assert error is None
    assert events == [
        Retried(model="first", next_model="second", code=kind.code, reason="no."),
        Delta("fine", model="second"),
    ]


def test_the_first_model_is_asked_first_and_alone() -> None:
    models = [FakeChat(["fine"], name="first"), FakeChat(name="second")]
    assert texts(ask(Fallback(models))[0]) == ["fine"]
    assert models[1].requests == []


def test_after_the_first_word_the_error_is_raised() -> None:
    models = [FakeChat(["fi", ModelStreamError("cut")]), FakeChat(name="second")]
    events, error = ask(Fallback(models))
    assert texts(events) == ["fi"]
    assert isinstance(error, ModelStreamError)
    assert models[1].requests == []


def test_an_empty_delta_is_not_a_word() -> None:
    models = [FakeChat([Delta(), ModelStreamError("cut")]), FakeChat(["fine", STOP])]
    assert texts(ask(Fallback(models))[0]) == ["fine"]


def test_when_all_fail_the_error_is_that_of_the_preferred_model() -> None:
    errors = [ModelAuthError("first"), ModelBusyError("second"), ModelUnavailableError("third")]
    events, error = ask(Fallback([failing(e, e.message) for e in errors]))
    assert error is errors[0]
    assert [(e.model, e.next_model) for e in events if isinstance(e, Retried)] == [
        ("first", "second"),
        ("second", "third"),
    ]


def test_only_models_that_hold_more_are_asked_when_a_request_is_too_long() -> None:
    models = [
        failing(ContextTooLongError("too long")),
        FakeChat(name="as small"),
        FakeChat(name="smaller", context_window=4096),
        FakeChat(["fine"], name="larger", context_window=16384),
    ]
    events, error = ask(Fallback(models))
    assert error is None
    assert texts(events) == ["fine"]
    assert [len(m.requests) for m in models] == [1, 0, 0, 1]


@pytest.mark.parametrize("before", [[], [failing(ModelBusyError("busy"), "before")]])
def test_a_request_too_long_for_all_is_raised_so_that_it_can_be_shortened(
    before: list[FakeChat],
) -> None:
    models = [*before, failing(ContextTooLongError("too long")), FakeChat(name="as small")]
    _, error = ask(Fallback(models))
    assert isinstance(error, ContextTooLongError)
    assert models[-1].requests == []


def test_an_error_of_another_kind_is_no_reason_to_ask_another_model() -> None:
    wrong: RagError = InputError("no question")
    models = [failing(wrong), FakeChat(name="second")]
    assert ask(Fallback(models)) == ([], wrong)


def test_it_is_named_after_the_first_and_closes_all() -> None:
    models = [FakeChat(name="first", context_window=4096), FakeChat(name="second")]
    fallback = Fallback(models)
    assert (fallback.name, fallback.abilities) == ("first", models[0].abilities)

    asyncio.run(fallback.aclose())
    assert [m.closed for m in models] == [1, 1]
