"""One task for Open Interpreter, whose code runs without asking; prints its messages.

``python open_interpreter_task.py BASE_URL MODEL TASK [calls]``: with calls of functions, or with code blocks.
"""

import json
import sys

from interpreter import interpreter

base_url, model, task, *options = sys.argv[1:]
interpreter.auto_run = True
interpreter.disable_telemetry = True
interpreter.offline = True
interpreter.llm.api_base = base_url
interpreter.llm.api_key = "none"
interpreter.llm.model = f"openai/{model}"
interpreter.llm.supports_functions = "calls" in options
interpreter.llm.context_window = 100_000
interpreter.llm.max_tokens = 1_000
messages = interpreter.chat(task, display=False)
print("=>", json.dumps(messages))
