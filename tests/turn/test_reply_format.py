"""What a reply must be: how the agent is asked for it, and what passes."""

import pytest
from attrs import evolve

from sansio_letta.turn.json_schema import Schema
from sansio_letta.turn.reply_format import CallReply, CheckedReply, JsonReply, ReplyFormat, retry_message

NUMBER = JsonReply(
    schema=Schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
    name="count",
    description="How many.",
)
ANY = JsonReply()

GOOD = {
    "as it is": '{"n": 1}',
    "with blanks around it": '\n {"n": 1}\n\n',
    "in a fence": '```\n{"n": 1}\n```',
    "in a fence with a language": '```json\n{"n": 1}\n```\n',
    "in a fence of a careless model": '```JSON  \r\n{"n": 1}```',
    "behind words": 'Here it is: {"n": 1}',
    "before words": '{"n": 1} That is all.',
    "in a fence among words": 'As asked:\n```json\n{"n": 1}\n```\nThat is all.',
    "behind brackets that are none of it": 'See [1], {x} and f({}): {"n": 1}',
    "twice": '{"n": 1}, I repeat, {"n": 1}',
}


@pytest.mark.parametrize("reply_format", [NUMBER, ANY], ids=["schema", "object"])
@pytest.mark.parametrize("reply", GOOD.values(), ids=GOOD)
def test_json_passes_as_the_agent_wrote_it(reply_format: ReplyFormat, reply: str) -> None:
    assert reply_format.check(reply) == CheckedReply(text='{"n": 1}')


def test_blanks_and_order_within_are_the_agents() -> None:
    text = '{ "z":1,\n"n" : 2 }'
    assert NUMBER.check(text) == CheckedReply(text=text)


BAD = {
    "": "it is empty",
    " \n": "it is empty",
    "```json\n```": "it is empty",
    "One.": "it is no JSON: unexpected character",
    'Either {"n": 1} or {"n": 2}.': "it is no JSON: ",
    "Call it with {}.": "it is no JSON: ",
    "See [1] and [2].": "it is no JSON: ",
    'It is "n": 1.': "it is no JSON: ",
    '{"n": 1': "it is no JSON: ",
    '{"n": NaN}': "it is no JSON: ",
}


@pytest.mark.parametrize("reply_format", [NUMBER, ANY], ids=["schema", "object"])
@pytest.mark.parametrize(("reply", "problem"), BAD.items(), ids=[repr(reply) for reply in BAD])
def test_what_is_no_json_or_not_one_is_complained_of(
    reply_format: ReplyFormat, reply: str, problem: str
) -> None:
    assert (reply_format.check(reply).problem or "").startswith(problem)


def test_complaints_name_the_place_and_the_kind() -> None:
    assert NUMBER.check('{"n": "1"}').problem == "$.n: '1' is not of type 'integer'"
    assert ANY.check("[]").problem == "it is no JSON object"
    assert JsonReply(schema=Schema({})).check("[]").problem is None, "any JSON"


def test_a_reply_without_a_call_is_never_as_wished() -> None:
    assert CallReply(names=("f",)).check("Hello").problem == "no tool was called"


def test_the_agent_is_told_all_it_needs() -> None:
    assert "JSON alone" in NUMBER.prompt
    assert NUMBER.prompt.endswith(
        'count: How many.\n{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}'
    )
    assert ANY.prompt.endswith(": an object.")
    assert "the tool get_weather:" in CallReply(names=("get_weather",)).prompt
    assert "one of f, g:" in CallReply(names=("f", "g")).prompt


@pytest.mark.parametrize(
    "reply_format", [NUMBER, ANY, CallReply(names=("f",))], ids=["schema", "object", "call"]
)
def test_asking_again_says_what_was_wrong_and_what_is_right(reply_format: ReplyFormat) -> None:
    text = retry_message(reply_format, "it is empty")
    assert text.startswith("Your last reply cannot be used: it is empty. Reply once more, ")
    assert "properties" not in text, "the schema was told"
    assert ("properties" in retry_message(reply_format, "it is empty", in_full=True)) == (
        reply_format is NUMBER
    )


def test_a_reminder_names_the_schema_that_was_told() -> None:
    assert NUMBER.reminder.startswith(NUMBER.prompt.partition(" this JSON Schema")[0])
    assert NUMBER.reminder.endswith("the JSON Schema count that you were given before.")
    assert ANY.reminder == ANY.prompt


def test_a_schema_is_known_by_all_that_the_agent_is_told_of_it() -> None:
    other = JsonReply(schema=Schema({"type": "object"}), name="count", description="How many.")
    assert (other.slot, other.digest != NUMBER.digest) == (NUMBER.slot, True)
    assert evolve(NUMBER, description="").digest != NUMBER.digest
    assert evolve(NUMBER, name="other").slot != NUMBER.slot


def test_many_tools_are_not_all_named() -> None:
    reply_format = CallReply(names=tuple(f"tool_{number}" for number in range(40)))
    assert "tool_7, or another of the program's 32 tools" in reply_format.prompt
    assert len(retry_message(reply_format, "no tool was called")) < 300
