"""Where settings come from, and what is said of wrong ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rag.config import Settings
from rag.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent / "rag.example.toml"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`.env` and `rag.toml` are read from where the program is started."""
    monkeypatch.chdir(tmp_path)


def test_the_environment_wins_over_dotenv_over_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rag.toml").write_text("top_k = 3\ncandidates = 30\nchunk_tokens = 300\n")
    Path(".env").write_text("RAG_TOP_K=4\nRAG_CANDIDATES=40\n")
    monkeypatch.setenv("RAG_TOP_K", "6")
    settings = Settings.read()
    assert (settings.top_k, settings.candidates, settings.chunk_tokens) == (6, 40, 300)
    assert Settings.read(top_k=9).top_k == 9


def test_an_override_of_none_leaves_the_setting_alone() -> None:
    Path("rag.toml").write_text("top_k = 3\n")
    assert Settings.read(top_k=None).top_k == 3


def test_an_unknown_name_in_the_file_is_an_error_that_names_it() -> None:
    Path("rag.toml").write_text("chunk_size = 3\n")
    with pytest.raises(ConfigError, match="chunk_size"):
        Settings.read()


def test_a_misspelt_name_of_ours_in_dotenv_is_an_error_that_names_it() -> None:
    Path(".env").write_text("RAG_TOPK=3\n")
    with pytest.raises(ConfigError, match=r"(?i)rag_topk"):
        Settings.read()


def test_other_programs_variables_in_dotenv_do_no_harm() -> None:
    Path(".env").write_text(
        "DATABASE_URL=postgres://x\nMODEL=other\nPORT=1\nexport FOO='bar baz'\nTOP_K=oops\n"
        "OPENAI_API_KEY=sk-from-dotenv\nRAG_TOP_K=7\n"
    )
    settings = Settings.read()
    assert (settings.top_k, settings.port, settings.model) == (7, 8000, None)
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-from-dotenv"


@pytest.mark.parametrize("text", ["a/b, c", '["a/b", "c"]', "a/b,c,"])
def test_a_list_is_written_with_commas_or_as_json(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAG_EMBEDDING", text)
    assert Settings.read().embedding == ("a/b", "c")


def test_a_list_in_dotenv_may_have_commas_too() -> None:
    Path(".env").write_text("RAG_MODELS=qwen-plus,gpt-4o\n")
    assert [m.name for m in Settings.read().models] == ["qwen-plus", "gpt-4o"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAG_TOP_K", "0"), ("RAG_HUB", "nowhere"), ("RAG_PORT", "x"), ("RAG_EMBEDDING", '["a"')],
)
def test_a_wrong_value_is_an_error_that_names_the_setting(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name.removeprefix("RAG_").lower()) as caught:
        Settings.read()
    assert caught.value.hint


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_TOP_K", "0")
    monkeypatch.setenv("RAG_PORT", "70000")
    with pytest.raises(ConfigError, match=r"top_k.*port"):
        Settings.read()


def test_a_file_that_is_no_toml_is_an_error_that_says_so() -> None:
    Path("rag.toml").write_text("top_k = = 3\n")
    with pytest.raises(ConfigError, match=r"rag\.toml.*line 1"):
        Settings.read()


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("RAG_EMBEDDING_API_KEY", "sk-also-secret")
    settings = Settings.read()
    shown = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert "secret" not in shown
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-very-secret"


def test_an_error_never_holds_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("RAG_TOP_K", "sk-put-in-the-wrong-place")
    with pytest.raises(ConfigError) as caught:
        Settings.read()
    assert "sk-" not in str(caught.value)


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.read().top_k = 3


def test_the_example_is_settings_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(EXAMPLE, tmp_path / "rag.toml")
    monkeypatch.chdir(tmp_path)
    found = Settings.read()
    assert [model.name for model in found.models] == ["qwen-3.0", "gpt-5.1", "local", "office"]
    assert found.presets["contracts"].review
    names = {*(m.name for m in found.models), *(tag for m in found.models for tag in m.tags)}
    assert all(wanted in names for rule in found.rules for wanted in rule.use)
