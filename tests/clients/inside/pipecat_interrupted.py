"""A Pipecat bot that greets, is interrupted, and has a slow tool; prints the messages of its context.

``python pipecat_interrupted.py BASE_URL MODEL LONG CALLING MEANWHILE LAST``

The bot is asked for its greeting by its instructions alone. It is interrupted in the middle of its answer to
the first text; while the tool that the second one calls is running, the user says the third.
"""

import asyncio
import json
import sys

from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMMessagesAppendFrame,
    LLMRunFrame,
    LLMTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMContextAggregatorPair,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.llm import OpenAILLMService

GET_WEATHER = FunctionSchema(
    name="get_weather",
    description="Current weather of a city.",
    properties={"city": {"type": "string"}},
    required=["city"],
)


PATIENCE = 60.0  # seconds


class Ears(FrameProcessor):
    """Notices text."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Pass a frame on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            self.heard.set()
        await self.push_frame(frame, direction)


async def main(base_url: str, model: str, long: str, calling: str, meanwhile: str, last: str) -> None:
    """Hold the conversation."""
    llm = OpenAILLMService(model=model, base_url=base_url, api_key="none")
    called, may_return = asyncio.Event(), asyncio.Event()

    async def get_weather(params: FunctionCallParams) -> None:
        called.set()
        await may_return.wait()
        await params.result_callback(f"18 C in {params.arguments['city']}")

    llm.register_function("get_weather", get_weather, cancel_on_interruption=False)
    system = {"role": "system", "content": "Greet the user."}
    context = LLMContext([system], tools=ToolsSchema(standard_tools=[GET_WEATHER]))
    aggregators, ears = LLMContextAggregatorPair(context), Ears()
    task = PipelineTask(Pipeline([aggregators.user(), llm, ears, aggregators.assistant()]))
    answers: asyncio.Queue[str] = asyncio.Queue()

    @aggregators.assistant().event_handler("on_assistant_turn_stopped")
    async def answered(_: object, message: AssistantTurnStoppedMessage) -> None:
        if message.content:
            await answers.put(message.content)

    async def say(text: str) -> None:
        message = {"role": "user", "content": text}
        await task.queue_frames([LLMMessagesAppendFrame(messages=[message], run_llm=True)])

    async def answer() -> None:
        await asyncio.wait_for(answers.get(), PATIENCE)

    async def talk() -> None:
        await task.queue_frames([LLMRunFrame()])
        await answer()
        ears.heard.clear()
        await say(long)
        await asyncio.wait_for(ears.heard.wait(), PATIENCE)
        await task.queue_frames([InterruptionFrame()])
        await answer()
        await say(calling)
        await asyncio.wait_for(called.wait(), PATIENCE)
        await say(meanwhile)
        await answer()
        may_return.set()
        await answer()
        await say(last)
        await answer()
        messages = [dict(message) for message in context.get_messages()]
        print("=>", json.dumps([(message["role"], message.get("content")) for message in messages]))
        await task.queue_frames([EndFrame()])

    talking = asyncio.create_task(talk())
    await PipelineRunner(handle_sigint=False).run(task)
    await talking


asyncio.run(main(*sys.argv[1:]))
