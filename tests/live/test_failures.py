"""What a client gets when the agent's model fails, before and after the answer has begun."""

import pytest
from openai import APIError, APIStatusError, InternalServerError, RateLimitError

from live.asking import PAIR, STREAMED, TOOLS, WHOLE, Form, ask, attempt, result, user
from live.letta_api import Agent, LettaApi

#: The model's status -> what the client gets while nothing was kept: class, status, type, code, and whether
#: it may repeat the request by itself. A wrong key of the model is Letta's affair: 502, and it would not help.
FIRST_STEP: dict[int, tuple[type[APIStatusError], int, str, str, bool]] = {
    401: (InternalServerError, 502, "server_error", "llm_authentication", False),
    429: (RateLimitError, 429, "rate_limit_error", "rate_limit_exceeded", True),
    500: (InternalServerError, 502, "server_error", "upstream_error", True),
}
SECOND_STEP = 'say Working.\ncall memory_insert {{"label": "human", "new_string": "fail {status}"}}'
ERROR_FIELDS = {"message", "type", "param", "code"}


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("status", FIRST_STEP)
def test_in_the_first_step(url: str, letta: LettaApi, agent: Agent, form: Form, status: int) -> None:
    error = attempt(url, form, agent.name, f"fail {status}").error
    cls, expected_status, kind, code, _ = FIRST_STEP[status]
    assert type(error) is cls
    assert (error.status_code, error.type, error.code, error.param) == (expected_status, kind, code, None)
    assert isinstance(error.body, dict)
    assert set(error.body) == ERROR_FIELDS
    assert error.request_id
    assert letta.history(agent) == []
    assert ask(url, form, agent.name, "say Well again.").text == "Well again."
    assert letta.user_texts(agent) == ["say Well again."]


@pytest.mark.parametrize("form", PAIR)
@pytest.mark.parametrize("status", FIRST_STEP)
def test_the_sdk_repeats_what_left_no_trace(
    url: str, letta: LettaApi, agent: Agent, form: Form, status: int
) -> None:
    answer = attempt(url, form, agent.name, f"fail {status}", max_retries=1)
    *_, is_repeated = FIRST_STEP[status]
    assert isinstance(answer.error, APIStatusError)
    assert answer.request_count == 1 + is_repeated
    assert len(letta.runs(agent)) == answer.request_count
    assert letta.history(agent) == []


@pytest.mark.parametrize("form", PAIR)
def test_a_model_that_breaks_off_in_the_first_step(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Nothing is kept, so the client may repeat it, though text has been shown already."""
    answer = attempt(url, form, agent.name, "say One two three.\nbreak")
    assert isinstance(answer.error, APIError)
    assert answer.error.type == "server_error"
    assert letta.history(agent) == []
    if form in STREAMED:
        assert type(answer.error) is APIError
        assert answer.text == "One two three."
        assert answer.finish_reason is None
    else:
        assert type(answer.error) is InternalServerError
    assert ask(url, form, agent.name, "say Well again.").text == "Well again."


@pytest.mark.parametrize("form", STREAMED)
@pytest.mark.parametrize("status", [401, 429, 500])
def test_in_the_second_step_of_a_stream(
    url: str, letta: LettaApi, agent: Agent, form: Form, status: int
) -> None:
    script = SECOND_STEP.format(status=status)
    answer = attempt(url, form, agent.name, script, max_retries=2)
    assert type(answer.error) is APIError
    assert answer.error.type == "upstream_error"
    assert isinstance(answer.error.body, dict)
    assert set(answer.error.body) == ERROR_FIELDS
    assert answer.error.code
    assert answer.text == "Working."
    assert answer.finish_reason is None
    assert answer.request_count == 1
    assert len(letta.runs(agent)) == 1
    assert letta.user_texts(agent) == [script]
    assert ask(url, form, agent.name, "say Well again.").text == "Well again."


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("status", [401, 429, 500])
def test_in_the_second_step_of_a_whole_answer(
    url: str, letta: LettaApi, agent: Agent, form: Form, status: int
) -> None:
    script = SECOND_STEP.format(status=status)
    answer = attempt(url, form, agent.name, script, max_retries=2)
    assert isinstance(answer.error, APIStatusError)
    assert answer.error.status_code == 424
    assert answer.error.type == "upstream_error"
    assert answer.error.response.headers["x-should-retry"] == "false"
    assert answer.request_count == 1
    assert len(letta.runs(agent)) == 1
    assert letta.user_texts(agent) == [script]
    assert ask(url, form, agent.name, "say Well again.").text == "Well again."


@pytest.mark.parametrize("form", PAIR)
def test_after_results(url: str, letta: LettaApi, agent: Agent, form: Form) -> None:
    """Letta keeps results at once, also when the step after them fails: nobody may send them again."""
    asked = ask(url, form, agent.name, "call read_file", tools=TOOLS)
    history = [user("call read_file"), asked.message, result(asked.calls[0], "fail 500")]
    answer = attempt(url, form, agent.name, history, tools=TOOLS, max_retries=2)
    assert answer.error is not None
    assert answer.error.type == "upstream_error"
    assert answer.request_count == 1
    assert letta.tool_returns(agent) == [(asked.calls[0].id, "fail 500", "success")]
    assert ask(url, form, agent.name, [*history, user("say Well again.")]).text == "Well again."
    assert len(letta.tool_returns(agent)) == 1
