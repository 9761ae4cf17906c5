"""The Chat Completions dialect, put together."""

from typing import Final

from ..base import Dialect, RequestContext, Writer
from ..items import ClientRequest
from ..tool_display import showing_tools
from .decode import decode_request
from .request import field_name
from .writer import Heading, encode_error, encode_stream_error, make_writer


def _writer(request: ClientRequest, context: RequestContext) -> Writer:
    config = context.config
    heading = Heading(completion_id=f"chatcmpl-{context.token}", created=context.created, model=request.model)
    writer = make_writer(heading, config, stream=request.stream, include_usage=request.include_usage)
    return showing_tools(writer, config.server_tools)


CHAT_COMPLETIONS: Final = Dialect(
    decode=decode_request,
    writer=_writer,
    error_body=encode_error,
    stream_error=encode_stream_error,
    field_name=field_name,
)
