"""One HTTP exchange with Letta that is answered whole, and what such an answer says."""

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from attrs import define, field

from ...errors import (
    LettaError,
    RemoteProtocolError,
    SansioLettaError,
    ambiguous_model,
    http_failure,
    unknown_model,
)
from . import letta
from .commands import FetchAgent, FindAgent

#: Pairs of lower-case name and value.
Headers: TypeAlias = Sequence[tuple[str, str]]

#: What Letta takes for an agent's id; any other text there is answered 422 (http_errors.jsonl).
_AGENT_ID: Final = re.compile(r"agent-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

#: Characters of a model's name. A longer one would not fit into a request line with its escapes.
_MAX_NAME_SIZE: Final = 512


@define
class Answer:
    """Letta's answer to one request, collected.

    :param max_size: bytes of the body; beyond it the answer makes no sense.
    :param key_is_clients: the key that Letta was given is the client's own.
    """

    status: int
    headers: Headers
    max_size: int
    key_is_clients: bool = False
    _body: bytearray = field(factory=bytearray, init=False)

    @property
    def content_type(self) -> str:
        """The media type without its parameters; empty if there is none."""
        return (self._header("content-type") or "").partition(";")[0].strip().lower()

    def receive_data(self, data: bytes) -> None:
        """Add bytes of the body. Beyond `max_size` they are dropped, and `data` raises."""
        if len(self._body) <= self.max_size:
            self._body += data

    @property
    def data(self) -> bytes:
        """The body of a successful answer.

        :raises LettaError: if Letta answered with another status than 200.
        :raises RemoteProtocolError: if the body is too large.
        """
        if self.status != 200:
            raise self.error()
        if len(self._body) > self.max_size:
            raise RemoteProtocolError(f"Letta's answer is larger than {self.max_size} bytes.")
        return bytes(self._body)

    @property
    def refusal(self) -> letta.ErrorAnswer:
        """What Letta says about a refusal."""
        return letta.decode_error_answer(bytes(self._body))

    def cancelled(self, run_id: str) -> bool:
        """Whether it confirms that this run was cancelled."""
        return self.status == 200 and letta.decode_cancelled(bytes(self._body), run_id)

    def take(self) -> bytes:
        """What came of the body so far, for a reader of its own that goes on from there."""
        data = bytes(self._body)
        self._body.clear()
        return data

    def error(self) -> SansioLettaError:
        """The refusal as an error for the client."""
        if 300 <= self.status < 400:
            return LettaError(
                f"Letta answered with a redirect ({self.status}): the base URL must be its final address."
            )
        return http_failure(
            self.status, self.refusal.text, self._retry_after(), key_is_clients=self.key_is_clients
        )

    def _retry_after(self) -> int | None:
        value = self._header("retry-after") or ""
        # A number too long to be one would take long to read; the advice is capped anyway.
        return int(value[:9]) if value.isascii() and value.isdigit() else None

    def _header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


def is_agent_id(text: str) -> bool:
    """Whether Letta would take this for an agent's id."""
    return _AGENT_ID.fullmatch(text) is not None


def find_agent(model: str, *, with_pending: bool = False) -> FindAgent | FetchAgent:
    """The question which agent a model's name, or an agent's id, stands for.

    :raises RequestError: if the name is too long to be any agent's; it need not be sent.
    """
    if len(model) > _MAX_NAME_SIZE:
        raise unknown_model(model)
    if is_agent_id(model):
        return FetchAgent(agent_id=model)
    return FindAgent(name=model, with_pending=with_pending)


def found_agent(
    model: str, answer: Answer, may_use: Callable[[letta.Agent], bool] = lambda _: True
) -> letta.Agent:
    """The answer to `find_agent`.

    :param may_use: whether an agent exists for the one who asks; there is no word of any other.
    :raises RequestError: if no agent has the name or id, or several have.
    :raises LettaError: if Letta refused to tell.
    :raises RemoteProtocolError: if the answer cannot be read.
    """
    if is_agent_id(model):
        if answer.status == 404:
            raise unknown_model(model)
        agent = letta.decode_agent(answer.data)
        if not may_use(agent):
            raise unknown_model(model)
        return agent
    # Letta's filter is exact; a gateway's or a stand-in's might not be.
    agents = [agent for agent in letta.decode_agents(answer.data) if agent.name == model and may_use(agent)]
    if not agents:
        raise unknown_model(model)
    if len(agents) > 1:
        raise ambiguous_model(model, [agent.id for agent in agents])
    return agents[0]
