"""The fields of a Chat Completions request: how each is handled, and the paths that errors name."""

from collections.abc import Mapping
from typing import Final

from ...errors import FieldPath, RequestField
from ..fields import Field, Treatment, flag, json_object, number, string, strings

_HONOUR, _NOTICE, _QUIET = Treatment.HONOUR, Treatment.NOTICE, Treatment.QUIET
_DEPRECATED: Final = "`functions` and `function_call` are deprecated: use `tools`"

FIELDS: Final[Mapping[str, Field]] = {
    "model": Field(_HONOUR, string),
    "messages": Field(_HONOUR),
    "stream": Field(_HONOUR, flag),
    "stream_options": Field(_HONOUR, json_object),
    "tools": Field(_HONOUR),
    "tool_choice": Field(_HONOUR),
    "metadata": Field(_HONOUR),
    "stop": Field(_HONOUR, strings),
    "response_format": Field(_HONOUR),
    "modalities": Field(_HONOUR, only=(["text"],), why="an agent answers in text alone"),
    "parallel_tool_calls": Field(_HONOUR, flag),
    "functions": Field(_HONOUR, only=([],), why=_DEPRECATED, is_unsupported=True),
    "function_call": Field(_HONOUR, only=("none", "auto"), why=_DEPRECATED, is_unsupported=True),
    "n": Field(_HONOUR, number, (1,), "an agent has one memory and so one answer"),
    "audio": Field(_HONOUR, only=(None,), why="an agent answers in text alone", is_unsupported=True),
    "logprobs": Field(_HONOUR, flag, (False, 0), "Letta does not give log probabilities"),
    "top_logprobs": Field(_HONOUR, number, (0,), "Letta does not give log probabilities"),
    "temperature": Field(_NOTICE),
    "top_p": Field(_NOTICE),
    "frequency_penalty": Field(_NOTICE),
    "presence_penalty": Field(_NOTICE),
    "seed": Field(_NOTICE),
    "logit_bias": Field(_NOTICE, harmless=([], {})),
    "verbosity": Field(_NOTICE),
    "reasoning_effort": Field(_NOTICE),
    "max_completion_tokens": Field(_NOTICE),
    "max_tokens": Field(_NOTICE),
    "prediction": Field(_NOTICE),
    "web_search_options": Field(_NOTICE),
    "moderation": Field(_NOTICE),
    "store": Field(_NOTICE, harmless=(False,)),
    "user": Field(_QUIET),
    "safety_identifier": Field(_QUIET),
    "prompt_cache_key": Field(_QUIET),
    "service_tier": Field(_QUIET),
    "prompt_cache_options": Field(_QUIET),
    "prompt_cache_retention": Field(_QUIET),
}

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
