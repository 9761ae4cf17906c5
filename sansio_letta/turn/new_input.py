"""What of a client's transcript is new to an agent: found by comparing it with what the thread has heard.

The last message that the thread has heard is looked for from the end of the transcript; what comes behind it is
new. It is found by its mark, else by what it says.
"""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum, auto
from itertools import islice, takewhile
from typing import Final, TypeAlias

from attrs import field, frozen

from .ledger import Heard, HeardMessage, Role, digest_answer, result_digest
from .request import AgentMessage, Mark, Message, SystemMessage, ToolResult, TranscriptItem, UserMessage

#: A client's messages, oldest first. Messages without content are absent.
Transcript: TypeAlias = Sequence[TranscriptItem]
#: The last results of a transcript, which are compared with what the agent has had. It has had those before.
RESULT_COUNT: Final = 32


class Basis(Enum):
    """How the new input was found."""

    CHAIN = auto()  #: behind the last message that was heard, found by its chain
    CONTENT = auto()  #: the same, found by the message itself
    ATTEMPT = auto()  #: from the first message that was sent and not kept
    BLANK = auto()  #: the thread is empty: all of it
    TAIL = auto()  #: behind the last assistant message: nothing else was found


@frozen(kw_only=True)
class NewInput:
    """What of a transcript an agent has to hear.

    :param in_front: system messages of a transcript without any others, before the last that was heard: those
        that the thread does not hold. They may be instructions that have changed.
    :param earlier: what comes before the last assistant message.
    :param messages: what comes behind it, without results of calls.
    :param basis: how it was found.
    :param is_said_again: the last user message has been heard, and is sent once more for another answer.
    :param is_edited: another message was heard in the place of the first new one.
    :param run: of the last user message, if it has been heard, as in `HeardMessage`.
    :param old_results: those before the last message that was heard.
    :param results: the last ones between that message and the last assistant message. The agent may have had
        them: see `find_unheard`.
    :param after: its place in the thread; None: no message was found, and the results may be others'.
    :param is_next: what comes before it is the last that the thread has heard: nobody else has spoken since.
    """

    in_front: tuple[SystemMessage, ...] = field(default=(), repr=False)
    earlier: tuple[Message, ...] = field(default=(), repr=False)
    messages: tuple[Message, ...] = field(repr=False)
    basis: Basis
    is_said_again: bool = False
    is_edited: bool = False
    run: object = None
    is_next: bool = False
    old_results: tuple[ToolResult, ...] = field(default=(), repr=False)
    results: tuple[ToolResult, ...] = field(default=(), repr=False)
    after: int | None = None

    def is_doubtful(self, attempts: Collection[Mark]) -> bool:
        """Return whether this may be wrong if others have spoken in the thread.

        An earlier message seems to be unheard, or it is not known whether one was stored. A client that sends
        no assistant messages shows an earlier one beside the new one.

        :param attempts: marks of messages that were sent, and may have been stored.
        """
        if self.earlier or sum(isinstance(message, UserMessage) for message in self.messages) > 1:
            return True
        if any(_mark(message) in attempts for message in self.messages):
            return True
        # In a history that was trimmed, a message has another mark than when it was sent.
        contents = {mark.content for mark in attempts}
        return any((mark := _mark(message)) and mark.content in contents for message in self.messages[:-1])


def tail_start(messages: Sequence[object], kind: type[object] = AgentMessage) -> int:
    """Return the index of what follows the last assistant message; 0 if there is none.

    :param kind: what an assistant message is.
    """
    for index in range(len(messages) - 1, -1, -1):
        if isinstance(messages[index], kind):
            return index + 1
    return 0


def needs_lookup(transcript: Transcript) -> bool:
    """Return whether what the thread has heard makes a difference.

    It does not for a first message alone, nor if results come last: the agent has heard what led to its calls.
    """
    return len(transcript) > 1 and not isinstance(transcript[-1], ToolResult)


def ends_with_attempt(transcript: Transcript, attempts: Collection[Mark], lost: Collection[Mark]) -> bool:
    """Return whether the last message was sent before, and it is not known whether it was kept."""
    mark = _mark(transcript[-1]) if transcript else None
    return mark is not None and mark in attempts and mark not in lost


def find_new(
    transcript: Transcript, heard: Heard | None, attempts: Collection[Mark] = (), lost: Collection[Mark] = ()
) -> NewInput:
    """Find out what of a transcript is new to an agent.

    :param heard: what is known of the thread; None: nothing is, and what follows the last assistant message
        counts as new.
    :param attempts: marks of messages that were sent, and may not have been kept.
    :param lost: marks of messages that were sent, and are known not to have been kept.
    """
    tail = tail_start(transcript)
    if tail == len(transcript):
        # The agent does not go on from its own last message.
        return NewInput(messages=(), basis=Basis.TAIL)
    if heard is None:
        results = _results(transcript[:tail])
        return NewInput(messages=_messages(transcript[tail:]), basis=Basis.TAIL, results=results)
    inputs = [index for index, item in enumerate(transcript) if isinstance(item, UserMessage | SystemMessage)]
    basis, found = Basis.CHAIN, _by_chain(transcript, inputs, heard, lost)
    if found is None:
        basis, found = Basis.CONTENT, _by_content(transcript, inputs[:-1], heard, {*lost, *attempts})
    if found is None:
        return _unfound(transcript, tail, inputs, heard, {*lost, *attempts})
    last, place = found
    later = heard.messages[place + 1 :]
    start = _behind_answers(transcript, last + 1, later)
    while start < len(transcript) and isinstance(transcript[start], AgentMessage | ToolResult):
        start += 1  # the answer to it, and its calls
    earlier, messages = _messages(transcript[start:tail]), _messages(transcript[max(start, tail) :])
    old_results = tuple(item for item in transcript[tail:last] if isinstance(item, ToolResult))
    is_next = not any(map(_is_input, later))
    in_front = _unheard_in_front(transcript[:last], heard)
    if (
        earlier
        or messages
        or last != inputs[-1]
        or any(isinstance(item, ToolResult) for item in transcript[max(last, tail) :])
    ):
        is_edited = _is_edited(transcript, (*earlier, *messages), heard)
        return NewInput(
            in_front=in_front,
            earlier=earlier,
            messages=messages,
            basis=basis,
            is_edited=is_edited,
            old_results=old_results,
            results=_results(_own_answers(transcript[last + 1 : tail], start - last - 1, {*attempts, *lost})),
            after=place,
            is_next=is_next,
        )
    return NewInput(
        in_front=in_front,
        messages=_messages(transcript[last:]),
        basis=basis,
        is_said_again=True,
        run=heard.messages[place].run,
        old_results=old_results,
        is_next=is_next,
    )


def find_unheard(
    new: NewInput,
    shown: Collection[str],
    heard: Heard,
    told: Collection[str],
    client_name: Callable[[str], str] = lambda name: name,
) -> tuple[ToolResult, ...]:
    """Return the results among `NewInput.results` that the agent has not had.

    Programs whose tools run in the background bring a result under a call of their own, which they put before
    an answer that was given meanwhile.

    :param shown: ids of all calls that have a result in the transcript.
    :param heard: what `new` was found with.
    :param told: digests of results that the agent is known to have had, see `result_digest`.
    :param client_name: returns the client's name of a tool.
    """
    results = [result for result in new.results if result_digest(result.call_id) not in told]
    if not results:
        return ()
    # A call that waits for its result, or was answered without one, is settled elsewhere.
    had = {
        message.content for message in heard.messages if message.role in (Role.SYSTEM, Role.CALL, Role.RESULT)
    }
    hidden = {
        message.content
        for message in heard.messages
        if message.role is Role.RESULT
        and not (message.is_placeholder or message.is_error or message.content in shown)
    }
    behind = islice(heard.messages, None if new.after is None else new.after + 1, None)
    own = Counter(
        client_name(message.name)
        for message in takewhile(lambda message: message.role is not Role.USER, behind)
        if message.role is Role.CALL and message.name and message.content in hidden
    )
    unheard = []
    for result in results:
        # Of calls without a name the client shows no call; they may be older than they seem.
        if result.name is None or result.call_id in had or result_digest(result.call_id) in had:
            continue
        if own[result.name] > 0:
            own[result.name] -= 1  # one of the agent's calls, under an id of the client's
        else:
            unheard.append(result)
    return tuple(unheard)


def _unheard_in_front(items: Transcript, heard: Heard) -> tuple[SystemMessage, ...]:
    """The system messages with which a transcript begins and that the thread does not hold.

    Where anything else is said, those that come first are no part of the transcript.
    """
    contents = {message.content for message in heard.messages if message.role is Role.SYSTEM}
    first = takewhile(lambda item: isinstance(item, SystemMessage), items)
    return tuple(
        item
        for item in first
        if isinstance(item, SystemMessage) and item.mark is not None and item.mark.content not in contents
    )


def _results(items: Iterable[TranscriptItem]) -> tuple[ToolResult, ...]:
    """The last results among these."""
    return tuple(deque((item for item in items if isinstance(item, ToolResult)), RESULT_COUNT))


def _own_answers(items: Transcript, start: int, attempts: Collection[Mark]) -> Transcript:
    """What follows the last message that was heard, without the answers of another model.

    :param start: where it begins to be new.
    :param attempts: marks of messages that were sent: another new one was sent to another model.
    """
    for index, item in enumerate(items):
        if index >= start and isinstance(item, UserMessage) and item.mark not in attempts:
            return items[:index]
    return items


def _messages(items: Iterable[TranscriptItem]) -> tuple[Message, ...]:
    return tuple(item for item in items if not isinstance(item, ToolResult) and not _is_silent(item))


def _is_silent(message: Message) -> bool:
    """Whether it is an assistant message of calls alone."""
    return isinstance(message, AgentMessage) and not message.content


def _by_chain(
    transcript: Transcript, inputs: Sequence[int], heard: Heard, lost: Collection[Mark]
) -> tuple[int, int] | None:
    """The last of the messages whose marks the thread holds, and its place there."""
    places = {(message.content, message.chain): place for place, message in enumerate(heard.messages)}
    # A mark does not show the system messages before it: another transcript may hold the same without them.
    first_lost = next(
        (
            index
            for index in inputs
            if isinstance(transcript[index], SystemMessage)
            and (mark := _mark(transcript[index]))
            and mark in lost
            and (mark.content, mark.chain) not in places
        ),
        len(transcript),
    )
    for index in reversed(inputs):
        mark = _mark(transcript[index])
        place = None if mark is None else places.get((mark.content, mark.chain))
        if place is None:
            continue
        is_sure = mark not in lost and index < first_lost
        if is_sure or _is_answered(transcript, index, heard.messages[place + 1 :]):
            return index, place
    return None


def _is_answered(transcript: Transcript, index: int, later: Iterable[HeardMessage]) -> bool:
    """Whether the thread holds, behind a message, the answer that the transcript shows.

    A message that was lost here has been sent again through another process then. Otherwise the same was said
    before, at the beginning of another transcript.
    """
    shown = transcript[index + 1] if index + 1 < len(transcript) else None
    if not isinstance(shown, AgentMessage) or not shown.content:
        return False
    answer = digest_answer(shown.content)
    return any(message.content == answer for message in later)


def _by_content(
    transcript: Transcript, inputs: Sequence[int], heard: Heard, unkept: Collection[Mark]
) -> tuple[int, int] | None:
    """The last of the messages that are found in the thread in their order, and its last place there."""
    if not inputs:
        return None
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, message in enumerate(heard.messages):
        if _is_input(message) and message.content is not None:
            places[message.content].append(place)
    lost = {mark.content for mark in unkept}
    last: tuple[int, int] | None = None
    at = 0
    for index in inputs:
        mark = _mark(transcript[index])
        if mark is None or mark in unkept:
            continue
        found = places.get(mark.content, [])
        after = bisect_left(found, at)
        if after < len(found):
            last = index, found[-1]
            at = found[after] + 1
        elif mark.content in lost:
            break  # what follows it says the same as an earlier message
    return last


def _unfound(
    transcript: Transcript, tail: int, inputs: Sequence[int], heard: Heard, unkept: Collection[Mark]
) -> NewInput:
    """Nothing of the transcript was found in the thread."""
    attempted = _attempted(transcript, inputs, unkept)
    if not any(message.role is Role.USER for message in heard.messages) and heard.is_whole:
        start, basis = _behind_own_words(transcript, heard), Basis.BLANK
    elif attempted is not None:
        start, basis = min(attempted, tail), Basis.ATTEMPT
    else:
        start, basis = tail, Basis.TAIL
        if not any(index < tail for index in inputs):
            start = _behind_own_words(transcript, heard)
    earlier, messages = _messages(transcript[start:tail]), _messages(transcript[max(start, tail) :])
    results = _results(transcript[:tail]) if basis is Basis.TAIL else ()
    return NewInput(earlier=earlier, messages=messages, basis=basis, results=results)


def _attempted(transcript: Transcript, inputs: Sequence[int], unkept: Collection[Mark]) -> int | None:
    """The first message that was sent and not kept: by its mark, or by itself in a history that was trimmed."""
    contents = {mark.content for mark in unkept}
    said = [
        (index, mark) for index in inputs if (mark := _mark(transcript[index])) and mark.content in contents
    ]
    return next((index for index, mark in said if mark in unkept), said[0][0] if said else None)


def _behind_own_words(transcript: Transcript, heard: Heard) -> int:
    """Where a greeting begins that the client wrote itself, if the transcript begins with one.

    What the agent said itself, asked by an instruction alone, is not told to it.
    """
    first = next((index for index, item in enumerate(transcript) if not isinstance(item, AgentMessage)), 0)
    known = {message.content for message in heard.messages if message.role is Role.AGENT}
    if None in known:
        return first
    for index in range(first - 1, -1, -1):
        item = transcript[index]
        if isinstance(item, AgentMessage) and digest_answer(item.content) in known:
            return index + 1
    return 0


def _behind_answers(transcript: Transcript, start: int, later: Sequence[HeardMessage]) -> int:
    """Where what follows begins to be new, if answers in it are the agent's own.

    Some programs change a message once it has been answered, so that it is not found. Its answer shows that the
    agent has heard it.

    :param start: behind the last message that was found.
    :param later: what the thread holds behind that message.
    """
    answers = {message.content for message in later if message.role is Role.AGENT}
    results = {message.content for message in later if message.role is Role.RESULT}
    for index in range(len(transcript) - 1, start - 1, -1):
        match transcript[index]:
            case AgentMessage(content=content) if content and digest_answer(content) in answers:
                return index + 1
            case ToolResult(call_id=call_id) if call_id in results:
                return index + 1
    return start


def _is_input(message: HeardMessage) -> bool:
    return message.role is Role.USER or message.role is Role.SYSTEM


def _is_edited(transcript: Transcript, messages: Sequence[Message], heard: Heard) -> bool:
    """Whether the thread holds another message in the place of the first new one."""
    new = next((message for message in messages if isinstance(message, UserMessage)), None)
    # Many transcripts begin in one thread: their first messages are in nobody's place.
    begins = next((item for item in transcript if isinstance(item, UserMessage)), None)
    if new is None or new.mark is None or new is begins:
        return False
    chain = new.mark.chain
    return any(message.chain == chain and message.role is Role.USER for message in heard.messages)


def _mark(item: TranscriptItem) -> Mark | None:
    return item.mark if isinstance(item, UserMessage | SystemMessage) else None
