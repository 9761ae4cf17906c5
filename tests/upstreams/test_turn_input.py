"""A turn's messages, answers and tools as Letta's JSON."""

import orjson
import pytest

from drive import CONFLICT, agent_json
from drive_cycle import Client, chat
from sansio_letta.turn.request import (
    AgentMessage,
    CallAnswer,
    Decision,
    Image,
    Mark,
    Message,
    SystemMessage,
    Text,
    Tool,
    ToolResult,
    UserMessage,
)
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.commands import OpenStream
from sansio_letta.upstreams.rest.turn_input import to_answer, to_client_tool, to_message, to_result

MESSAGES: dict[str, tuple[Message, letta.MessageCreate]] = {
    "a user's": (UserMessage(content="Hi", name="Ann"), letta.MessageCreate(content="Hi", name="Ann")),
    "the agent's": (AgentMessage(content="Hello."), letta.MessageCreate(role="assistant", content="Hello.")),
    "the system's": (
        SystemMessage(content="Be brief."),
        letta.MessageCreate(role="system", content="Be brief."),
    ),
}


@pytest.mark.parametrize(("message", "wire"), MESSAGES.values(), ids=MESSAGES)
def test_messages_have_their_roles(message: Message, wire: letta.MessageCreate) -> None:
    assert to_message(message) == wire


IMAGES: dict[str, tuple[str, letta.Base64Source | letta.UrlSource]] = {
    "in the URL": (
        "data:image/png;base64,iVBO,/+=",
        letta.Base64Source(media_type="image/png", data="iVBO,/+="),
    ),
    "capitals": ("DATA:Image/JPEG;BASE64,iVBO", letta.Base64Source(media_type="image/jpeg", data="iVBO")),
    "elsewhere": ("https://example.org/a,b.png", letta.UrlSource(url="https://example.org/a,b.png")),
    "without a comma": ("https://example.org/a.png", letta.UrlSource(url="https://example.org/a.png")),
}


@pytest.mark.parametrize(("url", "source"), IMAGES.values(), ids=IMAGES)
def test_an_image_is_sent_as_data_or_as_its_url(url: str, source: letta.Base64Source | letta.UrlSource) -> None:
    parts = (letta.TextContent(text="Look:"), letta.ImageContent(source=source))
    content = (Text(text="Look:"), Image(url=url))
    assert to_message(UserMessage(content=content)) == letta.MessageCreate(content=parts)
    assert to_answer(ToolResult(call_id="call-1", content=content)) == letta.ToolReturn(
        tool_call_id="call-1", tool_return=parts
    )


def test_no_two_requests_have_the_same_otid() -> None:
    """Letta 0.16.7 answers a background request in a conversation by its otids, whatever the agent."""
    otids = []
    for token in ("request1", "request2"):
        client = Client(chat(stream=True), token=token)
        client.answer([agent_json()])
        client.stream(CONFLICT)
        client.answer(agent_json("call-1"))
        runs = [command for command in client.commands if isinstance(command, OpenStream)]
        assert len(runs) == 2
        otids += [orjson.loads(run.body)["messages"][-1]["otid"] for run in runs]
    assert len(set(otids)) == 4
    assert len({Mark.read(otid) for otid in otids}) == 1


ANSWERS: dict[str, tuple[CallAnswer, letta.ToolReturn | letta.Approval]] = {
    "a result": (
        ToolResult(call_id="call-1", content="18 C"),
        letta.ToolReturn(tool_call_id="call-1", tool_return="18 C"),
    ),
    "a failure": (
        ToolResult(call_id="call-1", content="No.", is_error=True),
        letta.ToolReturn(tool_call_id="call-1", tool_return="No.", status="error"),
    ),
    "allowed": (
        Decision(call_id="call-1", approve=True),
        letta.Approval(tool_call_id="call-1", approve=True),
    ),
    "denied": (
        Decision(call_id="call-1", approve=False, reason="No."),
        letta.Approval(tool_call_id="call-1", approve=False, reason="No."),
    ),
}


@pytest.mark.parametrize(("answer", "wire"), ANSWERS.values(), ids=ANSWERS)
def test_answers_to_calls(answer: CallAnswer, wire: letta.ToolReturn | letta.Approval) -> None:
    assert to_answer(answer) == wire
    if isinstance(wire, letta.ToolReturn):
        assert to_result(wire) == answer


def test_a_schema_goes_out_as_it_came() -> None:
    schema = {"type": "object", "x": {}}
    sent = to_client_tool(Tool(name="f", description="Does it.", parameters=schema))
    assert sent == letta.ClientTool(name="f", description="Does it.", parameters=schema)
    assert sent.parameters is schema
