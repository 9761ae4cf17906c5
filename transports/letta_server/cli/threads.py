"""``letta-proxy threads``: an agent's chats."""

import sys

import orjson

from ..settings.server import LETTA_CLOUD, Settings
from .exit import stop
from .options import LettaApiKey, LettaProject, LettaUrl


def threads_command(
    agent: str,
    /,
    *,
    letta_url: LettaUrl = LETTA_CLOUD,
    letta_api_key: LettaApiKey = None,
    letta_project: LettaProject = None,
) -> None:
    """List an agent's chats: conversation id, creation time, and key.

    Example: letta-proxy threads Milo --letta-url http://127.0.0.1:8283
    """
    import trio

    from .letta import list_threads

    try:
        settings = Settings(
            letta_url=letta_url, letta_api_key=letta_api_key or None, letta_project=letta_project or None
        )
    except ValueError as exc:
        stop(str(exc))
    status, body = trio.run(list_threads, settings, agent)
    answer = orjson.loads(body)
    if status != 200:
        stop(answer["error"]["message"], code=1)
    for chat in answer["chats"]:
        print(f"{chat['conversation_id']}  {(chat['created_at'] or '')[:19]}  {chat['key']}")
    if not answer["chats"]:
        print(f"{agent} has no chats: all messages are in its main thread.", file=sys.stderr)
