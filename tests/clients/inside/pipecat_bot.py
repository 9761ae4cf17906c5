"""A Pipecat bot without speech: each argument is what the user says; prints what the bot answered to each.

``python pipecat_bot.py BASE_URL MODEL TEXT...``
"""

import asyncio
import json
import sys

from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import EndFrame, LLMMessagesAppendFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMContextAggregatorPair,
)
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.llm import OpenAILLMService

GET_WEATHER = FunctionSchema(
    name="get_weather",
    description="Current weather of a city.",
    properties={"city": {"type": "string"}},
    required=["city"],
)


async def get_weather(params: FunctionCallParams) -> None:
    """Answer the bot's one tool."""
    await params.result_callback(f"18 C in {params.arguments['city']}")


async def main(base_url: str, model: str, *texts: str) -> None:
    """Say one text after the other, each when the bot has answered."""
    llm = OpenAILLMService(model=model, base_url=base_url, api_key="none")
    llm.register_function("get_weather", get_weather)
    system = {"role": "system", "content": "You are a voice assistant."}
    context = LLMContext([system], tools=ToolsSchema(standard_tools=[GET_WEATHER]))
    aggregators = LLMContextAggregatorPair(context)
    task = PipelineTask(Pipeline([aggregators.user(), llm, aggregators.assistant()]))
    answers: asyncio.Queue[str] = asyncio.Queue()

    @aggregators.assistant().event_handler("on_assistant_turn_stopped")
    async def answered(_: object, message: AssistantTurnStoppedMessage) -> None:
        if message.content:
            await answers.put(message.content)

    async def talk() -> None:
        said = []
        for text in texts:
            frame = LLMMessagesAppendFrame(messages=[{"role": "user", "content": text}], run_llm=True)
            await task.queue_frames([frame])
            said.append(await asyncio.wait_for(answers.get(), 30))
        print("=>", json.dumps(said))
        await task.queue_frames([EndFrame()])

    talking = asyncio.create_task(talk())
    await PipelineRunner(handle_sigint=False).run(task)
    await talking


asyncio.run(main(*sys.argv[1:]))
