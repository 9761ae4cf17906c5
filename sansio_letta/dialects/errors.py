"""Errors in the format of the OpenAI API, the same in all dialects."""

from typing import Any, Final

from ..errors import FieldName, SansioLettaError

#: Characters of an error's message, and of the field that it names. Both may quote the client or Letta.
_MAX_MESSAGE: Final = 4000
_MAX_PARAM: Final = 500


def error_body(error: SansioLettaError, field_name: FieldName) -> dict[str, Any]:
    """Build the body of an error, as a JSON object.

    :param field_name: of the client's dialect.
    """
    advice, param = error.advice, error.param_for(field_name)
    return {
        "error": {
            "message": _cut(error.message_for(field_name), _MAX_MESSAGE),
            "type": advice.type,
            "param": None if param is None else _cut(param, _MAX_PARAM),
            "code": advice.code,
        }
    }


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[:size] + "..."
