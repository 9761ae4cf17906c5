"""Draws what a client sends beside what the agent's thread holds, and marks what the agent hears of it.

What is marked is computed by the code that the proxy runs, so a picture cannot say anything else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sansio_letta.config import InstructionPolicy, Speakers
from sansio_letta.dialects.items import AssistantMessage, InstructionMessage, Message, UserMessage
from sansio_letta.dialects.speakers import SpeakerNames
from sansio_letta.dialects.transcript import build_transcript, drop_empty, split_instructions
from sansio_letta.turn import request as turn
from sansio_letta.turn.ledger import ROOT, Heard, HeardMessage, Role, digest, next_chain
from sansio_letta.turn.new_input import NewInput, find_new

Said = tuple[str, str]  # role, text

_ROLES = {"user": Role.USER, "system": Role.SYSTEM, "assistant": Role.AGENT}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request and the thread that it comes to.

    :param sent: the client's messages, oldest first.
    :param thread: what Letta lists of the thread.
    :param is_whole: the thread is shown from its beginning.
    :param lost: texts of user messages that were sent, and of which Letta has kept nothing.
    """

    title: str
    sent: Sequence[Said]
    thread: Sequence[Said] = ()
    is_whole: bool = True
    lost: frozenset[str] = frozenset()


CASES: Mapping[str, Case] = {
    "ordinary": Case(
        title="The ordinary case",
        sent=[("user", "My name is Sam."), ("assistant", "Hello Sam."), ("user", "What is my name?")],
        thread=[("user", "My name is Sam."), ("assistant", "Hello Sam.")],
    ),
    "stopped": Case(
        title="The user pressed Stop, and goes on typing",
        sent=[
            ("user", "Hi."),
            ("assistant", "Hello."),
            ("user", "Tell me a story."),
            ("assistant", "Once upon a"),
            ("user", "A shorter one."),
        ],
        thread=[("user", "Hi."), ("assistant", "Hello.")],
    ),
    "empty": Case(
        title="A failed answer, left as an empty message",
        sent=[("user", "Tell me a story."), ("assistant", ""), ("user", "Are you there?")],
    ),
    "no-answers": Case(
        title="A program that keeps no answers",
        sent=[("user", "Lights on."), ("user", "And the radio."), ("user", "Louder.")],
        thread=[
            ("user", "Lights on."),
            ("assistant", "Done."),
            ("user", "And the radio."),
            ("assistant", "Playing."),
        ],
    ),
    "nudge": Case(
        title="A bot that speaks first",
        sent=[
            ("user", "One moment."),
            ("assistant", "Of course."),
            ("system", "The caller is silent. Ask whether they are still there."),
        ],
        thread=[("user", "One moment."), ("assistant", "Of course.")],
    ),
    "greeting": Case(
        title="A greeting that the client wrote",
        sent=[("assistant", "Welcome! What is your name?"), ("user", "Sam.")],
        thread=[("user", "Is the shop open?"), ("assistant", "Until six.")],
    ),
    "trimmed": Case(
        title="A client that drops the beginning of its history",
        sent=[("user", "And Rome?"), ("assistant", "18 degrees."), ("user", "Tomorrow?")],
        thread=[
            ("user", "Weather in Oslo?"),
            ("assistant", "Rain."),
            ("user", "And Rome?"),
            ("assistant", "18 degrees."),
        ],
        is_whole=False,
    ),
    "edited": Case(
        title="An edited message",
        sent=[("user", "Hi."), ("assistant", "Hello."), ("user", "A poem, please.")],
        thread=[
            ("user", "Hi."),
            ("assistant", "Hello."),
            ("user", "A story, please."),
            ("assistant", "Once upon a time..."),
        ],
    ),
    "foreign": Case(
        title="A chat that another model has had",
        sent=[("user", "What is 2+2?"), ("assistant", "4."), ("user", "And 3+3?")],
        thread=[("user", "Is the shop open?"), ("assistant", "Until six.")],
    ),
}


def found(case: Case) -> NewInput:
    """What is new to the agent, as the proxy finds it."""
    _, said = split_instructions(drop_empty([_message(said) for said in case.sent]), InstructionPolicy.ONCE)
    transcript = build_transcript(said, SpeakerNames(policy=Speakers.NAME, person=None))
    lost = {
        item.mark
        for item in transcript
        if isinstance(item, turn.UserMessage) and item.mark is not None and item.content in case.lost
    }
    return find_new(transcript, Heard(messages=tuple(_heard(case)), is_whole=case.is_whole), (), lost)


def all_new(new: NewInput) -> tuple[turn.Message, ...]:
    """All messages that the agent is sent."""
    return (*new.earlier, *new.messages)


def _message(said: Said) -> Message:
    role, text = said
    if role == "assistant":
        return AssistantMessage(content=text)
    return UserMessage(content=text) if role == "user" else InstructionMessage(content=text)


def _heard(case: Case) -> Iterator[HeardMessage]:
    chain = ROOT
    for role, text in case.thread:
        content = digest(role, text)
        yield HeardMessage(role=_ROLES[role], content=content, chain=None if role == "assistant" else chain)
        if role == "user":
            chain = next_chain(chain, content)


def draw_transcript(name: str) -> str:
    """The picture of a case, as HTML."""
    case = CASES[name]
    new = [(_role(message), str(message.content)) for message in all_new(found(case))]
    return "\n".join(
        [
            f'<figure class="transcript" role="group" aria-label="{escape(case.title)}">',
            '<div class="sent"><p>The client sends</p>',
            *(_bubble(role, text, is_new=(role, text) in new) for role, text in case.sent),
            "</div>",
            '<div class="thread"><p>The thread afterwards</p>',
            *([] if case.is_whole else ['<span class="earlier">...</span>']),
            *(_bubble(role, text, is_new=False) for role, text in case.thread),
            *(_bubble(role, text, is_new=True) for role, text in new),
            "</div>",
            "</figure>",
        ]
    )


def _role(message: turn.Message) -> str:
    match message:
        case turn.UserMessage():
            return "user"
        case turn.AgentMessage():
            return "assistant"
        case turn.SystemMessage():
            return "system"


def _bubble(role: str, text: str, *, is_new: bool) -> str:
    shown = escape(text) or "<em>empty</em>"
    return f'<span class="said {role}{" new" if is_new else ""}"><b>{role}</b> {shown}</span>'
