"""What the tests say to an agent, exactly as it was recorded, and the expected results."""

from typing import Any, Final

import pydantic

WEATHER: Final = 'think I need the weather.\ncall get_weather {"city": "Paris", "units": "C"}'
SUNNY: Final = "18 C, sunny"
PARALLEL: Final = 'say Let me look.\ncall get_weather {"city": "Paris"}\ncall read_file {"path": "/etc/hosts"}'
GREETING: Final = "think The user greets me, so I greet back.\nsay Hello Sam!"


class City(pydantic.BaseModel):
    """What a client wants as JSON."""

    name: str
    people: int


PARIS: Final = City(name="Paris", people=2_000_000)
#: At first in words; the agent must be asked again.
CITY: Final = f"say Paris, I think.\nagain\nsay {PARIS.model_dump_json()}"


def city_by_call(name: str) -> str:
    """The same, as the arguments of a tool that is called for them."""
    return f"say Paris, I think.\nagain\ncall {name} {PARIS.model_dump_json()}"


def function(name: str, *parameters: str) -> dict[str, Any]:
    """A tool as Chat Completions has it."""
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters[:1])}
    # The stream helper of openai 2 takes no other.
    described = {"name": name, "description": f"{name}.", "strict": True}
    return {"type": "function", "function": {**described, "parameters": schema}}


TOOLS: Final[list[Any]] = [function("get_weather", "city", "units"), function("read_file", "path")]


def carry_out(name: str, arguments: dict[str, Any]) -> str:
    """The tools."""
    if name == "get_weather":
        assert arguments["city"] == "Paris"
        return SUNNY
    assert (name, arguments) == ("read_file", {"path": "/etc/hosts"})
    return "result 1"
