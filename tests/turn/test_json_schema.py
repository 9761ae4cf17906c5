"""JSON Schemas of clients: which can be checked against, and that none of them does harm."""

import re
import socket
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansio_letta.errors import FieldPath, RequestError, RequestField
from sansio_letta.turn.json_schema import MAX_SCHEMA_DEPTH, MAX_SCHEMA_SIZE, Schema
from support import JSON

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"tag": {"enum": ["a", "b"]}},
}


def schema(raw: dict[str, Any]) -> Schema:
    return Schema(raw)


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(RequestError) as caught:
        schema(raw)
    assert (caught.value.status_hint, caught.value.code) == (400, "invalid_value")
    assert caught.value.field == FieldPath(RequestField.REPLY_SCHEMA)
    return caught.value.message


VALUES: dict[str, tuple[object, tuple[str, ...]]] = {
    "right": ({"name": "Sam", "age": None, "tags": ["a"]}, ()),
    "no object": ([], ("$: [] is not of type 'object'",)),
    "one is missing": ({"name": "Sam"}, ("$: 'age' is a required property",)),
    "several": (
        {"name": 5, "age": 1, "tags": ["a", "c"], "x": 1},
        (
            "$.name: 5 is not of type 'string'",
            "$.tags[1]: 'c' is not one of ['a', 'b']",
            "$: Additional properties are not allowed ('x' was unexpected)",
        ),
    ),
    "the nearest of two": (
        {"name": "Sam", "age": -1},
        ("$.age: -1 is less than the minimum of 0",),
    ),
}


@pytest.mark.parametrize(("value", "problems"), VALUES.values(), ids=VALUES)
def test_what_is_wrong_is_told_with_its_place(value: object, problems: tuple[str, ...]) -> None:
    assert set(schema(PERSON).problems(value)) == set(problems)


def test_complaints_are_few_and_short() -> None:
    strings = {"items": {"type": "string"}}
    problems = schema(strings).problems([["x" * 10_000] for _ in range(100)])
    assert len(problems) == 5
    assert max(map(len, problems)) < 600
    assert problems[0].endswith("is not of type 'string'"), "the reason stands behind the value"


def test_the_agent_is_given_the_schema_as_it_came() -> None:
    assert schema({"type": "object", "x": [1, None]}).data == b'{"type":"object","x":[1,null]}'


DRAFTS = {
    "2020-12": ({"prefixItems": [{"type": "string"}]}, [5]),
    "https://json-schema.org/draft/2020-12/schema": ({"prefixItems": [{"type": "string"}]}, [5]),
    "https://json-schema.org/draft/2019-09/schema": ({"items": [{"type": "string"}]}, [5]),
    "http://json-schema.org/draft-07/schema#": ({"items": [{"type": "string"}]}, [5]),
    "http://json-schema.org/draft-07/schema": ({"items": [{"type": "string"}]}, [5]),
    "http://json-schema.org/draft-06/schema#": ({"items": [{"type": "string"}]}, [5]),
}


@pytest.mark.parametrize("name", DRAFTS)
def test_the_draft_is_the_one_that_is_named(name: str) -> None:
    raw, wrong = DRAFTS[name]
    named = {"$schema": name} if ":" in name else {}
    # A reference to the whole must not lead back to the library's own class.
    recursive = {**named, **raw, "properties": {"a": {"$ref": "#"}}}
    assert schema(recursive).problems({"a": ["right"]}) == ()
    assert schema(recursive).problems({"a": wrong}) != ()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown type": ({"type": "text"}, r"is no JSON Schema: \$\.type: 'text' is not valid"),
    "a property that is none": ({"properties": {"a": 5}}, r"\$\.properties\.a: 5 is not of type"),
    "another draft": ({"$schema": "http://json-schema.org/draft-04/schema#"}, r"another `\$schema` than https"),
    "a draft that is a number": ({"$schema": 4}, r"another `\$schema`"),
    "a second draft within": ({"properties": {"a": {"$schema": "x"}}}, r"holds `\$schema`"),
    "names by pattern": ({"items": {"patternProperties": {"^a": {}}}}, "holds `patternProperties`"),
    "something remote": ({"$ref": "http://127.0.0.1:9/a.json"}, "nothing is fetched: .*127.0.0.1:9"),
    "a file": ({"items": {"$ref": "file:///etc/passwd"}}, "nothing is fetched"),
    "another file beside it": ({"$id": "http://a/b", "items": {"$ref": "c"}}, "nothing is fetched"),
    "a draft's own schema": ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "nothing is fetched"),
    "what is not there": ({"$ref": "#/$defs/a"}, "refers to what is not within it"),
    "no pointer": ({"allOf": [{}], "$ref": "#/allOf/x"}, "refers to what is not within it"),
    "no address": ({"$ref": "http://[a"}, "refers to what is not within it"),
    "what is no schema": ({"$ref": "#/hidden", "hidden": {"type": 5}}, "is no JSON Schema"),
    "a hidden pattern": (
        {"$ref": "#/hidden", "hidden": {"patternProperties": {}}},
        "holds `patternProperties`",
    ),
    "too much": ({"description": "x" * MAX_SCHEMA_SIZE}, "is larger than 32768 bytes"),
}


@pytest.mark.parametrize(("raw", "why"), BAD.values(), ids=BAD)
def test_what_cannot_be_checked_is_refused_with_the_reason(raw: dict[str, Any], why: str) -> None:
    message = refusal(raw)
    assert message.startswith("`reply schema` ")
    assert re.search(why, message)


def test_names_of_properties_are_no_keywords() -> None:
    raw = {"properties": {"patternProperties": {"type": "string"}, "$ref": {"type": "string"}}}
    assert schema(raw).problems({"patternProperties": "a", "$ref": "b"}) == ()
    assert len(schema(raw).problems({"patternProperties": 1, "$ref": 2})) == 2


def nested(depth: int) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    for _ in range(depth // 2):
        raw = {"properties": {"a": raw}}
    return raw


def test_a_schema_has_a_greatest_depth() -> None:
    value: Any = {"a": 1}
    assert schema(nested(MAX_SCHEMA_DEPTH - 2)).problems(value) == ()
    assert "nested more than 64 deep" in refusal(nested(MAX_SCHEMA_DEPTH + 2))


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    refusal({"$ref": "http://127.0.0.1:9/a.json"})
    # Of the drafts that know it alone.
    assert schema({"$dynamicRef": "#a", "$dynamicAnchor": "a", "type": "string"}).problems(5) != ()


BOMB = {
    f"d{number}": {"anyOf": [{"$ref": f"#/$defs/d{number - 1}"}, {"$ref": f"#/$defs/d{number - 1}"}]}
    for number in range(1, 40)
}


def deep(depth: int) -> object:
    value: object = {}
    for _ in range(depth):
        value = {"a": value}
    return value


ENDLESS: dict[str, tuple[dict[str, Any], object]] = {
    "a schema that is itself": ({"$ref": "#"}, 1),
    "two to the fortieth": ({"$defs": {"d0": {"type": "integer"}, **BOMB}, "$ref": "#/$defs/d39"}, "x"),
    "items that are many": ({"uniqueItems": True}, [{"a": number} for number in range(50_000)]),
    "items that are compared often": (
        {"allOf": [{"uniqueItems": True}] * 500},
        [{"a": number} for number in range(500)],
    ),
    "an error in each branch, with all of the value": ({"anyOf": [{"type": "integer"}] * 500}, ["x"] * 10_000),
    "a long text that is compared often": (
        {"items": {"not": {"const": "x" * 30_000}}},
        ["x" * 29_999] * 1_000,
    ),
    "a value deeper than Python": (
        {"properties": {"a": {"$ref": "#"}}},
        deep(900),
    ),
}


@pytest.mark.parametrize(("raw", "value"), ENDLESS.values(), ids=ENDLESS)
def test_a_check_has_an_end(raw: dict[str, Any], value: object) -> None:
    (problem,) = schema(raw).problems(value)
    assert problem.startswith("it cannot be checked")


def test_a_check_takes_no_longer_than_its_steps_and_keeps_little() -> None:
    bomb = schema({"$defs": {"d0": {"type": "integer"}, **BOMB}, "$ref": "#/$defs/d39"})
    bomb.problems(1)  # what is imported on first use
    tracemalloc.start()
    try:
        bomb.problems("x" * 2_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 80 * 1024 * 1024


UNIQUE: dict[str, tuple[list[Any], bool]] = {
    "numbers": ([1, 2, 1.0], False),
    "a number and true": ([1, True, 0, False], True),
    "objects in another order": ([{"a": 1, "b": [1]}, {"b": [1.0], "a": 1}], False),
    "objects with true": ([{"a": 1}, {"a": True}], True),
    "lists": ([[1, 2], [2, 1], [[1, 2]]], True),
    "a list and its text": ([[], {}, "", None, False, 0], True),
    "many": ([{"a": number} for number in range(5_000)], True),
    "the same at the end": ([*({"a": number} for number in range(5_000)), {"a": 0}], False),
}


@pytest.mark.parametrize(("items", "unique"), UNIQUE.values(), ids=UNIQUE)
def test_items_are_the_same_if_their_json_is(items: list[Any], unique: bool) -> None:
    problems = schema({"uniqueItems": True}).problems(items)
    assert problems == () if unique else problems[0].endswith("has non-unique elements")
    assert schema({"uniqueItems": False}).problems(items) == ()


def test_a_pattern_is_told_and_not_matched() -> None:
    # Matched against this, it would take longer than the universe has.
    raw = {"type": "string", "pattern": "^(a+)+$"}
    assert schema(raw).problems("a" * 200 + "b") == ()
    assert schema({"pattern": "("}).problems("x") == (), "nor compiled"


def test_large_lists_are_checked() -> None:
    row = {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(30)}}
    rows = [{f"p{number}": number for number in range(30)} for _ in range(200)]
    listed = schema({"type": "array", "items": row})
    assert listed.problems(rows) == ()
    assert len(listed.problems([*rows, {"p0": "x"}])) == 1


KEYWORDS = st.sampled_from(
    [
        *(
            "$ref",
            "$dynamicRef",
            "$recursiveRef",
            "$id",
            "$anchor",
            "$dynamicAnchor",
            "$defs",
            "definitions",
            "hidden",
        ),
        *(
            "type",
            "enum",
            "const",
            "properties",
            "required",
            "items",
            "prefixItems",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ),
        *(
            "additionalProperties",
            "unevaluatedProperties",
            "unevaluatedItems",
            "propertyNames",
            "dependentSchemas",
        ),
        *(
            "if",
            "then",
            "else",
            "contains",
            "minContains",
            "multipleOf",
            "minimum",
            "maxLength",
            "format",
            "pattern",
        ),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["#", "#/hidden", "#/$defs/a", "#/allOf/0", "#/minimum/x", "#a", "a", "http://[", ""])
    | st.sampled_from(["string", "object", "array", "integer", "("])
)
PARTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYWORDS | st.just("a"), inner, max_size=4)
        | st.lists(st.sampled_from(["string", "object", "array"]), min_size=1, unique=True)
    ),
    max_leaves=12,
)
NAMED = st.sampled_from([None, *(name for name in DRAFTS if ":" in name)])


@given(st.dictionaries(KEYWORDS, PARTS, max_size=4), NAMED, JSON)
def test_any_schema_is_refused_or_can_be_checked_against(
    raw: dict[str, Any], draft: str | None, value: Any
) -> None:
    try:
        usable = schema({**raw, **({"$schema": draft} if draft else {})})
    except RequestError:
        return
    assert usable.problems(value) == usable.problems(value)
