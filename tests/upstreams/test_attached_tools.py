"""Names, tags and schemas of a client's tools that are attached to agents."""

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_letta import RequestError
from sansio_letta.errors import FieldPath, RequestField
from sansio_letta.turn.request import Tool
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.attached_tools import (
    MARK,
    Stamp,
    is_expired,
    is_our_name,
    is_ours,
    offer_attached,
    stamp_of,
    strip_heartbeat,
    tool_tags,
    with_tools,
    without_ours,
)

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def name_at_letta(name: str = "f", description: str | None = None, parameters: dict[str, Any] = SCHEMA) -> str:
    tool = Tool(name=name, description=description, parameters=parameters)
    return offer_attached([tool], adds_arguments=True)[0].tool.name


def box(
    *tools: letta.Tool, rules: tuple[dict[str, str], ...] = (), tags: tuple[str, ...] = ()
) -> letta.Toolbox:
    return letta.Toolbox(agent_id="agent-1", tools=tools, rules=rules, tags=tags)


# --- Names


def test_a_name_tells_what_the_tool_is_like() -> None:
    assert re.fullmatch(r"client_[a-z2-7]{12}_f", name_at_letta())
    assert name_at_letta() == name_at_letta(parameters=dict(reversed(SCHEMA.items())))
    others = [name_at_letta("g"), name_at_letta(description="d"), name_at_letta(parameters={"type": "object"})]
    assert len({name_at_letta(), *others}) == 4


def test_a_schema_is_the_same_with_and_without_what_is_understood() -> None:
    bare = name_at_letta(parameters={})
    assert bare == name_at_letta(parameters={"type": "object", "properties": {}, "required": []})
    assert bare == name_at_letta(parameters={"type": None, "properties": None, "required": None})


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    first, second = name_at_letta("a" * 64), name_at_letta("a" * 63 + "b")
    assert len(first) == len(second) == 64
    assert first != second
    assert is_our_name(first)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_a_name_is_one_that_model_providers_take(name: str) -> None:
    at_letta = name_at_letta(name)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", at_letta)
    assert is_our_name(at_letta)


@pytest.mark.parametrize(
    "name", [None, "", "send_message", "client_", "client_side_read", "client_abcdefabcdef"]
)
def test_names_of_others(name: str | None) -> None:
    assert not is_our_name(name)


def test_a_tool_is_known_by_its_name_and_its_tag() -> None:
    ours = letta.Tool(id="tool-1", name=name_at_letta(), tags=tool_tags(5))
    assert is_ours(ours)
    assert not is_ours(letta.Tool(id="tool-1", name=name_at_letta()))
    assert not is_ours(letta.Tool(id="tool-1", name="f", tags=tool_tags(5)))


# --- Times


def test_a_tool_expires() -> None:
    tool = letta.Tool(id="tool-1", name=name_at_letta(), tags=tool_tags(100))
    assert (is_expired(tool, 99), is_expired(tool, 100)) == (False, True)
    assert is_expired(letta.Tool(id="tool-1", name=name_at_letta(), tags=(MARK,)), 1)


def test_a_stamp_is_read_as_it_was_written() -> None:
    stamp = Stamp(until=1_795_332_551, owner="abc123")
    assert stamp_of(box(tags=("mine", MARK, stamp.tag))) == stamp
    assert stamp_of(box(tags=("mine", MARK))) == Stamp(until=0, owner="")
    assert stamp_of(box(tags=(f"{MARK} until tomorrow for me",))) == Stamp(until=0, owner="")


# --- Toolboxes


def test_what_is_lent_is_taken_back_and_nothing_else() -> None:
    own = letta.Tool(id="tool-own", name="search", tags=("mine",))
    rule = {"type": "requires_approval", "tool_name": "search"}
    before = box(own, rules=(rule,), tags=("mine",))
    attached = letta.Tool(id="tool-1", name=name_at_letta(), tags=tool_tags(5))
    stamp = Stamp(until=5, owner="t1")
    during = with_tools(before, [attached], stamp)
    assert during.tools == (own, attached)
    assert during.rules == (rule, {"type": "requires_approval", "tool_name": attached.name})
    assert during.tags == ("mine", MARK, stamp.tag)
    assert without_ours(during) == before
    again = with_tools(during, [], Stamp(until=9, owner="t2"))
    assert (again.tools, again.rules, stamp_of(again).owner) == ((own,), (rule,), "t2")


# --- Schemas


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"type": "string"}, "type"),
        ({"type": ["object", "null"]}, "type"),
        ({"properties": []}, "properties"),
        ({"required": "city"}, "required"),
        ({"required": [1]}, "required"),
        ({"properties": {"thinking": {}}}, "properties.thinking"),
        ({"properties": {"request_heartbeat": {}}}, "properties.request_heartbeat"),
    ],
)
def test_a_schema_that_would_fail_every_run_is_refused(parameters: dict[str, Any], param: str) -> None:
    good, bad = (Tool(name=name, parameters=value) for name, value in (("f", {}), ("g", parameters)))
    with pytest.raises(RequestError) as caught:
        offer_attached([good, bad], adds_arguments=True)
    assert caught.value.field == FieldPath(RequestField.TOOL_PARAMETERS, 1, tuple(param.split(".")))
    assert caught.value.status_hint == 400


def test_only_legacy_agents_take_arguments_away() -> None:
    tool = Tool(name="f", parameters={"properties": {"thinking": {}}})
    assert offer_attached([tool], adds_arguments=False)[0].tool.parameters["properties"] == {"thinking": {}}


def test_the_rest_of_a_schema_goes_out_as_it_came() -> None:
    schema = {**SCHEMA, "$defs": {"A": {}}, "additionalProperties": False}
    assert offer_attached([Tool(name="f", parameters=schema)], adds_arguments=True)[0].tool.parameters == schema


# --- Arguments


@pytest.mark.parametrize(
    ("arguments", "own"),
    [
        ('{"city": "Rome", "request_heartbeat": true}', '{"city": "Rome"}'),
        ('{"request_heartbeat": false}', "{}"),
        ('{"a": {"request_heartbeat": true}}', '{"a": {"request_heartbeat": true}}'),
        ('{"a": {"request_heartbeat": true}, "request_heartbeat": true}', '{"a": {"request_heartbeat": true}}'),
        ('{"a": ", \\"request_heartbeat\\": true}"}', '{"a": ", \\"request_heartbeat\\": true}"}'),
        ('{"city": "Rome"}', '{"city": "Rome"}'),
        ("", ""),
    ],
)
def test_what_letta_adds_is_taken_out(arguments: str, own: str) -> None:
    assert strip_heartbeat(arguments) == own


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(
    st.dictionaries(st.text().filter(lambda key: key != "request_heartbeat"), _json, max_size=4), st.booleans()
)
def test_all_other_arguments_stay(arguments: dict[str, Any], heartbeat: bool) -> None:
    told = json.dumps({**arguments, "request_heartbeat": heartbeat})
    assert orjson.loads(strip_heartbeat(told)) == orjson.loads(json.dumps(arguments))
