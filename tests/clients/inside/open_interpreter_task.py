"""One task for Open Interpreter, whose code runs without asking; prints its messages.

``python open_interpreter_task.py BASE_URL MODEL TASK``
"""

import json
import sys

from interpreter import interpreter

base_url, model, task = sys.argv[1:]
interpreter.auto_run = True
interpreter.disable_telemetry = True
interpreter.offline = True
interpreter.llm.api_base = base_url
interpreter.llm.api_key = "none"
interpreter.llm.model = f"openai/{model}"
interpreter.llm.supports_functions = False
interpreter.llm.context_window = 100_000
interpreter.llm.max_tokens = 1_000
messages = interpreter.chat(task, display=False)
print("=>", json.dumps(messages))
