"""Limits and policies: every number is validated when a Config is created."""

from typing import Any

import attrs
import pytest

from sansio_letta.config import Config, ReasoningField

POSITIVE = [
    "max_request_size",
    "max_value_count",
    "max_message_count",
    "max_part_count",
    "max_tool_count",
    "max_event_size",
    "max_unread_size",
    "max_answer_size",
    "max_agent_count",
    "agent_page_count",
    "max_remembered_agent_count",
    "keepalive_timeout",
    "letta_silence_timeout",
    "first_item_timeout",
    "letta_answer_timeout",
    "lost_run_timeout",
    "turn_timeout",
    "client_tool_ttl",
    "max_remembered_thread_count",
]
NOT_NEGATIVE = [
    "agent_ttl",
    "queue_timeout",
    "max_queue_count",
    "connect_retry_timeout",
    "resume_timeout",
    "repeat_ttl",
    "max_kept_answer_size",
    "repeat_wait_timeout",
    "early_response_timeout",
    "max_approval_count",
    "lookback_count",
    "pending_call_timeout",
    "cancelled_run_timeout",
]
CHOICES = [
    "reasoning_field",
    "usage",
    "background",
    "agent_tools",
    "joins_repeats",
    "finds_runs",
    "chat_key_headers",
    "chat_key_fields",
    "speaker_fields",
    "instructions",
    "speakers",
    "threads",
    "tasks",
    "task_prompts",
    "approvals",
    "server_tools",
    "enforcement",
    "client_tools",
]


def limited(name: str, value: float) -> Config:
    """A config with one limit of its own."""
    changes: dict[str, Any] = {name: value}
    return Config(**changes)


def test_every_number_has_a_limit() -> None:
    names = [attribute.name for attribute in attrs.fields(Config)]
    assert sorted(names) == sorted([*POSITIVE, *NOT_NEGATIVE, *CHOICES, "max_fragment_size"])


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", POSITIVE)
def test_a_limit_must_be_positive(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        limited(name, value)


@pytest.mark.parametrize("name", POSITIVE)
def test_the_smallest_limit_is_taken(name: str) -> None:
    assert getattr(limited(name, 1), name) == 1


@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_nothing_may_be_waited_for_and_nothing_kept(name: str) -> None:
    assert getattr(limited(name, 0), name) == 0
    with pytest.raises(ValueError, match=name):
        limited(name, -1)


@pytest.mark.parametrize("path", ["", "a b", "a.", ".a", "a.b c", "A", "x-a", "a" * 65])
@pytest.mark.parametrize("name", ["chat_key_fields", "speaker_fields"])
def test_a_field_of_a_body_has_a_name(name: str, path: str) -> None:
    chosen: dict[str, Any] = {name: ("user", "metadata.a-b.c", path)}
    with pytest.raises(ValueError, match=f"^{name}: expected a field of a request's body"):
        Config(**chosen)


def test_a_fragment_must_hold_a_few_characters() -> None:
    assert Config(max_fragment_size=64).max_fragment_size == 64
    with pytest.raises(ValueError, match="max_fragment_size"):
        Config(max_fragment_size=63)


def test_a_config_does_not_change() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Config().agent_ttl = 5  # type: ignore[misc]  # the point of the test


def test_the_defaults_let_common_clients_through() -> None:
    config = Config()
    assert config.max_fragment_size < 64 * 1024, "aiohttp's line readers"
    assert config.keepalive_timeout <= 15, "clients and gateways wait for bytes"
    assert 0 < config.early_response_timeout < 20, "Vapi gives up after 20 seconds without a head"
    assert config.letta_silence_timeout > 20, "Letta's pings"
    assert config.reasoning_field is ReasoningField.REASONING_CONTENT


def test_the_fields_of_reasoning_are_named_as_on_the_wire() -> None:
    assert [choice.value for choice in ReasoningField] == ["reasoning_content", "reasoning", "off"]
