"""Every turn of every recording as a scene: the request of a client, and Letta's responses to it."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from attrs import frozen

from recordings import SCENARIOS, recording, turns
from sansio_letta.recording.format import RecordedExchange, Recording
from sansio_letta.recording.requests import pending_after

from .keeping import Script, parse


@frozen(kw_only=True, eq=False)
class Scene:
    """One recorded turn, asked by a client of today.

    :param pending: the calls that the agent waits for when it begins.
    """

    name: str
    script: Script
    texts: tuple[str, ...]
    tools: tuple[dict[str, Any], ...]
    results: tuple[str, ...]
    pending: tuple[str, ...]

    def __str__(self) -> str:
        return self.name

    def request(self, model: str, *, stream: bool = True, mark: str = "") -> dict[str, Any]:
        """The chat request.

        :param mark: makes its texts unlike those of others.
        """
        calls = [
            {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
            for id in self.results
        ]
        called = [{"role": "assistant", "content": None, "tool_calls": calls}] if calls else []
        results = [{"role": "tool", "tool_call_id": id, "content": "18 C"} for id in self.results]
        users = [{"role": "user", "content": f"{text}{mark}"} for text in self.texts]
        body: dict[str, Any] = {"model": model, "stream": stream, "messages": [*called, *results, *users]}
        if self.tools:
            body["tools"] = [{"type": "function", "function": tool} for tool in self.tools]
        return body

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancels the run."""
        return any(parse(item).get("stop_reason") == "cancelled" for item in self.script.items)

    @property
    def boundaries(self) -> Sequence[int]:
        """The ends of the items, and the beginning, in bytes."""
        return (0, *self.script.ends)


def _scene(whole: Recording, exchange: RecordedExchange) -> Scene:
    asked: Any = exchange.request.json
    asked = asked if isinstance(asked, dict) else {}
    messages = asked.get("messages") or []
    approvals = [item for message in messages for item in message.get("approvals") or ()]
    results = tuple(item["tool_call_id"] for item in approvals if item.get("type") == "tool")
    texts = tuple(
        f"text {number} of {whole.scenario}"
        for number, message in enumerate(messages, 1)
        if not message.get("approvals")
    )
    tools = tuple(
        {"name": tool["name"], "parameters": tool["parameters"]} for tool in asked.get("client_tools") or ()
    )
    before = [earlier for earlier in turns(whole) if earlier.x < exchange.x]
    pending = tuple(item["tool_call_id"] for item in approvals if "tool_call_id" in item)
    if not approvals and before and (waits := pending_after(before[-1])):
        pending = tuple(call.tool_call_id for call in waits.tool_calls)
    if exchange.status == 200:
        *items, rest = exchange.body.split(b"\n\n")
        script = Script(headers=exchange.headers, items=(*(item + b"\n\n" for item in items),))
        assert not rest.strip() or exchange.end != "end"
    else:
        script = Script(status=exchange.status or 500, headers=exchange.headers, items=(exchange.body,))
    if not texts and not results:  # a turn always says something: the recorded one only allowed or denied
        texts = (f"text of {whole.scenario}",)
    return Scene(
        name=f"{whole.scenario}-{exchange.x}",
        script=script,
        texts=texts,
        tools=tools,
        results=results,
        pending=pending,
    )


def _scenes() -> Iterator[Scene]:
    for scenario in SCENARIOS:
        whole = recording(scenario)
        yield from (_scene(whole, exchange) for exchange in turns(whole))


SCENES: Final = tuple(_scenes())
STREAMED: Final = tuple(scene for scene in SCENES if scene.script.status == 200)


def spoken(scene: Scene) -> str:
    """The text of a scene, from Letta's own items: what the agent says, a blank line between messages."""
    text, last = "", None
    for item in scene.script.items:
        message = parse(item)
        content = message.get("content")
        if message.get("message_type") == "assistant_message" and content:
            said = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
            text += ("\n\n" if last not in (None, message["id"]) else "") + said
            last = message["id"]
    return text
