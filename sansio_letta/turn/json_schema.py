"""JSON Schema, as far as a reply is checked against one: by the jsonschema library, imported on first use.

A schema comes from a client, and it is checked in the one thread that serves all of them. So nothing that it
refers to is fetched, it is limited in size and depth, the work of a check is counted, and no pattern of it is
ever matched: a regular expression can take longer than anybody lives.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import define, field

from ..errors import RequestError, RequestField

if TYPE_CHECKING:
    from jsonschema import SchemaError, ValidationError

#: Bytes of JSON. The schema is put to the agent; of a model with a hundred fields it is 10 KiB.
MAX_SCHEMA_SIZE: Final = 32 * 1024
#: Arrays and objects within one another. The library takes a dozen of Python's 1,000 frames for two of them.
MAX_SCHEMA_DEPTH: Final = 64
#: Of one check, each some 10 us: a keyword, an entry of what it goes through, or this many characters that are
#: compared or written into an error. A list of 200 objects with 30 fields each takes 20,000.
MAX_STEP_COUNT: Final = 50_000
_STEP_SIZE: Final = 128
#: What is wrong with a reply, at most: it is put to the agent, which mends all of it at once.
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
    """A schema that a reply can be checked against.

    :param raw: Draft 2020-12, or the draft that its ``$schema`` names.
    :raises RequestError: 400, if it is no schema, or none that can be checked here.
    """

    raw: Mapping[str, Any] = field(repr=False)
    data: bytes = field(init=False, repr=False)  #: the same as JSON
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
            # The library's word for a URL or a pointer that cannot be read is ValueError.
            raise self._error(
                f"refers to what is not within it, and nothing is fetched: {_short(str(exc))}"
            ) from None

    def complaints(self, value: object) -> tuple[str, ...]:
        """What is wrong with a value: where, and what; the first few. Nothing if it satisfies the schema."""
        from jsonschema.exceptions import best_match
        from referencing import Registry

        try:
            # The registry is empty, and without one the library would fetch what it does not know.
            validator = self._counting()(self._nameless(), registry=Registry())
            found = [best_match([error]) for error in islice(validator.iter_errors(value), MAX_COMPLAINT_COUNT)]
        except (_TooManyStepsError, RecursionError):
            return (_UNCHECKABLE,)
        return tuple(_line(error) for error in found)

    def _check_is_schema(self, value: object) -> None:
        from jsonschema import FormatChecker, SchemaError

        try:
            # Without formats: that of a pattern would be tried, and no pattern is ever used.
            self._dialect.check_schema(value, format_checker=FormatChecker(formats=()))
        except SchemaError as exc:
            raise self._error(f"is no JSON Schema: {_line(exc)}") from None
        except RecursionError:
            raise self._error("is nested too deeply") from None

    def _nameless(self) -> Mapping[str, Any]:
        """Without its dialect's name: by that the library would find its own class again, not ours."""
        return {name: value for name, value in self.raw.items() if name != "$schema"}

    def _counting(self) -> Callable[..., Any]:
        """The dialect's class, with every step counted and no pattern matched."""
        from jsonschema.validators import extend

        steps = _Steps()

        def counted(name: str, check: Callable[..., Any]) -> Callable[..., object]:
            def step(validator: object, wanted: object, value: object, schema: object) -> Iterator[Any]:
                steps.take(_cost(name, wanted, value, steps))
                for error in check(validator, wanted, value, schema) or ():
                    # The message holds all of the value, and each of those around it is told of it again.
                    steps.take(len(error.message) // _STEP_SIZE)
                    error.message = _short(error.message)
                    error.args = ()
                    yield error

            return step

        checks = {name: counted(name, check) for name, check in self._dialect.VALIDATORS.items()}
        made: Callable[..., Any] = extend(  # type: ignore[no-untyped-call]  # the stubs leave it so
            self._dialect,
            {**checks, "pattern": _told_only, "uniqueItems": counted("uniqueItems", _unique_items)},
        )
        return made

    def _check_parts(self) -> None:
        """All that it refers to must be within it, and a schema of the same draft."""
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
                # All parts were seen, and are schemas; what only a reference leads to may be anything.
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


def _told_only(validator: object, wanted: object, value: object, schema: object) -> None:
    """A keyword that the agent is told of, and that nobody checks."""


def _unique_items(
    validator: object, wanted: object, value: object, schema: object
) -> "Iterator[ValidationError]":
    """As the library's, which compares each item with each."""
    from jsonschema import ValidationError

    if wanted and isinstance(value, list) and len({_frozen(item) for item in value}) < len(value):
        yield ValidationError(f"{_quoted(value)} has non-unique elements")


def _frozen(value: object) -> Hashable:
    """What two values have in common if they are the same JSON: 1 is 1.0, and neither is true."""
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
    """Steps of one keyword's check, but for what it asks of other keywords."""
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
    """Entries in a value, and its text in steps; it is not looked at beyond the limit."""
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
    """An error of the library's: the place, and its message, which has the value before the reason."""
    return f"{_short(error.json_path)}: {_short(error.message)}"


def _short(text: str) -> str:
    if len(text) <= _MAX_COMPLAINT_SIZE:
        return text
    half = _MAX_COMPLAINT_SIZE // 2
    return f"{text[:half]} ... {text[-half:]}"
