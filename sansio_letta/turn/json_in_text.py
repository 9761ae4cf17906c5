"""JSON that stands among other words."""

import re
from json import JSONDecodeError, JSONDecoder
from typing import Final

import orjson

_BRACKET: Final = re.compile(r"[{\[]")
#: Brackets that are looked into. Each costs time of its own: the library counts the lines before an error.
_MAX_TRY_COUNT: Final = 32
#: Where a value ends is all that is asked of it: no number is made, however long it is.
_reader: Final = JSONDecoder(parse_int=str, parse_float=str)


def only_json(text: str) -> str | None:
    """The JSON in a text that holds one object, or no object and one array; None if it holds more, or none.

    What is empty does not count, as words like "call f() with {}" have it. What was said twice counts once.
    Behind an error the search goes on where the error is, so that each character is read once.
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
            continue  # NaN, and what else only Python reads: `place` is behind it
        except JSONDecodeError as exc:
            place = max(exc.pos, begin + 1)
            continue
        if value:
            found[type(value)].add(text[begin:place])
    else:
        return None  # more than anybody would look through
    candidates = found[dict] or found[list]
    return candidates.pop() if len(candidates) == 1 else None
