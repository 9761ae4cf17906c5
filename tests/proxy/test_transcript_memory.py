"""What a process remembers of transcripts that name no chat."""

from sansio_letta.proxy.transcript_memory import TranscriptMemory
from sansio_letta.turn.events import ConversationThread
from sansio_letta.turn.request import Mark, Step, TranscriptChat


def thread(name: object) -> ConversationThread:
    return ConversationThread(conversation_id=f"conv-{name}")


def chat(*replies: str | None, scope: str = "") -> TranscriptChat:
    """A transcript of one user message for each reply."""
    steps = [
        Step(mark=Mark(f"m{at}", f"c{at}"), chain=f"c{at + 1}", reply=reply) for at, reply in enumerate(replies)
    ]
    return TranscriptChat(first="m0", steps=tuple(steps), scope=scope)


def test_the_next_request_finds_the_conversation_by_its_answer() -> None:
    memory = TranscriptMemory(10)
    memory.remember("agent-1", chat(None), thread(1), "Hello!")
    memory.remember("agent-1", chat(None), thread(2), "Good day!")
    assert memory.recall("agent-1", chat(" Hello!\n", None)) == thread(1)
    assert memory.recall("agent-1", chat("Good day!", None)) == thread(2)
    assert memory.find(chat("Good day!", None)) == {"agent-1": thread(2)}
    # Which one it is cannot be told.
    assert memory.recall("agent-1", chat("<b>Hello!</b>", None)) is None
    assert memory.recall("agent-1", chat(None, None)) is None
    assert memory.recall("agent-2", chat("Hello!", None)) is None
    assert memory.recall("agent-1", chat("Hello!", None, scope="bob")) is None


def test_a_conversation_is_where_it_has_come_to_and_no_more_where_it_was() -> None:
    memory = TranscriptMemory(10)
    memory.remember("agent-1", chat(None), thread(1), "Hello!")
    memory.remember("agent-1", chat("Hello!", None), thread(1))
    assert memory.is_at("agent-1", chat("Hello!", None), thread(1))
    assert memory.recall("agent-1", chat("Hello!", "Cats.", None)) == thread(1)
    [*before, last] = chat("Hello!", None).steps
    edited = TranscriptChat(first="m0", steps=(*before, Step(mark=last.mark, chain="other")))
    assert memory.recall("agent-1", edited) is None
    memory.forget(thread(1))
    memory.forget(thread(1))
    assert memory.recall("agent-1", chat("Hello!", "Cats.", None)) is None


def test_memory_is_limited() -> None:
    memory = TranscriptMemory(2)
    for number in range(100):
        memory.remember("agent-1", chat(None), thread(number), f"Hello {number}!")
    assert memory.recall("agent-1", chat("Hello 99!", None)) == thread(99)
    assert memory.recall("agent-1", chat("Hello 0!", None)) is None
    for scope in ("alice", "bob"):
        memory.remember("agent-1", chat(None, scope=scope), thread(scope), "Hello!")
    assert memory.recall("agent-1", chat("Hello 99!", None)) is None
    assert memory.recall("agent-1", chat("Hello!", None, scope="alice")) == thread("alice")
    assert sum(map(len, memory._points.values())) == len(memory._places) == 2
