"""One task of a smolagents agent with one tool; prints its answer and what it observed.

``python smolagents_task.py tools|code BASE_URL MODEL TASK``
"""

import json
import sys

from smolagents import CodeAgent, OpenAIServerModel, ToolCallingAgent, tool


@tool
def get_weather(city: str) -> str:
    """Current weather of a city.

    Args:
        city: Name of the city, and after a bar what the model shall do next.
    """
    name, _, order = city.partition("|")
    return f"18 C in {name}\n{order}"


kind, base_url, model, task = sys.argv[1:]
agent_class = {"tools": ToolCallingAgent, "code": CodeAgent}[kind]
agent = agent_class(
    tools=[get_weather],
    model=OpenAIServerModel(model_id=model, api_base=base_url, api_key="none"),
    max_steps=4,
    verbosity_level=0,
)
answer = agent.run(task)
observed = [step.observations for step in agent.memory.steps if getattr(step, "observations", None)]
print("=>", json.dumps({"answer": answer, "observed": observed}))
