"""Tables of the documentation that are generated from the code, so that they cannot contradict it."""

import ast
import importlib.util
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_args

import orjson
from attrs import fields

from letta_server import Settings
from letta_server.cli.app import app
from letta_server.cli.recordings import recordings_app
from letta_server.observe.metrics import METRICS
from letta_server.settings import server as settings_module
from sansio_letta import Config, HttpRequest, Kept, Proxy, ResponseBody, ResponseHead, Summary, errors
from sansio_letta import config as config_module
from sansio_letta.dialects.background_prompts import PLAIN_PROBES, PROBE_REPLY_SIZE, PROBES, TASK_PROMPTS, Where
from sansio_letta.dialects.chat_completions import objects as chat_wire
from sansio_letta.dialects.chat_completions.request import FIELDS
from sansio_letta.dialects.chat_completions.writer import ChunkWriter, Heading
from sansio_letta.dialects.fields import Treatment
from sansio_letta.errors import Advice, Failure
from sansio_letta.proxy import routing
from sansio_letta.proxy import summary as summary_module
from sansio_letta.proxy.policies import POLICIES, PREFIX
from sansio_letta.recording import format as recording_format
from sansio_letta.recording import redact
from sansio_letta.turn import events
from sansio_letta.turn.answer import Answer
from sansio_letta.turn.approval import approval_question
from sansio_letta.turn.thread_queue import thread_busy
from sansio_letta.turn.upstream import RunEvent, RunFailed, RunLost, RunStopped
from sansio_letta.upstreams.rest import commands as rest_commands
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest import run as stream
from sansio_letta.upstreams.rest.calls import ToolBridge
from sansio_letta.upstreams.rest.exchange import _transport_error

ROOT: Final = Path(__file__).parent.parent


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _code(value: object) -> str:
    return f"`{value}`"


def _codes(values: Iterable[object]) -> str:
    return ", ".join(map(_code, values))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


# --- The request ----------------------------------------------------------------------------------------------

#: What supported fields do that accept more than one value.
HONOURED: Final[Mapping[str, str]] = {
    "model": "the agent's exact name or its id; required",
    "messages": "everything after the last assistant message is sent to the agent; required, not empty",
    "stream": "chunks, or one completion; default: false",
    "stream_options": "`include_usage`: one more chunk, with the usage; `include_obfuscation` is accepted, but "
    "has no effect",
    "tools": "functions, offered to the agent for this request; other types are refused",
    "tool_choice": "`auto`, `none`, `allowed_tools` in mode `auto`; a forced call is "
    "[requested and validated](structured-output.md)",
    "metadata": "`letta_chat_key`, a string or a number, names "
    "[the chat](threads.md#naming-a-chat) if no header does; nothing else in it is read",
    "stop": "the text ends before it: [Stop sequences](#stop-sequences)",
    "parallel_tool_calls": "`false`: [one call at a time](#one-call-at-a-time)",
    "response_format": "`text`; `json_object` and `json_schema` are "
    "[requested and validated](structured-output.md)",
}


def honoured_fields() -> str:
    """Fields that change the answer."""
    return _table(
        ("field", "effect"),
        (
            (_code(name), HONOURED[name])
            for name, rule in FIELDS.items()
            if rule.treatment is Treatment.HONOUR and not rule.only
        ),
    )


def refused_fields() -> str:
    """Fields that are supported with one value and refused with any other."""
    return _table(
        ("field", "accepted", "any other value"),
        (
            (
                _code(name),
                " or ".join(
                    "`null` or absent" if value is None else _code(_json(value)) for value in rule.only
                ),
                f"400: {rule.why}",
            )
            for name, rule in FIELDS.items()
            if rule.only
        ),
    )


def noticed_fields() -> str:
    """Fields that are ignored and reported."""
    return _codes(name for name, rule in FIELDS.items() if rule.treatment is Treatment.NOTICE) + "."


def quiet_fields() -> str:
    """Fields that are ignored silently."""
    return _codes(name for name, rule in FIELDS.items() if rule.treatment is Treatment.QUIET) + "."


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def endpoints() -> str:
    """Paths and methods."""
    rows = []
    for path, endpoint in routing._PATHS.items():
        rows.append((_code(path or "/"), ", ".join(routing._METHODS[endpoint]), _ANSWERS[endpoint.name]))
        if endpoint is routing.Endpoint.MODELS:
            model = routing.Endpoint.MODEL
            rows.append((_code("/models/{id}"), ", ".join(routing._METHODS[model]), _ANSWERS[model.name]))
    return _table(("path", "methods", "response"), rows)


_ANSWERS: Final = {
    "CHAT": "a turn of the agent",
    "MODELS": "all agents as models",
    "MODEL": "one agent, by name or id",
    "OLLAMA_VERSION": "a version number, as [Ollama](clients/coding-agents.md#visual-studio-code) does",
    "OLLAMA_TAGS": "all agents, in the format of Ollama's model list",
    "OLLAMA_SHOW": "one agent, in Ollama's format",
    "HEALTH": "200: the process is alive",
    "READY": "200 if Letta answers, otherwise 503 with the reason",
    "ROOT": "a list of the endpoints",
}

# --- The stream -----------------------------------------------------------------------------------------------

_TOOL: Final = "get_weather"
_CALL: Final = letta.ToolCall(tool_call_id="call_1", name=_TOOL, arguments='{"city":')

#: One message of each type, as the table passes it to the machine.
SAMPLES: Final[Mapping[str, tuple[letta.Message, ...]]] = {
    "ping": (letta.Ping(run_id="run-1"),),
    "reasoning_message": (letta.ReasoningMessage(id="m1", reasoning="Hm."),),
    "hidden_reasoning_message": (letta.HiddenReasoningMessage(id="m1"),),
    "assistant_message": (letta.AssistantMessage(id="m1", content="Hello"),),
    "tool_call_message": (letta.ToolCallMessage(id="m1", tool_calls=(_CALL,)),),
    "tool_return_message": (letta.ToolReturnMessage(id="m1"),),
    "approval_request_message": (letta.ApprovalRequestMessage(id="m1", tool_calls=(_CALL,)),),
    "approval_response_message": (letta.ApprovalResponseMessage(),),
    "user_message": (letta.UserMessage(),),
    "system_message": (letta.SystemMessage(),),
    "summary_message": (letta.SummaryMessage(),),
    "event_message": (letta.EventMessage(),),
    "stop_reason": (letta.StopReason(stop_reason="end_turn"),),
    "usage_statistics": (letta.StopReason(stop_reason="end_turn"), letta.UsageStatistics(prompt_tokens=1)),
    "error_message": (letta.ErrorMessage(error_type="llm_error", message="no"),),
    "[DONE]": (letta.StopReason(stop_reason="end_turn"), letta.Done()),
    "any other": (letta.UnknownMessage(message_type="new", raw={}),),
}


def _started_run() -> stream.RunStream:
    run = stream.RunStream(ToolBridge({_TOOL: _TOOL}))
    list(run.receive_message(letta.AssistantMessage(id="m1", content="")))
    return run


def messages() -> str:
    """Letta's messages, in a run that has begun: state, events, chunks."""
    rows = []
    for tag in (*letta.MESSAGE_TYPES, "[DONE]", "any other"):
        run, sample = _started_run(), SAMPLES[tag]
        for message in sample[:-1]:
            list(run.receive_message(message))
        before = run.state
        words = _told(run.receive_message(sample[-1]))
        state = "stays" if run.state is before and type(sample[-1]) in stream._QUIET else _code(run.state.name)
        rows.append((_code(tag) if tag != "any other" else tag, state, _names(words), _chunks(words)))
    return _table(("message", "state", "events", "in the client's stream"), rows)


def _names(words: Sequence[object]) -> str:
    return "<br>".join(_code(type(word).__name__) for word in words) or "-"


_WRITER: Final = ChunkWriter(Heading(completion_id="c", created=0, model="m"))


def _chunks(words: Sequence[events.Event]) -> str:
    shown = []
    for word in words:
        match word:
            case events.KeepAlive():
                shown.append(_code(": keepalive"))
            case events.TurnFailed():
                shown.append(_code('{"error":{...}}'))
            case events.TurnFinished():
                shown.append(f"{_code('finish_reason')}, usage if asked for, {_code('[DONE]')}")
            case _:
                # With spaces, unlike the wire format, so that a narrow column can be wrapped.
                deltas = [json.loads(chat_wire.encode_delta(delta)) for delta in _WRITER.deltas(word)]
                shown += [_code(_cell(json.dumps(delta))) for delta in deltas]
    return "<br>".join(shown) or "-"


#: As Letta 0.16.7 has them.
STOP_REASONS: Final = (
    "end_turn",
    "no_tool_call",
    "tool_rule",
    "cancelled",
    "max_steps",
    "max_tokens_exceeded",
    "requires_approval",
    "error",
    "llm_api_error",
    "invalid_llm_response",
    "invalid_tool_call",
    "insufficient_credits",
    "context_window_overflow_in_system_prompt",
)


def stop_reasons() -> str:
    """How each stop reason ends the reply."""
    rows = []
    for reason in STOP_REASONS:
        if reason == "requires_approval":
            rows.append((f"{_code(reason)}, for the client's tools", _outcome(reason, _TOOL)))
            rows.append((f"{_code(reason)}, for one of the agent's own tools", _outcome(reason, "delete_all")))
        else:
            rows.append((_code(reason), _outcome(reason, None)))
    return _table(("Letta's stop reason", "the client gets"), rows)


def _told(run_events: Iterable[RunEvent]) -> list[events.Event]:
    """Return the events for the client that result from the first events of a run, if the turn ends with it."""
    answer, told = Answer(), list[events.Event]()
    answer.started = True
    for event in run_events:
        match event:
            case RunStopped(waiting=waiting):
                told += answer.finish(event, approval_question(waiting) if waiting else None)
            case RunFailed(error=error):
                told.append(events.TurnFailed(error=error, kept=Kept.NOTHING))
            case RunLost():
                raise AssertionError("a stream tells its end")
            case _:
                told += answer.add(event)
    return told


def _outcome(reason: str, tool: str | None) -> str:
    run = _started_run()
    if tool is not None:
        call = letta.ToolCall(tool_call_id="call_1", name=tool, arguments="{}")
        list(run.receive_message(letta.ApprovalRequestMessage(id="m1", tool_calls=(call,))))
    list(run.receive_message(letta.StopReason(stop_reason=reason)))
    words = _told(run.receive_message(letta.Done()))
    finished = words[-1]
    if isinstance(finished, events.TurnFailed):
        return f"the error {_code(finished.error.code)}"
    assert isinstance(finished, events.TurnFinished)
    notice = "a text that lists the waiting calls, then " if len(words) > 1 else ""
    return f"{notice}`finish_reason` {_code(finished.reason.value)}"


def event_list() -> str:
    """The turn's events."""
    return _table(
        ("event", "says"), ((_code(cls.__name__), _first_line(cls)) for cls in get_args(events.Event))
    )


_THREAD: Final = events.AgentThread(agent_id="ID")
_COMMANDS: Final[Mapping[type[Any], rest_commands.Command]] = {
    rest_commands.FindAgent: rest_commands.FindAgent(name="NAME"),
    rest_commands.FetchAgent: rest_commands.FetchAgent(agent_id="ID"),
    rest_commands.OpenStream: rest_commands.OpenStream(
        thread=_THREAD, request=letta.StreamRequest(messages=())
    ),
    rest_commands.CancelRun: rest_commands.CancelRun(agent_id="ID", run_id="RUN"),
    rest_commands.ResumeRun: rest_commands.ResumeRun(run_id="RUN", seq_id=7),
    rest_commands.FetchRun: rest_commands.FetchRun(run_id="RUN"),
    rest_commands.FindRuns: rest_commands.FindRuns(agent_id="ID"),
    rest_commands.FetchKept: rest_commands.FetchKept(run_id="RUN"),
    rest_commands.FetchUsage: rest_commands.FetchUsage(run_id="RUN"),
    rest_commands.FindConversations: rest_commands.FindConversations(agent_id="ID", summary="MARK"),
    rest_commands.CreateConversation: rest_commands.CreateConversation(agent_id="ID", summary="MARK"),
    rest_commands.FetchConversation: rest_commands.FetchConversation(conversation_id="CONVERSATION"),
    rest_commands.DeleteConversation: rest_commands.DeleteConversation(conversation_id="CONVERSATION"),
    rest_commands.UpdateConversation: rest_commands.UpdateConversation(
        conversation_id="CONVERSATION", summary="MARK"
    ),
    rest_commands.FetchLast: rest_commands.FetchLast(conversation_id="CONVERSATION"),
    rest_commands.FetchMessages: rest_commands.FetchMessages(agent_id="ID", count=100),
    rest_commands.AnswerCalls: rest_commands.AnswerCalls(
        thread=_THREAD, answers=letta.ApprovalCreate(approvals=())
    ),
    rest_commands.FetchToolbox: rest_commands.FetchToolbox(agent_id="ID"),
    rest_commands.FindToolboxes: rest_commands.FindToolboxes(tag="MARK"),
    rest_commands.ChangeToolbox: rest_commands.ChangeToolbox(
        toolbox=letta.Toolbox(agent_id="ID", tools=(), rules=(), tags=())
    ),
    rest_commands.FindTools: rest_commands.FindTools(names=("NAME",)),
    rest_commands.SearchTools: rest_commands.SearchTools(text="PREFIX"),
    rest_commands.MakeTool: rest_commands.MakeTool(tool=letta.ClientTool(name="NAME", parameters={}), tags=()),
    rest_commands.DeleteTool: rest_commands.DeleteTool(tool_id="TOOL"),
    rest_commands.ListAgents: rest_commands.ListAgents(limit=Config().agent_page_count),
    rest_commands.CheckHealth: rest_commands.CheckHealth(),
    rest_commands.IdentifyServer: rest_commands.IdentifyServer(),
}


def commands() -> str:
    """Commands to the transport."""
    return _table(
        ("command", "request", "purpose"),
        (
            (_code(cls.__name__), _code(f"{_COMMANDS[cls].method} {_COMMANDS[cls].target}"), _first_line(cls))
            for cls in get_args(rest_commands.Command)
        ),
    )


# --- Errors ---------------------------------------------------------------------------------------------------

#: Errors caused by the client: status, and when they occur. They are raised all over the code.
REQUEST_CODES: Final[Mapping[str, tuple[str, str]]] = {
    "missing_required_parameter": ("400", "a field is missing; `param` names it"),
    "invalid_type": ("400", "a field has the wrong JSON type"),
    "invalid_value": (
        "400",
        "a value is invalid here; several agents have this name; nothing in the request is new",
    ),
    "unsupported_value": ("400", "the field is supported, but not with this value"),
    "unsupported_parameter": ("400", "the field is not supported, or not with this agent"),
    "unsupported_agent": ("400", "the agent's model wrote text, and the agent has no tool to send it with"),
    "task_refused": (
        "400",
        "the request is a [background prompt](threads.md#background-prompts), and `--tasks refuse` is set or "
        "the agent is [a legacy agent](legacy-agents.md#conversations)",
    ),
    "invalid_json": ("400", "the body is not JSON"),
    "array_above_max_length": ("400", "more messages, parts of new messages, or tools than the limit"),
    "invalid_http": ("400, 431", "the request is not valid HTTP, or its head is too long (server only)"),
    "invalid_api_key": ("401", "the key is missing or unknown"),
    "insufficient_permissions": ("403", "a key that is passed through may not do this in Letta"),
    "host_not_allowed": ("403", "the request is for a host name that is not the server's (server only)"),
    "origin_not_allowed": ("403", "the request is from a web page of another origin (server only)"),
    "model_not_found": ("404", "no agent has this name or id, or the key may not use it"),
    "conversation_not_found": (
        "404",
        "the [conversation](threads.md#how-chats-are-stored) named by its id does not exist or is another "
        "agent's; or the agent is a legacy agent; or a chat's conversation and its replacement were deleted",
    ),
    "unknown_url": ("404", "no such path; the message says what to use instead"),
    "method_not_allowed": ("405", "the header `allow` lists the methods"),
    "request_too_large": ("413", "the body exceeds a limit, or comes in chunks that are too small"),
    "unsupported_media_type": ("415", "the body is compressed"),
    "idempotency_key_reused": (
        "422",
        "the `Idempotency-Key` was already used for another request: another body, model, chat or policy. "
        "Nothing was sent to the agent",
    ),
    "rate_limit_exceeded": ("429", "the key's rate limit is exceeded; `retry-after` says when to retry"),
}


def request_errors() -> str:
    """Errors caused by the client."""
    return _table(
        ("status", "code", "when"),
        ((status, _code(code), when) for code, (status, when) in REQUEST_CODES.items()),
    )


def _advice(advice: Advice) -> tuple[str, str, str]:
    headers = []
    if advice.should_retry is not None:
        headers.append(f"x-should-retry: {str(advice.should_retry).lower()}")
    if advice.retry_after is not None:
        headers.append(f"retry-after: {advice.retry_after}")
    kind = f"{_code(advice.type)}<br>{_code(advice.code)}"
    return str(advice.status), kind, "<br>".join(map(_code, headers)) or "-"


_ADVICE: Final = ("status", "type, code", "header")


def run_errors() -> str:
    """Runs that failed."""
    rows = [(_code(reason), *_advice(advice)) for reason, advice in errors._RUN_FAILURES.items()]
    return _table(("Letta says", *_ADVICE), [*rows, ("any other", *_advice(errors.LettaError.advice))])


def http_errors() -> str:
    """Requests that Letta rejected."""
    rows = [(str(status), *_advice(advice)) for status, advice in errors._HTTP_FAILURES.items()]
    return _table(("Letta answers", *_ADVICE), [*rows, ("any other", *_advice(errors.LettaError.advice))])


_FAILED: Final[Mapping[Failure, str]] = {
    Failure.NOT_SENT: "no connection to Letta",
    Failure.BROKEN: "the connection broke before the response was complete",
    Failure.SILENT: "Letta sent nothing for too long",
}


def transport_errors() -> str:
    """Exchanges with Letta that failed below HTTP."""
    return _table(
        ("what happened", *_ADVICE),
        ((_FAILED[failure], *_advice(_transport_error(failure, "").advice)) for failure in Failure),
    )


def _given_up() -> Advice:
    """The error for a turn that timed out before anything was sent to Letta."""
    body = b'{"model":"Milo","messages":[{"role":"user","content":"hi"}]}'
    request = HttpRequest(method="POST", target="/v1/chat/completions", body=body)
    cycle = Proxy().open(request, token="00000000", created=0, now=0.0)
    assert isinstance(cycle.next_event(), rest_commands.FindAgent)
    cycle.handle_deadline(Config().turn_timeout)
    head, said = cycle.next_event(), cycle.next_event()
    assert isinstance(head, ResponseHead)
    assert isinstance(said, ResponseBody)
    error = json.loads(said.data)["error"]
    should_retry = {"true": True, "false": False}.get(dict(head.headers).get("x-should-retry", ""))
    return Advice(status=head.status, type=error["type"], code=error["code"], should_retry=should_retry)


def proxy_errors() -> str:
    """Errors from the proxy itself."""
    return _table(
        ("what happened", *_ADVICE),
        (
            ("the previous turn did not end in time, or too many turns wait", *_advice(thread_busy("").advice)),
            ("the turn timed out", *_advice(_given_up())),
            (
                "the agent's reply was invalid twice: [Structured output](structured-output.md)",
                *_advice(errors.invalid_reply("").advice),
            ),
            (
                "the bodies being read exceed `--max-buffered-size`",
                *_advice(errors.overloaded().advice),
            ),
            ("the proxy is shutting down", *_advice(errors.shutting_down().advice)),
        ),
    )


def kept_error() -> str:
    """The response once something was stored."""
    kept = errors.kept_failure(errors.LettaError("gone"))
    status, _, header = _advice(kept.advice)
    return f"status {status}, type {_code(kept.advice.type)}, the code of the original error, header {header}."


def codes_in_source() -> set[str]:
    """Every ``code=`` of an error in the sources."""
    found: set[str] = set()
    for folder in (ROOT / "sansio_letta", ROOT / "transports" / "letta_server"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.keyword) and node.arg == "code":
                    found |= {
                        item.value
                        for item in ast.walk(node.value)
                        if isinstance(item, ast.Constant)
                        and isinstance(item.value, str)
                        and re.fullmatch(r"[a-z]+(_[a-z]+)+", item.value)
                    }
    return found


# --- Settings -------------------------------------------------------------------------------------------------


#: All commands of ``letta-proxy``.
COMMANDS: Final = ("serve", "demo", "keys", "threads", "repair", "record", "replay", "inspect", "diff")


def _arguments(command: str) -> list[Any]:
    source = recordings_app if command in list(recordings_app) else app
    # `keys` has commands of its own, of which one takes options.
    found = source[command]["new"] if command == "keys" else source[command]
    return [argument for argument in found.assemble_argument_collection() if argument.show]


def option_names(command: str) -> set[str]:
    """All options that a command of ``letta-proxy`` takes."""
    return {name for argument in _arguments(command) for name in argument.names if name.startswith("--")}


def _value(value: object) -> str:
    if value is None or value is inspect.Parameter.empty or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        return _codes(value)
    if isinstance(value, Enum):
        return _code(str(value.value).replace("_", "-"))
    if isinstance(value, bool):
        return "on" if value else "off"
    return _code(f"{value:g}" if isinstance(value, float) else value)


def _options(command: str) -> str:
    rows = []
    for argument in _arguments(command):
        choices = argument.get_choices()
        what = _cell(argument.parameter.help or "") + (f" One of {_codes(choices)}." if choices else "")
        default = "required" if argument.required else _value(argument.field_info.default)
        names = [*argument.names, *(argument.parameter.env_var or ())]
        rows.append(("<br>".join(map(_code, names)), default, what))
    environment = ", environment" if "_" in "".join(row[0] for row in rows) else ""
    return _table((f"option{environment}", "default", "meaning"), rows)


def _commented_fields(module: ModuleType, cls: type[Any]) -> dict[str, str]:
    """The comment of each field in the source, above it or at the end of its line."""
    lines = inspect.getsource(module).splitlines()
    node = next(
        item
        for item in ast.parse("\n".join(lines)).body
        if isinstance(item, ast.ClassDef) and item.name == cls.__name__
    )
    said = {}
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        above: list[str] = []
        number = item.lineno - 2
        while lines[number].lstrip().startswith("#:"):
            above.insert(0, lines[number].lstrip().removeprefix("#:").strip())
            number -= 1
        behind = lines[(item.end_lineno or item.lineno) - 1].partition("  #")[2].removeprefix(":").strip()
        said[item.target.id] = " ".join(above) or behind
    return said


def core_config() -> str:
    """`Config`: the core's limits and policies."""
    said = _commented_fields(config_module, Config)
    return _table(
        ("field", "default", "meaning"),
        (
            (_code(attribute.name), _value(attribute.default), _cell(said[attribute.name]))
            for attribute in fields(Config)
        ),
    )


def server_settings() -> str:
    """`Settings` that are not on the command line."""
    said = _commented_fields(settings_module, Settings)
    options = {name.removeprefix("--").replace("-", "_") for name in option_names("serve")}
    return _table(
        ("field", "default", "meaning"),
        (
            (_code(attribute.name), _value(attribute.default), _cell(said[attribute.name]))
            for attribute in fields(Settings)
            if attribute.name not in options | {"recordings", "access", "turns", "threads", "policies"}
        ),
    )


def policies() -> str:
    """Policies and their values."""
    rows = []
    for name, policy in POLICIES.items():
        values = "; ".join(_codes(value.value for value in level) for level in policy.levels)
        if policy.takes_names:
            values += "; or names of tools, which a request can only replace by the strictest value"
        default = getattr(Config(), policy.field).value
        loosens = f"no: {policy.guards}" if policy.guards else "yes"
        header = "-".join(word.capitalize() for word in (PREFIX + name).split("-"))
        rows.append((_code(name), values, _code(default), _code(header), loosens))
    return _table(
        ("policy", "values, most permissive first", "default", "header", "may a request loosen it?"),
        rows,
    )


def background_prompts() -> str:
    """Beginnings of background prompts, and where they are."""
    places = {Where.SYSTEM: "system", Where.LAST: "last"}
    return _table(
        ("program", "asks for", "message", "starts with"),
        (
            (
                prompt.program,
                prompt.purpose,
                places[prompt.where],
                _code(prompt.begins.replace("\n", " ")) + (f" … {_code(prompt.then)}" if prompt.then else ""),
            )
            for prompt in TASK_PROMPTS
        ),
    )


def probes() -> str:
    """Test messages of gateways."""
    rows = [(_code(text), program, f"at most {PROBE_REPLY_SIZE}") for text, program in PROBES.items()]
    rows += [(_code(text), program, "any") for text, program in PLAIN_PROBES.items()]
    return _table(("text", "gateway", "`max_tokens`"), rows)


def attacks() -> str:
    """The attacks that are tested, and their results."""
    path = ROOT / "tests" / "server" / "attacks.py"
    spec = importlib.util.spec_from_file_location("attacks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kinds: dict[str, list[tuple[str, str]]] = {}
    for row in (*module.ATTACKS, *module.TRIALS.values()):
        kinds.setdefault(row.kind, []).append((row.what, row.outcome))
    return _table(
        ("kind", "attack", "result"),
        (
            (kind if number == 0 else "", _cell(what), _cell(outcome))
            for kind, rows in kinds.items()
            for number, (what, outcome) in enumerate(rows)
        ),
    )


# --- The service ----------------------------------------------------------------------------------------------


def metrics() -> str:
    """Prometheus metrics."""
    return _table(
        ("metric", "type", "labels", "meaning"),
        (
            (_code(name), metric.kind.__name__.lower(), _codes(metric.labels), _cell(metric.help))
            for name, metric in METRICS.items()
        ),
    )


#: Log fields that replace a field of the summary, or are added to it.
_LOGGED: Final[Mapping[str, str]] = {
    "usage": "prompt_tokens ...",
    "settled": "missing_calls, stale_calls, denied_calls",
}
_ALSO_LOGGED: Final = (
    ("first_seconds", "seconds until the first byte of the response body"),
    ("seconds", "seconds until the end of the response"),
)


def log_fields() -> str:
    """Fields of a request's log line."""
    said = _commented_fields(summary_module, Summary)
    rows = [
        (_code(_LOGGED.get(attribute.name, attribute.name)), said[attribute.name])
        for attribute in fields(Summary)
    ]
    return _table(("field", "meaning"), [*rows, *((_code(name), what) for name, what in _ALSO_LOGGED)])


# --- The code -------------------------------------------------------------------------------------------------


def layers() -> str:
    """The layers of the core, as import-linter checks them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = [
        each
        for each in settings["tool"]["importlinter"]["contracts"]
        if each["type"] == "layers" and "sansio_letta" in each.get("containers", ())
    ]
    rows = "\n".join(f"  {layer.replace(' :', ',')}" for layer in contract["layers"])
    text = f"```text\n{rows}\n```"
    if exceptions := contract.get("ignore_imports"):
        text += "\n\nThese imports break the rule and have yet to be removed:\n\n"
        text += "\n".join(f"- {_code(each.replace('sansio_letta.', ''))}" for each in exceptions)
    return text


# --- Recordings, figures --------------------------------------------------------------------------------------


def recorded_commands() -> str:
    """The commands, with their names in recordings."""
    rows = ((_code(name), _first_line(command)) for command, name in recording_format.COMMANDS.items())
    return _table(("`command`", "what it asks"), rows)


def secret_headers() -> str:
    """Headers that are never recorded."""
    return _codes(sorted(redact.SECRET_HEADERS)) + "."


def text_fields() -> str:
    """Fields whose strings are texts."""
    return _codes(sorted(redact._TEXT_FIELDS)) + "."


def budgets() -> str:
    """The figures of the benchmark that have a budget."""
    source = ast.parse((ROOT / "tests" / "bench" / "run.py").read_text(encoding="utf-8"))
    figures = sorted(
        (
            node
            for node in ast.walk(source)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Figure"
        ),
        key=lambda node: node.lineno,
    )
    group, rows = "", []
    for node in figures:
        given = {item.arg: ast.literal_eval(item.value) for item in node.keywords}
        title = str(given["title"])
        if title.startswith(" "):
            title = f"{group.partition(',')[0]}: {title.strip()}"
        else:
            group = title
        if "budget" in given:
            rows.append((title, f"{given['budget']} {given['unit']}"))
    return _table(("work", "at most"), rows)


def minimal_transport() -> str:
    """The example's source."""
    source = (ROOT / "examples" / "minimal_transport.py").read_text(encoding="utf-8")
    return f"```python\n{source}```"


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "honoured-fields": honoured_fields,
    "policies": policies,
    "background-prompts": background_prompts,
    "probes": probes,
    "refused-fields": refused_fields,
    "noticed-fields": noticed_fields,
    "quiet-fields": quiet_fields,
    "endpoints": endpoints,
    "messages": messages,
    "stop-reasons": stop_reasons,
    "events": event_list,
    "commands": commands,
    "request-errors": request_errors,
    "run-errors": run_errors,
    "http-errors": http_errors,
    "transport-errors": transport_errors,
    "proxy-errors": proxy_errors,
    "kept-error": kept_error,
    **{f"options-{command}": partial(_options, command) for command in COMMANDS if option_names(command)},
    "core-config": core_config,
    "server-settings": server_settings,
    "metrics": metrics,
    "log-fields": log_fields,
    "attacks": attacks,
    "layers": layers,
    "recorded-commands": recorded_commands,
    "secret-headers": secret_headers,
    "text-fields": text_fields,
    "budgets": budgets,
    "minimal-transport": minimal_transport,
}
