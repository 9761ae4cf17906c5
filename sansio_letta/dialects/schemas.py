"""JSON Schemas in requests: what programs send, and what Letta and models accept.

Go writes null for an uninitialised list, PHP an empty array for an empty object. Neither is valid JSON Schema,
and with either of them, every run with the tool fails inside Letta.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from .._convert import WrongType
from ..errors import RequestError
from .fields import wrong_type

#: Keywords whose value is an object of schemas, a schema, and a list of schemas.
_MAPS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_SCHEMAS: Final = frozenset(
    {
        "items",
        "additionalItems",
        "unevaluatedItems",
        "contains",
        "additionalProperties",
        "unevaluatedProperties",
        "propertyNames",
        "not",
        "if",
        "then",
        "else",
    }
)
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
#: Keywords whose value is data, for which null is valid.
_DATA: Final = frozenset({"default", "const", "example"})


def read_schema(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """Repair a schema in place, and return it.

    :raises RequestError: if it cannot be sent to Letta.
    """
    try:
        # orjson reads more deeply nested JSON than it writes. The schema is sent within a tool, in a list.
        written = orjson.dumps({"client_tools": [{"parameters": schema}]})
    except orjson.JSONEncodeError:
        raise RequestError(f"`{path}` is nested too deeply.", param=path) from None
    if b"null" in written or b"[]" in written:
        _mend(schema)
    return schema


def read_parameters(value: object, path: str) -> Mapping[str, Any] | None:
    """Read the schema of a tool's arguments; None if the tool has none.

    :raises RequestError: if a run with the tool would fail inside Letta, or a model would refuse it.
    """
    if value is None or value is True or (isinstance(value, list) and not value):
        return None
    if type(value) is not dict:
        raise wrong_type(path, WrongType(value, "an object"))
    schema = read_schema(value, path)
    if not schema:
        return schema
    kind = schema.setdefault("type", "object")
    if isinstance(kind, list) and "object" in kind:
        schema["type"] = "object"
    elif kind != "object":
        raise RequestError(f"`{path}.type` must be object: arguments have names.", param=f"{path}.type")
    properties = schema.setdefault("properties", {})
    if type(properties) is not dict:
        raise wrong_type(f"{path}.properties", WrongType(properties, "an object"))
    for name, item in properties.items():
        if type(item) is not dict and type(item) is not bool:
            where = f"{path}.properties.{name[:64]}"
            raise wrong_type(where, WrongType(item, "a JSON Schema, an object"))
    if "required" in schema and type(schema["required"]) is not list:
        raise wrong_type(f"{path}.required", WrongType(schema["required"], "an array of names"))
    return schema


def _mend(schema: dict[str, Any]) -> None:
    """Remove nulls, and turn empty arrays into objects, where they replace a schema or a keyword's value."""
    todo = [schema]
    while todo:
        node = todo.pop()
        for key, value in tuple(node.items()):
            if value is None:
                if key not in _DATA:
                    del node[key]
            elif type(value) is dict:
                if key in _MAPS:
                    for name, item in value.items():
                        if type(item) is dict:
                            todo.append(item)
                        elif item is None or item == []:
                            value[name] = {}
                elif key in _SCHEMAS:
                    todo.append(value)
            elif type(value) is list:
                if not value:
                    if key in _MAPS or key in _SCHEMAS:
                        node[key] = {}
                elif key in _LISTS:
                    node[key] = items = [{} if item == [] else item for item in value if item is not None]
                    todo += [item for item in items if type(item) is dict]
                elif key == "required":
                    node[key] = [item for item in value if item is not None]
