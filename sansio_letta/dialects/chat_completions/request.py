"""The names that a request's fields have in Chat Completions."""

from collections.abc import Mapping
from typing import Any, Final

from ...errors import FieldPath, RequestField, SansioLettaError
from .. import errors

#: Field -> its path; ``{}`` is an index.
_PATHS: Final[Mapping[RequestField, str]] = {
    RequestField.MODEL: "model",
    RequestField.INPUT: "messages",
    RequestField.INSTRUCTIONS: "messages.system",
    RequestField.SPEAKER: "messages.name",
    RequestField.CALL_ID: "messages.tool_call_id",
    RequestField.CHAT_KEY: "metadata.letta_chat_key",
    RequestField.TOOLS: "tools",
    RequestField.TOOL: "tools[{}].function",
    RequestField.TOOL_PARAMETERS: "tools[{}].function.parameters",
    RequestField.TOOL_CHOICE: "tool_choice",
    RequestField.REPLY_FORMAT: "response_format",
    RequestField.REPLY_SCHEMA: "response_format.json_schema.schema",
}


def field_name(path: FieldPath) -> str:
    """The path of a field in a body, like ``tools[0].function.parameters``."""
    return ".".join((_PATHS[path.field].format(path.index), *path.inside))


def error_body(error: SansioLettaError) -> dict[str, Any]:
    """The body of an error, as JSON has it."""
    return errors.error_body(error, field_name)
