"""Settings of conversations: how a request names its chat, and which prompts are not the user's."""

import re
from typing import Annotated, Final

from attrs import field, frozen
from cyclopts import Parameter

from sansio_letta import Config
from sansio_letta.dialects.body_fields import CHOOSABLE, is_choosable
from sansio_letta.recording.redact import SECRET_HEADERS

from .errors import SettingsError

_CORE: Final = Config()

_HEADER: Final = re.compile(r"[a-z0-9-]+")


def _lines(_: object, text: str, *, delimiter: str | None = None) -> list[str]:
    """Split an environment variable into lines; cyclopts calls this, and would split at blanks."""
    return [line for line in text.splitlines() if line.strip()]


def _check_headers(_: object, __: object, names: tuple[str, ...]) -> None:
    for name in names:
        if not _HEADER.fullmatch(name.lower()):
            raise SettingsError(
                "chat_key_headers: expected a header's name of letters, digits and dashes, like X-Chat-Id, "
                f"got {name[:100]!r}"
            )
        # A chat's key is stored in a conversation at Letta, where no secret belongs.
        if name.lower() in SECRET_HEADERS:
            raise SettingsError(
                f"chat_key_headers: expected a header without a secret, got {name!r}: a chat's key is stored "
                "at Letta"
            )


def _check_fields(_: object, attribute: object, paths: tuple[str, ...]) -> None:
    for path in paths:
        if not is_choosable(path):
            name = getattr(attribute, "name", "fields")
            raise SettingsError(
                f"{name}: expected {', '.join(CHOOSABLE)} or metadata.NAME, the field of a request's body to "
                f"read, got {path[:100]!r}"
            )


def _check_prompts(_: object, __: object, prompts: tuple[str, ...]) -> None:
    # Every message begins with an empty text.
    if not all(prompt.strip() for prompt in prompts):
        raise SettingsError("task_prompts: expected the beginning of a prompt, got only blanks")


@frozen(kw_only=True)
class ThreadSettings:
    """How the conversation that a request belongs to is found.

    :raises SettingsError: if a header's name is invalid, a field cannot be chosen, or the beginning of a prompt
        is empty.
    """

    task_prompts: Annotated[
        tuple[str, ...],
        Parameter(
            name="--task-prompt",
            env_var="LETTA_PROXY_TASK_PROMPTS",
            env_var_split=_lines,
            negative="",
            show_default=False,
            help="Beginning of a background prompt: of a system message, or of the last user message; can be "
            "repeated; one per line in the variable.",
        ),
    ] = field(default=_CORE.task_prompts, validator=_check_prompts)
    chat_key_headers: Annotated[
        tuple[str, ...],
        Parameter(
            name="--chat-key-header",
            env_var="LETTA_PROXY_CHAT_KEY_HEADERS",
            negative="",
            help="Header that names the chat; can be repeated, in order of precedence; replaces the default "
            "list.",
        ),
    ] = field(default=_CORE.chat_key_headers, validator=_check_headers)
    chat_key_fields: Annotated[
        tuple[str, ...],
        Parameter(
            name="--chat-key-field",
            env_var="LETTA_PROXY_CHAT_KEY_FIELDS",
            negative="",
            show_default=False,
            help="Field of the body that names the chat if no header does: user, prompt_cache_key, session_id "
            "or metadata.NAME; can be repeated, in order of precedence.",
        ),
    ] = field(default=_CORE.chat_key_fields, validator=_check_fields)
    speaker_fields: Annotated[
        tuple[str, ...],
        Parameter(
            name="--speaker-field",
            env_var="LETTA_PROXY_SPEAKER_FIELDS",
            negative="",
            show_default=False,
            help="Field of the body that names the person if neither the message nor a header does: one of the "
            "same; can be repeated, in order of precedence.",
        ),
    ] = field(default=_CORE.speaker_fields, validator=_check_fields)
