"""The response to each failure: status, type, code, headers, body."""

import pytest

from sansio_letta.dialects.chat_completions.request import field_name
from sansio_letta.dialects.errors import error_body
from sansio_letta.errors import (
    Advice,
    FieldPath,
    Kept,
    LettaError,
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
    RequestField,
    SansioLettaError,
    ambiguous_model,
    http_failure,
    kept_failure,
    run_failure,
    unknown_model,
)


def told(error: SansioLettaError) -> tuple[int, str, str, dict[str, str]]:
    """What a client decides by: status, type, code and headers."""
    inner = error_body(error, field_name)["error"]
    assert inner["code"] == error.code
    assert inner["message"] == error.message == str(error)
    return error.status_hint, inner["type"], inner["code"], dict(error.headers())


NEVER = {"x-should-retry": "false"}

# --- The tree -------------------------------------------------------------------------------------------------


def test_an_error_has_the_body_of_chat_completions() -> None:
    error = RequestError("Not so.", param="messages[0].content", code="invalid_type")
    assert error_body(error, field_name) == {
        "error": {
            "message": "Not so.",
            "type": "invalid_request_error",
            "param": "messages[0].content",
            "code": "invalid_type",
        }
    }
    assert error.headers() == []


DEFAULTS = {
    "the base": (SansioLettaError("why"), 500, "server_error", "internal_error"),
    "a request": (RequestError("why"), 400, "invalid_request_error", "invalid_value"),
    "Letta": (LettaError("why"), 502, "server_error", "upstream_error"),
    "Letta's bytes": (RemoteProtocolError("why"), 502, "server_error", "upstream_error"),
}


@pytest.mark.parametrize(("error", "status", "kind", "code"), DEFAULTS.values(), ids=DEFAULTS)
def test_each_class_has_its_advice(error: SansioLettaError, status: int, kind: str, code: str) -> None:
    assert told(error) == (status, kind, code, {})
    assert error_body(error, field_name)["error"]["param"] is None


def test_an_error_that_quotes_much_is_cut() -> None:
    error = error_body(RequestError("x" * 1_000_000, param="y" * 1_000_000), field_name)["error"]
    assert error["message"] == "x" * 4000 + "..."
    assert error["param"] == "y" * 500 + "..."


def test_no_detail_of_a_bug_goes_to_the_client() -> None:
    error = LocalProtocolError("receive_data called twice", param="secret")
    assert error.status_hint == 500
    assert error_body(error, field_name) == {
        "error": {"message": "Internal error.", "type": "server_error", "param": None, "code": "internal_error"}
    }


def test_a_request_error_has_the_status_and_code_it_is_given() -> None:
    assert told(RequestError("why", status=413, code="request_too_large")) == (
        413,
        "invalid_request_error",
        "request_too_large",
        {},
    )


def test_a_wrong_method_is_told_the_right_ones() -> None:
    error = RequestError("why", status=405, code="method_not_allowed", allow="GET, HEAD")
    assert error.headers() == [("allow", "GET, HEAD")]


HEADERS: dict[str, tuple[bool | None, int | None, dict[str, str]]] = {
    "nothing": (None, None, {}),
    "again": (True, None, {"x-should-retry": "true"}),
    "never": (False, None, NEVER),
    "later": (None, 5, {"retry-after": "5"}),
    "both": (True, 59, {"x-should-retry": "true", "retry-after": "59"}),
}


@pytest.mark.parametrize(("should_retry", "retry_after", "headers"), HEADERS.values(), ids=HEADERS)
def test_the_headers_say_whether_to_ask_again(
    should_retry: bool | None, retry_after: int | None, headers: dict[str, str]
) -> None:
    advice = Advice(
        status=503, type="server_error", code="c", should_retry=should_retry, retry_after=retry_after
    )
    assert dict(LettaError("why", advice=advice).headers()) == headers


def test_one_error_s_advice_is_not_another_s() -> None:
    LettaError("why", advice=Advice(status=429, type="rate_limit_error", code="x"))
    assert LettaError("why").status_hint == 502


# --- Models ---------------------------------------------------------------------------------------------------


def test_an_unknown_model_is_quoted() -> None:
    error = unknown_model('Mi"lo\n')
    assert told(error) == (404, "invalid_request_error", "model_not_found", {})
    assert error.field == FieldPath(RequestField.MODEL)
    assert error.message.startswith('The model "Mi\\"lo\\n" does not exist')


@pytest.mark.parametrize(("length", "shown"), [(200, "x" * 200), (201, "x" * 200 + "...")], ids=["all", "cut"])
def test_a_long_name_is_cut(length: int, shown: str) -> None:
    assert f'"{shown}"' in unknown_model("x" * length).message
    assert f'"{shown}"' in ambiguous_model("x" * length, ["a", "b"]).message


def test_an_ambiguous_model_lists_the_ids() -> None:
    error = ambiguous_model("Milo", ["agent-1", "agent-2", "agent-3"])
    assert told(error) == (400, "invalid_request_error", "invalid_value", {})
    assert error.field == FieldPath(RequestField.MODEL)
    assert error.message == '3 agents are named "Milo": use the id of one: agent-1, agent-2, agent-3.'


# --- Runs that failed -----------------------------------------------------------------------------------------

UNKNOWN_REASONS = [
    "error",
    "llm_api_error",
    "invalid_llm_response",
    "invalid_tool_call",
    "llm_error",
    "llm_empty_response",
    "internal_error",
    "stream_incomplete",
    "learned yesterday",
    "",
]

RUN_FAILURES: dict[str, tuple[int, str, str, dict[str, str]]] = {
    "llm_rate_limit": (429, "rate_limit_error", "rate_limit_exceeded", {}),
    "llm_authentication": (502, "server_error", "llm_authentication", NEVER),
    "llm_timeout": (504, "server_error", "llm_timeout", {}),
    "insufficient_credits": (429, "rate_limit_error", "insufficient_quota", NEVER),
    "context_window_overflow_in_system_prompt": (400, "invalid_request_error", "context_length_exceeded", {}),
    **dict.fromkeys(UNKNOWN_REASONS, (502, "server_error", "upstream_error", {})),
}


@pytest.mark.parametrize(("reason", "expected"), RUN_FAILURES.items(), ids=RUN_FAILURES)
def test_a_failed_run_is_put_to_the_client_by_its_reason(
    reason: str, expected: tuple[int, str, str, dict[str, str]]
) -> None:
    error = run_failure(reason, "The model failed.")
    assert isinstance(error, LettaError)
    assert told(error) == expected
    assert error.message.endswith(f"Letta ended the run: {reason}: The model failed.")


@pytest.mark.parametrize("message", [None, ""], ids=["null", "empty"])
def test_a_failed_run_may_come_without_a_message(message: str | None) -> None:
    assert run_failure("llm_error", message).message == "Letta ended the run: llm_error."


def test_a_reason_that_letta_says_twice_is_told_once() -> None:
    message = "INVALID_ARGUMENT: Failed to fetch image."
    assert run_failure("INVALID_ARGUMENT", message).message == (
        "Letta ended the run: INVALID_ARGUMENT: Failed to fetch image."
    )


def test_a_full_context_is_told_in_the_words_that_clients_look_for() -> None:
    error = run_failure("context_window_overflow_in_system_prompt", None)
    assert "exceeds the available context size" in error.message


# --- Refusals over HTTP ---------------------------------------------------------------------------------------

HTTP_FAILURES: dict[int, tuple[int, str, str, dict[str, str]]] = {
    400: (400, "invalid_request_error", "invalid_value", {}),
    401: (502, "server_error", "letta_unauthorized", NEVER),
    402: (429, "rate_limit_error", "insufficient_quota", NEVER),
    403: (502, "server_error", "letta_unauthorized", NEVER),
    404: (502, "server_error", "upstream_error", {}),
    409: (409, "conflict_error", "agent_busy", {"retry-after": "5"}),
    413: (413, "invalid_request_error", "request_too_large", {}),
    418: (502, "server_error", "upstream_error", {}),
    422: (400, "invalid_request_error", "invalid_value", {}),
    429: (429, "rate_limit_error", "rate_limit_exceeded", {}),
    500: (502, "server_error", "upstream_error", {}),
    502: (502, "server_error", "upstream_error", {}),
    503: (503, "server_error", "upstream_error", {}),
    504: (504, "server_error", "upstream_error", {}),
}


@pytest.mark.parametrize(("status", "expected"), HTTP_FAILURES.items(), ids=HTTP_FAILURES)
def test_a_refusal_is_put_to_the_client_by_its_status(
    status: int, expected: tuple[int, str, str, dict[str, str]]
) -> None:
    error = http_failure(status, None)
    assert isinstance(error, LettaError)
    assert told(error) == expected


TEXTS = {
    "about the request": (422, "field required", "Letta answered 422: field required"),
    "without a detail": (409, None, "Letta answered 409."),
    "with an empty one": (409, "", "Letta answered 409."),
    "a long one is cut": (400, "x" * 1001, "Letta answered 400: " + "x" * 1000),
    "trouble inside Letta": (500, "Traceback, key sk-1", "Letta answered 500."),
    "a gateway": (502, "<html>", "Letta answered 502."),
    "no key": (401, "Unauthorized", "Letta refuses the proxy's key: check LETTA_API_KEY where the proxy runs."),
    "a key for others": (
        403,
        "Forbidden.",
        "Letta refuses the proxy's key: check LETTA_API_KEY where the proxy runs.",
    ),
    "a key that may not do that": (403, "Not on this plan", "Letta answered 403: Not on this plan"),
    "no money": (402, "Rate limited (quota)", "Letta answered 402: Rate limited (quota)"),
    "a key in it": (
        400,
        "Bad key sk-abcdefgh12, Bearer abcdefgh.ijk",
        "Letta answered 400: Bad key ..., ...",
    ),
}


@pytest.mark.parametrize(("status", "detail", "text"), TEXTS.values(), ids=TEXTS)
def test_letta_s_own_words_are_shown_if_they_are_about_the_request(
    status: int, detail: str | None, text: str
) -> None:
    assert http_failure(status, detail).message == text


RETRY_AFTER = {
    "as Letta says": (429, 7, {"retry-after": "7"}),
    "at most 59 seconds": (429, 3600, {"retry-after": "59"}),
    "at least one": (503, 0, {"retry-after": "1"}),
    "rather than our own": (409, 30, {"retry-after": "30"}),
    "for unknown statuses, too": (500, 2, {"retry-after": "2"}),
    "not where nobody may repeat": (402, 7, NEVER),
    "a gateway's, too": (504, 7, {"retry-after": "7"}),
}


@pytest.mark.parametrize(("status", "seconds", "headers"), RETRY_AFTER.values(), ids=RETRY_AFTER)
def test_letta_s_retry_after_is_passed_on(status: int, seconds: int, headers: dict[str, str]) -> None:
    assert dict(http_failure(status, None, seconds).headers()) == headers


def test_one_answer_s_retry_after_does_not_stay() -> None:
    http_failure(409, None, 30)
    assert dict(http_failure(409, None).headers()) == {"retry-after": "5"}


# --- Something was kept ---------------------------------------------------------------------------------------

KEPT_FAILURES = {
    "the model failed": (run_failure("llm_error", None), "upstream_error"),
    "a rate limit": (run_failure("llm_rate_limit", None), "rate_limit_exceeded"),
    "no quota": (run_failure("insufficient_credits", None), "insufficient_quota"),
    "the stream broke": (RemoteProtocolError("cut"), "upstream_error"),
    "busy": (http_failure(409, None, 7), "agent_busy"),
    "a bug": (SansioLettaError("why"), "internal_error"),
}


@pytest.mark.parametrize(("error", "code"), KEPT_FAILURES.values(), ids=KEPT_FAILURES)
def test_nobody_may_repeat_a_turn_of_which_something_was_kept(error: SansioLettaError, code: str) -> None:
    kept = kept_failure(error)
    assert told(kept) == (424, "upstream_error", code, NEVER)
    assert kept.message == error.message
    assert kept.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        run_failure("context_window_overflow_in_system_prompt", None),
        http_failure(422, "x"),
        RequestError("why"),
    ],
    ids=["a full context", "refused by Letta", "refused here"],
)
def test_what_no_client_repeats_anyway_stays_as_it_is(error: SansioLettaError) -> None:
    assert kept_failure(error) is error


def test_what_was_kept_can_be_nothing_something_or_unknown() -> None:
    assert {kept.value for kept in Kept} == {"nothing", "something", "unknown"}
