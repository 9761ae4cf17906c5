"""Extracts a person from each text with instructor's default mode; prints what came of each.

``python instructor_extract.py BASE_URL MODEL TEXT...``
"""

import json
import sys

import instructor
import openai
from pydantic import BaseModel


class Person(BaseModel):
    """What is extracted."""

    name: str
    age: int


base_url, model, *texts = sys.argv[1:]
client = instructor.from_openai(openai.OpenAI(base_url=base_url, api_key="none", max_retries=0))
people = [
    client.chat.completions.create(
        model=model, response_model=Person, messages=[{"role": "user", "content": text}]
    )
    for text in texts
]
print("=>", json.dumps([person.model_dump() for person in people]))
