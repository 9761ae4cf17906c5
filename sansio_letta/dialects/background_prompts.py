"""Background prompts, with which a program asks the same model for a title or a summary, or probes it.

The agent would remember them as the user's messages. They are recognised by their beginnings. A user's message
must never be taken for one, so each beginning is too long to be typed by chance, and is searched for in certain
messages only.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Final

from attrs import frozen

from ..turn.request import Content, Text
from .items import AssistantMessage, ClientRequest, InstructionMessage, Message, UserMessage

#: Headers that mark a request as a background prompt, whatever its content. An administrator of Open WebUI can
#: configure the second one.
TASK_HEADERS: Final = ("x-letta-task", "x-openwebui-task")

#: Characters of a message that are searched.
_HEAD_SIZE: Final = 1_000


class Where(Enum):
    """Which message of a request begins with the prompt."""

    SYSTEM = "a system or developer message"
    LAST = "the last user message, or a system message after it"


@frozen(kw_only=True)
class TaskPrompt:
    """How one program's prompt is recognised.

    :param begins: the beginning of the message.
    :param then: text that must follow soon, if the beginning is not specific enough.
    """

    program: str
    purpose: str
    where: Where
    begins: str
    then: str = ""

    def matches(self, head: str) -> bool:
        """Whether a message with this beginning is the prompt."""
        return head.startswith(self.begins) and self.then in head


def _system(program: str, purpose: str, begins: str) -> TaskPrompt:
    return TaskPrompt(program=program, purpose=purpose, where=Where.SYSTEM, begins=begins)


def _last(program: str, purpose: str, begins: str, then: str = "") -> TaskPrompt:
    return TaskPrompt(program=program, purpose=purpose, where=Where.LAST, begins=begins, then=then)


_SUMMARISER: Final = "You are a helpful AI assistant tasked with summarizing conversations"

#: As the programs sent them in 2025 and 2026.
TASK_PROMPTS: Final = (
    _system("aicommits", "commit message", "Generate a concise git commit message"),
    _system(
        "aider",
        "commit message",
        "You are an expert software engineer.\nReview the provided context and diffs which are about to be",
    ),
    _system("aider", "summary", "*Briefly* summarize this partial conversation about programming."),
    _system("big-AGI", "title", "You are an AI conversation titles assistant"),
    _last("Chatbox", "title", "Based on the chat history, give this conversation a name."),
    _system(
        "Cherry Studio",
        "title",
        "You are an assistant skilled in conversation. You need to summarize the user's",
    ),
    _last("Codex", "title", "Generate a concise, single-line task title"),
    _last("Codex", "summary", "You are performing a CONTEXT CHECKPOINT COMPACTION"),
    _last("Continue", "title", "Given the following... please reply with a title for the chat"),
    _last(
        "Continue",
        "summary",
        "Please provide a concise summary of our conversation so far, capturing the key context",
    ),
    _system("Copilot", "title", "You are an expert in crafting pithy titles"),
    _system("Copilot", "title", "You are an expert in crafting ultra-compact titles"),
    _system("Copilot", "branch name", "You are an expert in crafting pithy branch names"),
    _system(
        "Copilot", "progress", "You are an expert in writing short, catchy, and encouraging progress messages"
    ),
    _system(
        "Copilot",
        "commit message",
        "You are an AI programming assistant, helping a software developer to come with the best git commit",
    ),
    _system(
        "Copilot",
        "summary",
        "Your task is to create a comprehensive, detailed summary of the entire conversation",
    ),
    _system("goose", "title", "Generate a short title (four words or less)"),
    _system("goose", "summary", "## Task Context\n- An llm context limit was reached"),
    _system("gptme", "title", "Generate concise conversation titles."),
    _last("Jan", "title", "Summarize in a ", "-word Title. Give the title only."),
    _last("Kilo", "summary", "Summarize conversation chunk ", "Only summarize facts present in this chunk."),
    _last("Kilo", "summary", "Here is the conversation so far:\n\n<conversation>"),
    _last("LangChain", "summary", "<role>\nContext Extraction Assistant"),
    _last("LibreChat", "title", "Provide a concise, 5-word-or-less title for the conversation"),
    _system("LobeChat", "title", "You are a professional conversation summarizer. Generate a concise title"),
    _system(
        "LobeChat", "summary", "You're an assistant who's good at extracting key takeaways from conversations"
    ),
    _system("LobeChat", "summary", "You are a conversation context compressor."),
    _last("NextChat", "title", "Please generate a four to five word title summarizing our conversation"),
    _last("NextChat", "title", "使用四到五个字直接返回这句话的简要主题"),
    _last("NextChat", "summary", "Summarize the discussion briefly in 200 words or less to use as a prompt"),
    _last("NextChat", "summary", "简要总结一下对话内容", "用作后续的上下文提示"),
    _system("opencode, Kilo", "title", "You are a title generator"),
    _system("opencode, Roo Code", "summary", _SUMMARISER),
    _system("opencode", "summary", "You are an anchored context summarization assistant"),
    _last("opencode", "summary", "Provide a detailed prompt for continuing our conversation above"),
    _system("opencommit", "commit message", "You are to act as an author of a commit message in git."),
    _system("pi", "summary", "You are a context summarization assistant."),
    _system("promptfoo", "grade", "You are grading output according to a user-specified rubric"),
    _last("Qwen Code", "suggestion", "[SUGGESTION MODE: Suggest what the user might naturally type next.]"),
    _system("Qwen Code", "memory", "You are now acting as the managed memory extraction subagent"),
    _last(
        "Qwen Code", "summary", "You are the component that summarizes a conversation when its context window"
    ),
    _system(
        "Qwen Code", "summary", "You are the component that summarizes a conversation when its context window"
    ),
    _system(
        "Roo Code",
        "summary",
        "Your task is to create a detailed summary of the conversation so far, paying close",
    ),
    _last("Roo Code", "summary", "CRITICAL: This summarization request is a SYSTEM OPERATION"),
    _last("SillyTavern", "summary", "Ignore previous instructions. Summarize the most important facts"),
    _last("Zed", "title", "Generate a concise 3-7 word title for this conversation"),
    _last("Zed", "summary", "You are compacting this conversation into a handoff for another agent"),
    _last(
        "Zed", "summary", "Your task is to create a detailed summary of the conversation so far, paying close"
    ),
)

_BEGINNINGS: Final[Mapping[Where, tuple[str, ...]]] = {
    where: tuple(prompt.begins for prompt in TASK_PROMPTS if prompt.where is where) for where in Where
}

#: Texts with which gateways probe a model: as a single message, without tools, for a reply of at most
#: `PROBE_REPLY_SIZE` tokens. In lower case, without final punctuation.
PROBES: Final[Mapping[str, str]] = {
    "hey how's it going": "LiteLLM",
    "what's 1 + 1": "LiteLLM",
    "hi": "new-api, one-api",
    "say hi": "new-api, one-api",
    "ping": "Dify",
    "hello": "others",
    "test": "others",
}
#: LiteLLM's limit; new-api sends 1 or 10, Dify 5.
PROBE_REPLY_SIZE: Final = 16
#: Texts that are a probe whatever the limit of the reply.
PLAIN_PROBES: Final[Mapping[str, str]] = {
    "test from litellm": "LiteLLM",
    "output only your specific model name with no additional text": "one-api",
}
_MAX_PROBE_SIZE: Final = 100

#: Characters of a program's question about the conversation; a user's question is shorter.
_MIN_QUESTION_SIZE: Final = 120
_ASKED_FOR: Final = ("summar", "title", "compact", "condense")
_ASKED_ABOUT: Final = ("conversation", "chat", "discussion", "history", "transcript")


def is_task(request: ClientRequest, headers: Mapping[str, str], patterns: Sequence[str] = ()) -> bool:
    """Whether a request is a background prompt.

    :param headers: by lower-case name.
    :param patterns: beginnings of further such prompts, of a system message or of the last user message.
    """
    if any(_is_filled_in(headers.get(name, "")) for name in TASK_HEADERS) or _is_open_webui_task(request):
        return True
    system = [
        head
        for message in request.messages
        if isinstance(message, InstructionMessage)
        for head in _heads(message.content)
    ]
    last = [head for message in _last_messages(request.messages) for head in _heads(message.content)]
    named = tuple(patterns)
    return (
        any(_is_known(head, Where.SYSTEM) or head.startswith(named) for head in system)
        or any(_is_known(head, Where.LAST) or head.startswith(named) for head in last)
        or is_probe(request)
        or _asks_about_its_conversation(request)
    )


def is_probe(request: ClientRequest) -> bool:
    """Whether a gateway only probes whether the model answers."""
    if len(request.messages) != 1 or request.tools:
        return False
    [message] = request.messages
    if not isinstance(message, UserMessage):
        return False
    text = text_of(message.content)
    if len(text) > _MAX_PROBE_SIZE:
        return False
    probe = text.strip(" \n\t\r.?!").lower()
    is_short = request.max_tokens is not None and request.max_tokens <= PROBE_REPLY_SIZE
    return probe in PLAIN_PROBES or (is_short and probe in PROBES)


def text_of(content: Content | None) -> str:
    """The text of a message, without images."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content if isinstance(part, Text))


def _is_filled_in(value: str) -> bool:
    # If Open WebUI has no value, the header is empty or contains its template.
    value = value.strip()
    return bool(value) and not value.startswith("{{")


def _is_known(head: str, where: Where) -> bool:
    return head.startswith(_BEGINNINGS[where]) and any(
        prompt.matches(head) for prompt in TASK_PROMPTS if prompt.where is where
    )


def _is_open_webui_task(request: ClientRequest) -> bool:
    """Whether Open WebUI asks for a title, tags, follow-ups, or, in its old mode, the choice of a tool.

    None of these is streamed. Its template for documents begins in the same way, but contains the user's
    question.
    """
    if request.stream or request.tools or not isinstance(request.messages[-1], UserMessage):
        return False
    head = next(_heads(request.messages[-1].content), "")
    match request.messages:
        case (UserMessage(),):
            return head.startswith("### Task:") and not head.startswith("### Task:\nRespond to the user query")
        case (InstructionMessage(content=str(chosen_from)), UserMessage()):
            return chosen_from.startswith("Available Tools: [") and head.startswith(
                ("History:\n", "Query: History:\n")
            )
    return False


def _asks_about_its_conversation(request: ClientRequest) -> bool:
    """Whether a program asks for a summary or a title of the conversation in its request.

    Then the request offers none of the tools that were called in the conversation, and its long last message is
    about the conversation. While a user is still talking to the agent, a program offers its tools.
    """
    called = {
        call.name
        for message in request.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
    }
    if not called or not called.isdisjoint(tool.name for tool in request.tools):
        return False
    message = request.messages[-1]
    if not isinstance(message, UserMessage):
        return False
    text = text_of(message.content)
    head = text[:_HEAD_SIZE].lower()
    return (
        len(text) >= _MIN_QUESTION_SIZE
        and any(word in head for word in _ASKED_FOR)
        and any(word in head for word in _ASKED_ABOUT)
    )


def _last_messages(messages: Sequence[Message]) -> Iterator[UserMessage | InstructionMessage]:
    """Yield the last user message, and the system messages after it. Calls and results may follow it."""
    for message in reversed(messages):
        if isinstance(message, UserMessage):
            yield message
            return
        if isinstance(message, InstructionMessage):
            yield message


def _heads(content: Content) -> Iterator[str]:
    """Yield the beginning of each text part of a message, since programs add a prompt after other parts."""
    texts = [content] if isinstance(content, str) else [p.text for p in content if isinstance(p, Text)]
    for text in texts:
        yield text[:_HEAD_SIZE].lstrip()
