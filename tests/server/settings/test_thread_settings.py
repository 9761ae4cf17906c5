"""Settings of chats and background prompts, from option, environment or file to the core."""

from pathlib import Path

import attrs
import pytest
from openai import BadRequestError, OpenAI

from letta_server import Settings, ThreadSettings
from letta_server.cli.app import app
from letta_server.settings.errors import SettingsError
from sansio_letta import Config
from sansio_letta.config import Threads
from sansio_letta.recording.redact import SECRET_HEADERS

from ..commands import command, run
from ..gated_letta import gated_letta
from ..parsed import parsed

#: None of them is the default.
EXPECTED = ThreadSettings(
    task_prompts=("Name this chat", "Sum up:"),
    chat_key_headers=("X-Chat", "x-room-2"),
    chat_key_fields=("user", "metadata.room"),
    speaker_fields=("metadata.person", "user"),
)


def test_the_core_gets_them_all_and_headers_in_lower_case() -> None:
    config = Settings(threads=EXPECTED).config()
    assert {name: getattr(config, name) for name in attrs.asdict(EXPECTED)} == {
        **attrs.asdict(EXPECTED),
        "chat_key_headers": ("x-chat", "x-room-2"),
    }


def test_by_default_they_are_the_cores_own() -> None:
    assert Settings().config() == Config()
    assert parsed(ThreadSettings) == ThreadSettings()


def test_options() -> None:
    words = []
    for prompt in EXPECTED.task_prompts:
        words += ["--task-prompt", prompt]
    for header in EXPECTED.chat_key_headers:
        words += ["--chat-key-header", header]
    for path in EXPECTED.chat_key_fields:
        words += ["--chat-key-field", path]
    for path in EXPECTED.speaker_fields:
        words += ["--speaker-field", path]
    assert parsed(ThreadSettings, *words) == EXPECTED


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTA_PROXY_TASK_PROMPTS", "Name this chat\n\nSum up:\n")
    monkeypatch.setenv("LETTA_PROXY_CHAT_KEY_HEADERS", "X-Chat x-room-2")
    monkeypatch.setenv("LETTA_PROXY_CHAT_KEY_FIELDS", "user metadata.room")
    monkeypatch.setenv("LETTA_PROXY_SPEAKER_FIELDS", "metadata.person user")
    assert parsed(ThreadSettings) == EXPECTED
    assert parsed(ThreadSettings, "--chat-key-header", "a").chat_key_headers == ("a",)


def test_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(
        'task-prompt = ["Name this chat", "Sum up:"]\nchat-key-header = ["X-Chat", "x-room-2"]\n'
        'chat-key-field = ["user", "metadata.room"]\nspeaker-field = ["metadata.person", "user"]\n',
        encoding="utf-8",
    )
    assert parsed(ThreadSettings, "--config", str(file)) == EXPECTED
    monkeypatch.setenv("LETTA_PROXY_CHAT_KEY_HEADERS", "a")
    assert parsed(ThreadSettings, "--config", str(file)).chat_key_headers == ("a",)


@pytest.mark.parametrize("name", ["", "X Chat", "x-chat:", "x_chat", "chät", "x-chat\n"])
def test_a_header_must_have_a_headers_name(name: str) -> None:
    with pytest.raises(SettingsError, match=r"^chat_key_headers: expected a header's name of letters"):
        ThreadSettings(chat_key_headers=("x-chat", name))


@pytest.mark.parametrize("name", sorted(map(str.title, SECRET_HEADERS)))
def test_a_secret_is_no_chats_key(name: str) -> None:
    with pytest.raises(SettingsError, match=r"^chat_key_headers: expected a header without a secret"):
        ThreadSettings(chat_key_headers=(name,))


@pytest.mark.parametrize("path", ["", "model", "metadata", "metadata.", "user.name", "User", "x-chat"])
@pytest.mark.parametrize("name", ["chat_key_fields", "speaker_fields"])
def test_only_some_fields_can_be_chosen(name: str, path: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: expected user, prompt_cache_key, session_id or metad"):
        ThreadSettings(**{name: ("user", path)})


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_not_every_prompt_is_a_task(prompt: str) -> None:
    with pytest.raises(SettingsError, match=r"^task_prompts: expected the beginning of a prompt"):
        ThreadSettings(task_prompts=("Sum up:", prompt))


def test_a_wrong_value_ends_the_command() -> None:
    done = run("serve", "--chat-key-header", "X Chat")
    assert (done.returncode, done.stdout) == (2, "")
    assert "chat_key_headers: expected a header's name" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_field_ends_the_command_and_is_named() -> None:
    done = run("serve", "--chat-key-field", "user_id")
    assert (done.returncode, done.stdout) == (2, "")
    assert "chat_key_fields: expected user, prompt_cache_key, session_id or metadata.NAME" in done.stderr
    assert "'user_id'" in done.stderr
    assert "Traceback" not in done.stderr


def test_tasks_are_refused_if_the_operator_says_so() -> None:
    arguments = ("serve", "--tasks", "refuse", "--task-prompt", "Name this chat")
    with gated_letta() as letta, command(*arguments, "--letta-url", letta.url) as process:
        client = OpenAI(base_url=process.url, api_key="none", max_retries=0)
        with client, pytest.raises(BadRequestError) as refused:
            client.chat.completions.create(
                model="Milo", messages=[{"role": "user", "content": "Name this chat in three words."}]
            )
        assert refused.value.code == "task_refused"


def test_an_option_in_a_file_may_have_the_name_of_a_command(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('record = "recordings"\nthreads = "transcript"\n', encoding="utf-8")
    words = ["serve", "--config", str(file)]
    bound = app.parse_args(words, exit_on_error=False, print_error=False)[1]
    assert bound.arguments["record"] == Path("recordings")
    assert bound.arguments["policies"].threads is Threads.TRANSCRIPT
