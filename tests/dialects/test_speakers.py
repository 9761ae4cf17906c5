"""Names of speakers, as the agent receives them."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from sansio_letta import Config
from sansio_letta.config import Speakers
from sansio_letta.dialects.base import RequestContext
from sansio_letta.dialects.chat_completions.decode import decode_request
from sansio_letta.dialects.new_input import BuiltRequest, build_turn_request
from sansio_letta.dialects.speakers import as_field, named_in, readable
from sansio_letta.errors import RequestField
from sansio_letta.turn.request import Message
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.turn_input import to_message
from support import told_anew

ANN, BOB = (
    {"role": "user", "content": "Hello!", "name": "Ann"},
    {"role": "user", "content": "Hi!", "name": "Bob"},
)
NAMELESS = {"role": "user", "content": "Hm."}
SAID = {"role": "assistant", "content": "Hello, both.", "name": "Milo"}
HEADERS = {"x-openwebui-user-name": "Zo%C3%AB", "x-openwebui-user-email": "zoe@example.com"}


def built(
    *messages: Any, speakers: Speakers = Speakers.NAME, headers: Mapping[str, str] | None = None
) -> BuiltRequest:
    body = orjson.dumps({"model": "Milo", "messages": messages})
    given = RequestContext(config=Config(speakers=speakers), headers=headers or {}, token="abcdef12")
    return build_turn_request(decode_request(body), given)


def heard(messages: tuple[Message, ...]) -> list[tuple[str | None, Any]]:
    return [(message.name, message.content) for message in map(to_message, messages)]


def test_two_people_in_one_thread_are_two_speakers() -> None:
    turn_request = built(ANN, BOB, NAMELESS).turn_request
    assert heard(turn_request.messages) == [("Ann", "Hello!"), ("Bob", "Hi!"), (None, "Hm.")]
    assert turn_request.thread is None


def test_a_chat_that_begins_with_its_history_has_the_names_in_it() -> None:
    asked = built(ANN, SAID, BOB, headers={"x-letta-chat-key": "c-1", **HEADERS}).turn_request
    turn_request = told_anew(asked)
    assert heard(turn_request.history) == [("Ann", "Hello!"), (None, "Hello, both.")]
    assert heard(turn_request.messages) == [("Bob", "Hi!")]


def test_the_person_behind_the_request_says_what_is_new_in_it() -> None:
    asked = built(NAMELESS, SAID, NAMELESS, BOB, headers={"x-letta-chat-key": "c-1", **HEADERS}).turn_request
    turn_request = told_anew(asked)
    assert heard(turn_request.messages) == [("Zoë", "Hm."), ("Bob", "Hi!")]
    # Who has said what stands in the history, nobody knows.
    assert heard(turn_request.history)[0] == (None, "Hm.")


def test_a_background_prompt_is_nobodys() -> None:
    prompt = {"role": "user", "content": "### Task:\nGenerate a title"}
    assert heard(built(prompt, headers=HEADERS).turn_request.messages) == [(None, prompt["content"])]


def test_no_header_chooses_the_thread() -> None:
    assert built(NAMELESS, headers=HEADERS).turn_request.thread is None


CHOSEN: dict[str, tuple[dict[str, Any], dict[str, str], str | None]] = {
    "a field": ({"user": "Ann Lee"}, {}, "Ann_Lee"),
    "the first that is there": ({"user": "Bob", "metadata": {"person": "Ann"}}, {}, "Ann"),
    "a header before it": ({"user": "Bob"}, HEADERS, "Zoë"),
    "a number": ({"user": 17}, {}, "17"),
    "no name": ({"user": {"id": 17}}, {}, None),
    "no name, and then one": ({"metadata": {"person": [1]}, "user": "Ann"}, {}, "Ann"),
    "a template": ({"user": "{{USER}}"}, {}, None),
    "nothing": ({}, {}, None),
}


@pytest.mark.parametrize(("fields", "headers", "name"), CHOSEN.values(), ids=CHOSEN)
def test_a_field_of_the_body_names_the_person_if_it_was_chosen(
    fields: dict[str, Any], headers: dict[str, str], name: str | None
) -> None:
    def names(config: Config) -> list[str | None]:
        body = orjson.dumps({"model": "Milo", "messages": [NAMELESS, SAID, NAMELESS, BOB], **fields})
        given = RequestContext(config=config, headers=headers, token="abcdef12")
        made = build_turn_request(decode_request(body, config), given).turn_request
        assert made.thread is None
        return [message.name for message in map(to_message, made.messages)]

    assert names(Config(speaker_fields=("metadata.person", "user"))) == [name, "Bob"]
    assert names(Config()) == ["Zoë" if headers else None, "Bob"]


def test_off() -> None:
    result = built(ANN, BOB, speakers=Speakers.OFF, headers=HEADERS)
    assert heard(result.turn_request.messages) == [(None, "Hello!"), (None, "Hi!")]
    assert result.ignored == (RequestField.SPEAKER,)
    assert built(ANN, BOB).ignored == ()


def test_in_the_text() -> None:
    picture = {"role": "user", "name": "Ann Lee", "content": [{"type": "text", "text": "Look!"}]}
    turn_request = built(ANN, picture, NAMELESS, speakers=Speakers.TEXT).turn_request
    assert heard(turn_request.messages) == [
        ("Ann", "Ann: Hello!"),
        ("Ann_Lee", (letta.TextContent(text="Ann Lee:"), letta.TextContent(text="Look!"))),
        (None, "Hm."),
    ]


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({}, None),
        (HEADERS, "Zoë"),
        ({"x-openwebui-user-name": " ", "x-openwebui-user-email": "zoe@example.com"}, "zoe@example.com"),
        ({"x-openwebui-user-name": "{{USER_NAME}}"}, None),
        ({"x-openwebui-user-id": "7"}, None),
    ],
)
def test_headers(headers: dict[str, str], name: str | None) -> None:
    assert named_in(headers) == name


@pytest.mark.parametrize(
    ("name", "shown", "field"),
    [
        (None, None, None),
        (" \n", None, None),
        ("\x00", None, None),
        ("Sam", "Sam", "Sam"),
        (" Sam \n Smith ", "Sam Smith", "Sam_Smith"),
        ("a|b\\c/<d>", "a|b\\c/<d>", "abcd"),
        ("<>", "<>", None),
        ("zoe@example.com", "zoe@example.com", "zoe@example.com"),
        ("x" * 100_000, "x" * 64, "x" * 64),
    ],
)
def test_names(name: str | None, shown: str | None, field: str | None) -> None:
    assert (readable(name), as_field(name)) == (shown, field)


def test_the_name_is_sent_only_where_there_is_one() -> None:
    sent = orjson.loads(
        letta.encode_stream_request(
            letta.StreamRequest(messages=tuple(map(to_message, built(ANN, NAMELESS).turn_request.messages)))
        )
    )
    assert [message.keys() for message in sent["messages"]] == [
        {"content", "role", "name", "otid"},
        {"content", "role", "otid"},
    ]
    assert sent["messages"][0]["name"] == "Ann"
