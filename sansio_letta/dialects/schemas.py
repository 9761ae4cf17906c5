"""JSON Schemas in requests: what programs send, and what Letta and models accept.

Go writes null for a list that was never made, PHP an empty array for an empty object. Both stand where JSON
Schema has nothing of the kind, and with one of them every run that has the tool breaks inside of Letta.
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
#: Keywords whose value is data, where null is a value like others.
_DATA: Final = frozenset({"default", "const", "example"})


def read_schema(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """A schema, mended in place.

    :raises RequestError: if Letta cannot be sent it.
    """
    try:
        # orjson reads deeper JSON than it writes, and Letta must be sent it, as a tool's, in a list.
        written = orjson.dumps({"client_tools": [{"parameters": schema}]})
    except orjson.JSONEncodeError:
        raise RequestError(f"`{path}` is nested too deeply.", param=path) from None
    if b"null" in written or b"[]" in written:
        _mend(schema)
    return schema


def read_parameters(value: object, path: str) -> Mapping[str, Any] | None:
    """The schema of a tool's arguments; None: the tool has none.

    :raises RequestError: if a run that has the tool would break inside of Letta, or be refused by a model.
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
    """Leave out null and make empty arrays objects, where they stand for a schema or for a keyword's value."""
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
