"""Validation of replies against JSON Schema, by the jsonschema library, which is imported on first use.

A schema comes from a client, and is used in the one thread that serves all clients. So its references are not
fetched, its size and depth are limited, the steps of a validation are counted, and its patterns are never
matched, since a regular expression can take forever.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import define, field

from ..errors import RequestError, RequestField

if TYPE_CHECKING:
    from jsonschema import SchemaError, ValidationError

#: Bytes of JSON. The schema is sent to the agent; that of a class with a hundred fields takes 10 KiB.
MAX_SCHEMA_SIZE: Final = 32 * 1024
#: Nesting of arrays and objects. For two levels, the library uses a dozen of Python's 1,000 frames.
MAX_SCHEMA_DEPTH: Final = 64
#: Steps of one validation, about 10 us each: applying a keyword, visiting an item, or comparing `_STEP_SIZE`
#: characters or writing them into an error. A list of 200 objects with 30 fields each takes 20,000.
MAX_STEP_COUNT: Final = 50_000
_STEP_SIZE: Final = 128
#: Problems of a reply that are reported to the agent, which corrects all of them at once.
MAX_COMPLAINT_COUNT: Final = 5
_MAX_COMPLAINT_SIZE: Final = 240  #: characters

_UNCHECKABLE: Final = "it cannot be checked: the schema takes too many steps for it, or is nested too deeply"


class _TooManyStepsError(Exception):
    pass


@define
class _Steps:
    count: int = 0

    def take(self, count: int) -> None:
        self.count += count
        if self.count > MAX_STEP_COUNT:
            raise _TooManyStepsError


@define(eq=False)
class Schema:
    """A schema that replies can be validated against.

    :param raw: Draft 2020-12, or the draft that its ``$schema`` names.
    :raises RequestError: 400, if it is not a valid schema, or uses unsupported features.
    """

    raw: Mapping[str, Any] = field(repr=False)
    data: bytes = field(init=False, repr=False)  #: the schema as JSON
    _dialect: Any = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        from jsonschema import Draft6Validator, Draft7Validator, Draft201909Validator, Draft202012Validator
        from referencing.exceptions import Unresolvable

        if _is_deeper(self.raw, MAX_SCHEMA_DEPTH):
            raise self._error(f"is nested more than {MAX_SCHEMA_DEPTH} deep")
        self.data = orjson.dumps(self.raw)
        if len(self.data) > MAX_SCHEMA_SIZE:
            raise self._error(f"is larger than {MAX_SCHEMA_SIZE} bytes")
        drafts = {
            draft.META_SCHEMA["$schema"].rstrip("#"): draft
            for draft in (Draft202012Validator, Draft201909Validator, Draft7Validator, Draft6Validator)
        }
        named = self.raw.get("$schema", Draft202012Validator.META_SCHEMA["$schema"])
        self._dialect = drafts.get(named.rstrip("#")) if isinstance(named, str) else None
        if self._dialect is None:
            raise self._error(f"has another `$schema` than {', '.join(drafts)}")
        self._check_is_schema(self.raw)
        try:
            self._check_parts()
        except (Unresolvable, ValueError) as exc:
            # The library raises ValueError for a URL or a pointer that it cannot parse.
            raise self._error(
                f"refers to what is not within it, and nothing is fetched: {_short(str(exc))}"
            ) from None

    def problems(self, value: object) -> tuple[str, ...]:
        """Return the first few problems of a value, with their locations. None if it satisfies the schema."""
        from jsonschema.exceptions import best_match
        from referencing import Registry

        try:
            # Without an empty registry, the library would fetch unknown schemas.
            validator = self._counting()(self._nameless(), registry=Registry())
            found = [best_match([error]) for error in islice(validator.iter_errors(value), MAX_COMPLAINT_COUNT)]
        except (_TooManyStepsError, RecursionError):
            return (_UNCHECKABLE,)
        return tuple(_line(error) for error in found)

    def _check_is_schema(self, value: object) -> None:
        from jsonschema import FormatChecker, SchemaError

        try:
            # No format is checked: the format of a pattern would compile it.
            self._dialect.check_schema(value, format_checker=FormatChecker(formats=()))
        except SchemaError as exc:
            raise self._error(f"is no JSON Schema: {_line(exc)}") from None
        except RecursionError:
            raise self._error("is nested too deeply") from None

    def _nameless(self) -> Mapping[str, Any]:
        """Return the schema without ``$schema``, by which the library would pick its own class."""
        return {name: value for name, value in self.raw.items() if name != "$schema"}

    def _counting(self) -> Callable[..., Any]:
        """Make a validator class of the draft that counts every step and matches no patterns."""
        from jsonschema.validators import extend

        steps = _Steps()

        def counted(name: str, check: Callable[..., Any]) -> Callable[..., object]:
            def step(validator: object, wanted: object, value: object, schema: object) -> Iterator[Any]:
                steps.take(_cost(name, wanted, value, steps))
                for error in check(validator, wanted, value, schema) or ():
                    # The message contains the whole value, and passes through every level around it.
                    steps.take(len(error.message) // _STEP_SIZE)
                    error.message = _short(error.message)
                    error.args = ()
                    yield error

            return step

        checks = {name: counted(name, check) for name, check in self._dialect.VALIDATORS.items()}
        made: Callable[..., Any] = extend(  # type: ignore[no-untyped-call]  # untyped in the stubs
            self._dialect,
            {**checks, "pattern": _not_validated, "uniqueItems": counted("uniqueItems", _unique_items)},
        )
        return made

    def _check_parts(self) -> None:
        """Check that all references stay inside the schema and lead to schemas of the same draft."""
        from referencing import Registry
        from referencing.jsonschema import specification_with

        specification = specification_with(self._dialect.META_SCHEMA["$schema"])
        whole = specification.create_resource(self._nameless())
        base = whole.id() or ""
        registry: Registry[Any] = Registry().with_resource(base, whole)
        parts, references = [(whole, registry.resolver(base))], list[tuple[str, Any]]()
        seen: set[int] = set()
        while parts or references:
            if parts:
                part, resolver = parts.pop()
            else:
                # All subschemas have been checked; the target of a reference may be anything.
                reference, resolver = references.pop()
                found = resolver.lookup(reference)
                part, resolver = specification.create_resource(found.contents), found.resolver
                if id(part.contents) not in seen:
                    self._check_is_schema(part.contents)
            if id(part.contents) in seen or not isinstance(part.contents, dict):
                continue
            seen.add(id(part.contents))
            for name in ("$schema", "patternProperties", "$recursiveRef"):
                if name in part.contents:
                    raise self._error(f"holds `{name}`, by which a reply cannot be checked")
            named = (part.contents.get(name) for name in ("$ref", "$dynamicRef"))
            references += [(name, resolver) for name in named if isinstance(name, str)]
            parts += [(inner, resolver.in_subresource(inner)) for inner in part.subresources()]

    def _error(self, what: str) -> RequestError:
        return RequestError(f"`{{field}}` {what}.", field=RequestField.REPLY_SCHEMA)


def _not_validated(validator: object, wanted: object, value: object, schema: object) -> None:
    """Accept anything: the agent is told about this keyword, but it is not validated."""


def _unique_items(
    validator: object, wanted: object, value: object, schema: object
) -> "Iterator[ValidationError]":
    """Like the library's check, but in linear time: that one compares each item with each."""
    from jsonschema import ValidationError

    if wanted and isinstance(value, list) and len({_frozen(item) for item in value}) < len(value):
        yield ValidationError(f"{_quoted(value)} has non-unique elements")


def _frozen(value: object) -> Hashable:
    """Return a hashable value that is equal for equal JSON: 1 equals 1.0, but not true."""
    match value:
        case bool():
            return (bool, value)
        case list():
            return (list, tuple(_frozen(item) for item in value))
        case dict():
            return (dict, frozenset((name, _frozen(item)) for name, item in value.items()))
    assert isinstance(value, Hashable)
    return value


def _quoted(value: object) -> str:
    return _short(repr(value))


def _cost(name: str, wanted: object, value: object, steps: "_Steps") -> int:
    """Return the steps that a keyword takes, without those of the keywords inside it."""
    cost = 1
    if isinstance(wanted, list | dict):
        cost += len(wanted)
    if isinstance(value, list | dict):
        cost += len(value)
    if name in ("enum", "const"):
        cost += _size(wanted, MAX_STEP_COUNT - steps.count)
    if name == "uniqueItems":
        cost += _size(value, MAX_STEP_COUNT - steps.count)
    return cost


def _size(value: object, limit: int) -> int:
    """Return the number of items in a value, plus its text in steps; stop at the limit."""
    size, parts = 0, [value]
    while parts and size <= limit:
        part = parts.pop()
        size += 1
        if isinstance(part, str):
            size += len(part) // _STEP_SIZE
        elif isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            size += sum(map(len, part)) // _STEP_SIZE
            parts += part.values()
    return size


def _is_deeper(value: object, depth: int) -> bool:
    level: list[Any] = [value]
    for _ in range(depth + 1):
        if not level:
            return False
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def _line(error: "ValidationError | SchemaError") -> str:
    """Format an error of the library: its location, and its message, in which the value precedes the reason."""
    return f"{_short(error.json_path)}: {_short(error.message)}"


def _short(text: str) -> str:
    if len(text) <= _MAX_COMPLAINT_SIZE:
        return text
    half = _MAX_COMPLAINT_SIZE // 2
    return f"{text[:half]} ... {text[-half:]}"
