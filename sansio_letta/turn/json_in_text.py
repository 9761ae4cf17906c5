"""JSON that is surrounded by other text."""

import re
from json import JSONDecodeError, JSONDecoder
from typing import Final

import orjson

_BRACKET: Final = re.compile(r"[{\[]")
#: Brackets that are tried. Each failure takes time, because the library counts the lines before it.
_MAX_TRY_COUNT: Final = 32
#: Only used to find where a value ends, so it does not convert numbers, however long they are.
_reader: Final = JSONDecoder(parse_int=str, parse_float=str)


def only_json(text: str) -> str | None:
    """Return the JSON in a text that contains exactly one object, or no object and exactly one array.

    Empty objects and arrays do not count, since a text may say "call f() with {}". Repeated ones count once.
    After an error, the search continues where the error is, so that each character is read only once.

    :return: None if there is no such object or array, or more than one.
    """
    found: dict[type, set[str]] = {dict: set(), list: set()}
    place = 0
    for _ in range(_MAX_TRY_COUNT):
        bracket = _BRACKET.search(text, place)
        if bracket is None:
            break
        begin = bracket.start()
        try:
            _, place = _reader.raw_decode(text, begin)
            value = orjson.loads(text[begin:place])
        except RecursionError:
            return None
        except orjson.JSONDecodeError:
            continue  # NaN and the like, which only Python accepts; `place` is after it
        except JSONDecodeError as exc:
            place = max(exc.pos, begin + 1)
            continue
        if value:
            found[type(value)].add(text[begin:place])
    else:
        return None  # too many brackets
    candidates = found[dict] or found[list]
    return candidates.pop() if len(candidates) == 1 else None
