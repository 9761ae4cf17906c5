"""The model behind a rig's Letta server: it answers Chat Completions as the last user text says.

Runs in the rig's own environment: ``python scripted_model.py PORT``. One command a line, several combine:

=================== ==================================================================================
``say TEXT``        text of the answer; several lines are joined
``think TEXT``      reasoning, before anything else
``heard``           how often this very text was said, as far as the messages tell: ``heard 2 times``
``call NAME JSON``  a tool call; several lines make parallel calls, without JSON the arguments are ``{}``
``words N``         N numbered words: ``w0 w1 ...``
``repeat N TEXT``   TEXT N times over, each a piece of its own
``slow SECONDS``    a pause after every piece
``wait SECONDS``    a pause before the answer begins
``fail STATUS``     that HTTP status instead of an answer; ``fail STATUS xN`` to N requests of these words
``break``           the connection breaks where a streamed answer would end
``then``            what follows is for the next step, once the calls before it have their results
``task TEXT``       nothing here; but a chat program's own prompt that quotes it is answered with TEXT
``again``           what follows is for when a system message asks again, behind the answer before it
=================== ==================================================================================

Text without a command is echoed. Tool results that come last are quoted behind ``results:``, with a bar
between them, unless there is a ``then`` for them; when one of them holds ``fail STATUS``, the second step of a
turn fails with that status.

A chat program's own prompt, for a title or the like, is known by its beginning, ``### Task:``. It quotes the
chat, so no other command counts in it; of several ``task`` lines the last one does, and without any the answer
is an empty object.

Two habits of Roo Code are known: a user text behind results that only shows its editor's state says nothing,
and where it offers ``attempt_completion``, the quoted results are handed to it: Roo Code takes no plain text.
Two of Letta's legacy agents, too: their heartbeats behind results say nothing, and where they offer
``send_message``, text without a call is handed to it, and reasoning becomes an argument of the first call.
What Letta itself says where an agent is to go on from results that it has, says nothing either, nor does what
Letta Code puts around a user's text: ``<system-reminder>`` blocks.

``GET /seen?text=T`` counts the requests whose last user text holds T: a test can tell how often it was asked.
"""

import asyncio
import json
import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn  # type: ignore[import-not-found]  # the rig's environment has it, not the project's
from starlette.applications import Starlette  # type: ignore[import-not-found]  # the same
from starlette.requests import Request  # type: ignore[import-not-found]  # the same
from starlette.responses import JSONResponse, Response, StreamingResponse  # type: ignore[import-not-found]
from starlette.routing import Route  # type: ignore[import-not-found]  # the same

MODELS = ("gpt-4o-mini", "gpt-4.1")
CONTEXT_SIZE = 128_000  # tokens, as Letta asks for it
EMBEDDING_SIZE = 1_536
OWN_PROMPT = "### Task:"
EDITOR_STATE = "<environment_details>"
HEARTBEAT = '{\n  "type": "heartbeat"'
GO_ON = "<system-alert>Automated keep-alive ping."
REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>\n?", flags=re.DOTALL)
COMPLETION = "attempt_completion"
SAYING = "send_message"
ARGUMENTS_PIECE_SIZE = 6  # characters: small, so that every test sees arguments in fragments
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 5},
}

#: Every last user text that arrived, in order.
seen: list[str] = []
#: How often these words have had a failure for an answer.
failures: Counter[str] = Counter()
FAILURE = re.compile(r"fail (\d{3})(?: x(\d+))?")


@dataclass(kw_only=True)
class Script:
    """What one request is answered with."""

    reasoning: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, str]] = field(default_factory=list)  #: id, name, arguments
    pause: float = 0.0
    wait: float = 0.0
    failure: int | None = None
    breaks: bool = False


def content_text(content: Any) -> str:
    """Return the text of a message's content, whichever of its forms it has."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or ())


def own_text(content: Any) -> str:
    """Return a user's own text; of a message that is all reminders, the beginning of one."""
    text = content_text(content)
    return REMINDER.sub("", text) or text


def pieces(text: str) -> list[str]:
    """Cut text behind its blanks, as a model streams it; joined they are the text again."""
    return re.findall(r"[^ \n]*[ \n]*", text)[:-1]


def parts_of(text: str, verb: str) -> list[str]:
    """Cut a user's text at the lines that hold this verb alone."""
    return re.split(rf"^[ \t]*{verb}[ \t\r]*\n", text, flags=re.MULTILINE)


def new_call_id() -> str:
    """Make an id as OpenAI's look."""
    return f"call_{uuid.uuid4().hex[:20]}"


def script_of_user(text: str, heard: int) -> Script:
    """Read the commands of a user's text, which was said so many times."""
    script = Script()
    said: list[str] = []
    lines = [line.strip(" \t\r") for line in text.split("\n")]  # splitlines would cut at U+2028, too
    for line in lines:
        verb, _, rest = line.partition(" ")
        if verb == "say":
            said.append(rest)
        elif verb == "think":
            script.reasoning += pieces(rest)
        elif verb == "words":
            said.append(" ".join(f"w{i}" for i in range(int(rest))))
        elif verb == "heard":
            said.append(f"heard {heard} times")
        elif verb == "repeat":
            count, _, piece = rest.partition(" ")
            script.text += [piece] * int(count)
        elif verb == "call":
            name, _, arguments = rest.partition(" ")
            script.calls.append((new_call_id(), name, arguments or "{}"))
        elif verb == "slow":
            script.pause = float(rest)
        elif verb == "wait":
            script.wait = float(rest)
        elif verb == "fail":
            script.failure = failure_in(line, text)
        elif verb == "break":
            script.breaks = True
    script.text += pieces("\n".join(said))
    if not script.text and not script.calls and script.failure is None:
        script.text = pieces(f"You said: {text}")
    return script


def failure_in(words: str, text: str) -> int | None:
    """Return the status that these words ask for, unless the whole text has had it often enough."""
    found = FAILURE.search(words)
    if found is None or (found[2] and failures[text] >= int(found[2])):
        return None
    failures[text] += 1
    return int(found[1])


def script_of_own_prompt(text: str) -> Script:
    """Answer what a chat program asks behind the user's back, as the chat that it quotes says."""
    said = re.findall(r"^[ \t]*task ([^\r\n]*)", text, flags=re.MULTILINE)
    return Script(text=pieces(said[-1] if said else "{}"))


def script_of_results(results: list[str], offered: set[str]) -> Script:
    """Answer tool results: quote them, or fail as one of them says."""
    # No word boundary: Letta hands results over as JSON, a line may begin behind the letter of an escaped \n.
    quoted = "\n".join(results)
    if (failure := failure_in(quoted, quoted)) is not None:
        return Script(failure=failure)
    script = Script(text=pieces("results: " + " | ".join(results)))
    if COMPLETION in offered:
        script.calls.append((new_call_id(), COMPLETION, json.dumps({"result": "".join(script.text)})))
    return script


def script_of(body: dict[str, Any]) -> Script:
    """Decide by the last user text, and by how many steps with tool results, and answers, there were since."""
    results: list[str] = []  # of the last step
    step_count = answer_count = 0
    text = ""
    for message in reversed(body["messages"]):
        if message["role"] == "tool" and not step_count:
            results.insert(0, content_text(message.get("content")))
        elif message["role"] == "assistant" and message.get("tool_calls"):
            step_count += 1
        elif message["role"] == "assistant":
            answer_count += 1
        elif message["role"] == "user":
            text = own_text(message.get("content"))
            if not text.startswith((EDITOR_STATE, HEARTBEAT, GO_ON, "<system-reminder>")):
                break
    offered = {tool["function"]["name"] for tool in body.get("tools") or ()}
    users = (message for message in body["messages"] if message["role"] == "user")
    heard = sum(own_text(message.get("content")) == text for message in users)
    answers = parts_of(text, "again")
    steps = parts_of(answers[min(answer_count, len(answers) - 1)], "then")
    if not results:
        seen.append(text)
        own = text.startswith(OWN_PROMPT)
        script = script_of_own_prompt(text) if own else script_of_user(steps[0], heard)
    elif step_count < len(steps):
        script = script_of_user(steps[step_count], heard)
    else:
        script = script_of_results(results, offered)
    return legacy(script) if SAYING in offered else script


def legacy(script: Script) -> Script:
    """Say the same with calls alone."""
    if script.text and not script.calls:
        script.calls = [(new_call_id(), SAYING, json.dumps({"message": "".join(script.text)}))]
    if script.calls:
        ident, name, arguments = script.calls[0]
        thoughts = {"thinking": "".join(script.reasoning) or "Hm."}
        script.calls[0] = (ident, name, json.dumps({**thoughts, **json.loads(arguments)}))
    script.text, script.reasoning = [], []
    return script


def whole(script: Script, head: dict[str, Any]) -> dict[str, Any]:
    """Build the answer to a request that does not stream."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(script.text) or None}
    if script.reasoning:
        message["reasoning_content"] = "".join(script.reasoning)
    if script.calls:
        message["tool_calls"] = [
            {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}
            for ident, name, arguments in script.calls
        ]
    finish_reason = "tool_calls" if script.calls else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": USAGE}


def deltas(script: Script) -> list[dict[str, Any]]:
    """List the deltas of a streamed answer, in order."""
    listed: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    listed += [{"reasoning_content": piece} for piece in script.reasoning]
    listed += [{"content": piece} for piece in script.text]
    for index, (ident, name, arguments) in enumerate(script.calls):
        start = {"index": index, "id": ident, "type": "function", "function": {"name": name, "arguments": ""}}
        listed.append({"tool_calls": [start]})
        for cut in range(0, len(arguments), ARGUMENTS_PIECE_SIZE):
            piece = arguments[cut : cut + ARGUMENTS_PIECE_SIZE]
            listed.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    return listed


async def stream(script: Script, head: dict[str, Any], *, with_usage: bool) -> AsyncIterator[str]:
    """Send the answer piece by piece, with the script's pauses."""

    def event(**fields: Any) -> str:
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', **fields})}\n\n"

    for number, delta in enumerate(deltas(script)):
        yield event(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
        if number and script.pause:
            await asyncio.sleep(script.pause)
    if script.breaks:
        raise ConnectionAbortedError("as the script says")
    finish_reason = "tool_calls" if script.calls else "stop"
    yield event(choices=[{"index": 0, "delta": {}, "finish_reason": finish_reason}])
    if with_usage:
        yield event(choices=[], usage=USAGE)
    yield "data: [DONE]\n\n"


async def complete(request: Request) -> Response:
    """``POST /v1/chat/completions``."""
    body = await request.json()
    script = script_of(body)
    await asyncio.sleep(script.wait)
    if script.failure is not None:
        # Letta Code repeats a request by itself if the type says that the server is to blame.
        kind = "server_error" if script.failure >= 500 else "invalid_request_error"
        error = {"message": "scripted failure", "type": kind}
        return JSONResponse({"error": error}, status_code=script.failure)
    ident = f"chatcmpl-{uuid.uuid4().hex}"
    head = {"id": ident, "created": int(time.time()), "model": body.get("model", MODELS[0])}
    if not body.get("stream"):
        return JSONResponse(whole(script, head))
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    return StreamingResponse(stream(script, head, with_usage=with_usage), media_type="text/event-stream")


async def list_models(request: Request) -> Response:
    """``GET /v1/models``: Letta learns its models, and their context size, from here."""
    described = {"object": "model", "created": 0, "owned_by": "rig", "context_length": CONTEXT_SIZE}
    data = [{"id": name, "max_model_len": CONTEXT_SIZE, **described} for name in MODELS]
    return JSONResponse({"object": "list", "data": data})


async def embed(request: Request) -> Response:
    """``POST /v1/embeddings``: the same vector for every input."""
    body = await request.json()
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector = [0.01] * EMBEDDING_SIZE
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(inputs))]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return JSONResponse({"object": "list", "model": body["model"], "data": data, "usage": usage})


async def count_seen(request: Request) -> Response:
    """``GET /seen?text=``: how many requests had this in their last user text."""
    wanted = request.query_params["text"]
    return JSONResponse({"count": sum(wanted in text for text in seen)})


app = Starlette(
    routes=[
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/v1/models", list_models),
        Route("/v1/embeddings", embed, methods=["POST"]),
        Route("/seen", count_seen),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
