"""Messages to the App Server, and those that it lists.

Only user messages reach the model; others are dropped without a word. So instructions, and what precedes the
first message of a new chat, become user messages in a ``<system-reminder>``, the form in which the server
itself tells its agents what no person has said. Each message has its mark as its id, which the server lists
with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from attrs import field, frozen

from ...turn.ledger import Heard, HeardMessage, Role, digest, digest_answer
from ...turn.request import AgentMessage, Content, Image, Mark, Message, SystemMessage, Text, UserMessage
from ...turn.settlement import PLACEHOLDERS
from .frames import Json, bad_answer

#: What the server, and this proxy, put around what is not the user's own.
_OPEN, _CLOSE = "<system-reminder>\n", "\n</system-reminder>"
#: Precedes a reply of the agent, or of another model, in a history.
_REPLIED: Final = "Earlier in this chat, the assistant replied:\n"
#: What the server gives the model as the result of a call that was broken off: it may come yet.
_INTERRUPTED: Final = frozenset({"User interrupted the stream", "Interrupted by user", "Turn did not complete"})
#: How other such results begin: the client's connection was lost, or the server was restarted.
_LOST: Final = ("External tool execution error:", "The agent harness automatically closed this stale pending")
#: How the ids of messages begin that this proxy has sent.
_OWN_ID: Final = "lp"


def to_input(messages: Sequence[Message], request_id: str) -> list[Json]:
    """Convert new messages to those of an ``input`` frame.

    :param request_id: unique to the run: the server ignores a message whose id it has had within an hour.
    """
    return [
        {
            "role": "user",
            "content": _content(message),
            "client_message_id": message_id(message, request_id, index),
        }
        for index, message in enumerate(messages)
    ]


def message_id(message: Message, request_id: str, index: int) -> str:
    """Return the id of a message in the input of a run."""
    mark = None if isinstance(message, AgentMessage) else message.mark
    return f"{mark.text}-{request_id}" if mark is not None else f"lp-{request_id}-{index}"


def _content(message: Message) -> str | list[Json]:
    match message:
        case UserMessage(content=content):
            return _user_content(content)
        case SystemMessage(content=text):
            return f"{_OPEN}{text}{_CLOSE}"
        case AgentMessage(content=text):
            return f"{_OPEN}{_REPLIED}{text}{_CLOSE}"


def _user_content(content: Content) -> str | list[Json]:
    if isinstance(content, str):
        return content
    return [_part(part) for part in content]


def _part(part: Text | Image) -> Json:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Image(url=url):
            head, comma, data = url.partition(",")
            if comma and head.lower().startswith("data:"):
                media_type = head[len("data:") :].partition(";")[0].lower()
                return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
            return {"type": "image", "source": {"type": "url", "url": url}}


# --- What is listed -------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Listed:
    """A message of a conversation.

    :param kind: its ``message_type``.
    :param text: without what the server has put around it.
    :param otid: its id as the sender gave it.
    :param is_note: the server has written it, for instance that a reply was interrupted.
    :param body: the rest.
    """

    kind: str
    text: str = field(default="", repr=False)
    otid: str | None = None
    is_reminder: bool = False
    is_note: bool = False
    body: Json = field(factory=dict, repr=False)

    @property
    def is_input(self) -> bool:
        """Whether a client has sent it as a message."""
        return self.kind == "user_message" and not self.is_note

    @property
    def answers(self) -> str | None:
        """The id of the call whose result it is; None if it is none, or stands for one that had not come."""
        if self.kind != "tool_return_message" or _is_placeholder(str(self.body.get("tool_return"))):
            return None
        return str(self.body.get("tool_call_id"))


def read_listed(answer: Json) -> tuple[Listed, ...]:
    """Return the messages in the answer to a listing that was asked for from the last one, oldest first.

    :raises RemoteProtocolError: if it has no list.
    """
    found = answer.get("messages")
    if not isinstance(found, list):
        raise bad_answer("conversation_messages_list", "messages", "an array")
    return tuple(_listed(item) for item in reversed(found) if isinstance(item, dict))


def _listed(item: Json) -> Listed:
    texts = list(_texts(item.get("content")))
    own = [text for text in texts if not _is_reminder(text)]
    otid = item.get("otid")
    is_reminder = bool(texts) and not own
    if is_reminder:
        # The last part is the message itself, those before it are the server's.
        own = [texts[-1].removeprefix(_OPEN).removesuffix(_CLOSE)]
    return Listed(
        kind=str(item.get("message_type")),
        text="\n".join(own),
        otid=otid if isinstance(otid, str) else None,
        is_reminder=is_reminder,
        is_note=is_reminder and not (isinstance(otid, str) and otid.startswith(_OWN_ID)),
        body=item,
    )


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def _is_reminder(text: str) -> bool:
    return text.startswith("<system-reminder>") and text.rstrip().endswith("</system-reminder>")


@frozen(kw_only=True)
class AppServerRef:
    """How the run is found that was begun by a message, or has gone on from the result of a call.

    :param message_id: of the last message of its input.
    :param call_id: of the last call that it was given an answer to, if there was no message.
    """

    conversation_id: str
    message_id: str | None = None
    call_id: str | None = None

    def is_begun_by(self, message: Listed) -> bool:
        """Whether a message is what the run was begun by."""
        if self.message_id is not None:
            return message.otid == self.message_id
        return self.call_id is not None and message.answers == self.call_id


def to_heard(messages: Iterable[Listed], conversation_id: str, *, is_whole: bool) -> Heard:
    """Return what a conversation has heard."""
    return Heard(messages=tuple(_heard(messages, conversation_id)), is_whole=is_whole)


def _heard(messages: Iterable[Listed], conversation_id: str) -> Iterator[HeardMessage]:
    ref: AppServerRef | None = None
    for message in messages:
        match message.kind:
            case "user_message" if not message.is_note:
                if message.otid is not None:
                    ref = AppServerRef(conversation_id=conversation_id, message_id=message.otid)
                role = Role.SYSTEM if message.is_reminder else Role.USER
                mark = Mark.read(message.otid)
                if mark is not None:
                    yield HeardMessage(role=role, content=mark.content, chain=mark.chain, run=ref)
                else:
                    yield HeardMessage(role=role, content=digest(role.name.lower(), message.text), run=ref)
            case "assistant_message":
                yield HeardMessage(role=Role.AGENT, content=digest_answer(message.text), run=ref)
            case "tool_return_message":
                yield HeardMessage(
                    role=Role.RESULT,
                    content=str(message.body.get("tool_call_id")),
                    is_placeholder=message.answers is None,
                    # A result that was given by denying its call is listed as an error, too.
                    run=AppServerRef(conversation_id=conversation_id, call_id=message.answers),
                )
            case "approval_request_message" if isinstance(call := message.body.get("tool_call"), dict):
                ident, name = str(call.get("tool_call_id")), str(call.get("name"))
                yield HeardMessage(role=Role.CALL, content=ident, name=name, run=ref)


def _is_placeholder(returned: str) -> bool:
    return returned in PLACEHOLDERS or returned in _INTERRUPTED or returned.startswith(_LOST)


def waiting_calls(messages: Sequence[Listed]) -> list[Json]:
    """Return the calls of the last step that have no result, in order."""
    returned = {
        str(message.body.get("tool_call_id")) for message in messages if message.kind == "tool_return_message"
    }
    return [
        call
        for message in messages
        if message.kind == "approval_request_message"
        and isinstance(call := message.body.get("tool_call"), dict)
        and str(call.get("tool_call_id")) not in returned
    ]
