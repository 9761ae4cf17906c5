"""What a turn is to do, in no client's dialect."""

from collections.abc import Mapping
from hashlib import sha256
from typing import ClassVar, TypeAlias

from attrs import evolve, field, frozen

from ..config import InstructionPolicy
from ..upstreams.rest import letta
from ..upstreams.rest.conversations import ThreadWish
from .approval import Verdict
from .reply_format import CallWish, JsonWish, Wish, text_to_ask_again


@frozen(kw_only=True)
class Instructions:
    """What the client wants the agent to go by."""

    text: str = field(repr=False)
    policy: InstructionPolicy

    #: A thread is given them anew if they change.
    slot: ClassVar[str] = "instructions"

    @property
    def digest(self) -> bytes:
        """Tells them from others."""
        return sha256(self.text.encode()).digest()


#: What a thread is told once, as long as it does not change.
Standing: TypeAlias = Instructions | JsonWish


@frozen(kw_only=True)
class Plan:
    """What a client's request asks of Letta, made before the agent is known.

    :param model: the agent's name or id, as asked.
    :param messages: the new input, in order.
    :param results: the results of calls that the client brings, in order.
    :param client_tools: the tools that the client offers for this turn.
    :param client_tool_names: the client's names for those that are offered under another.
    :param thread: where it is said.
    :param history: what was said before, for a conversation that is made for it.
    :param retold: the results and the new input as text, for a conversation that has never heard of the calls.
    :param past_results: results in the client's history: their calls may wait still.
    :param verdict: what the input says if the agent waits for a human's approval.
    :param wish: what the reply must be.
    :param stop: the text that the client gets ends before the first of these.
    :param one_call: the client takes one call at a time.
    :param aside: what the agent is told beside the input, for this turn alone.
    :param forces_call: the client wants a call, whatever becomes of that wish.
    :param leaves_calls: the client's history ends with calls that it brings no results for.
    """

    model: str
    messages: tuple[letta.MessageCreate, ...] = ()
    results: tuple[letta.ToolReturn | letta.Approval, ...] = ()
    client_tools: tuple[letta.ClientTool, ...] = ()
    client_tool_names: Mapping[str, str] = field(factory=dict)
    thread: ThreadWish = None
    history: tuple[letta.MessageCreate, ...] = ()
    retold: tuple[letta.MessageCreate, ...] = ()
    instructions: Instructions | None = None
    past_results: tuple[letta.ToolReturn, ...] = ()
    verdict: Verdict | None = None
    wish: Wish | None = None
    stop: tuple[str, ...] = ()
    one_call: bool = False
    aside: tuple[letta.MessageCreate, ...] = ()
    forces_call: bool = False
    leaves_calls: bool = False

    def without_input(self) -> "Plan":
        """The same once the agent has heard the input: what it waits for later is answered alone."""
        given = self.instructions
        lasts = given is not None and given.policy is InstructionPolicy.OVERRIDE
        return evolve(
            self,
            messages=(),
            results=(),
            history=(),
            retold=(),
            verdict=None,
            instructions=given if lasts else None,
            aside=(),
        )

    def calling(self, names: Mapping[str, str]) -> "Plan":
        """The same where the agent knows tools by other names.

        :param names: the agent's, by those in which the client's tools are offered.
        """
        if not isinstance(self.wish, CallWish) or not names:
            return self
        wish = evolve(self.wish, names=tuple(names.get(name, name) for name in self.wish.names))
        aside = (letta.MessageCreate(role="system", content=wish.asking),) if self.aside else ()
        return evolve(self, wish=wish, aside=aside)

    def with_results_as_text(self) -> "Plan":
        """The same for a conversation that waits for nothing."""
        return evolve(self, messages=self.retold, results=(), retold=(), past_results=())

    def again(self, complaint: str, *, in_full: bool) -> "Plan":
        """What follows a reply that is not as the client wishes.

        :param complaint: what is wrong with it.
        :param in_full: whether the agent is told once more what it must satisfy.
        """
        assert self.wish is not None
        text = text_to_ask_again(self.wish, complaint, in_full=in_full)
        message = letta.MessageCreate(role="system", content=text)
        return evolve(self.without_input(), messages=(message,))
