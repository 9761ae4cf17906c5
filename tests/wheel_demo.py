"""Check an installed `letta-proxy` outside the checkout: its demo must find the recordings in the wheel."""

import json
import re
import subprocess
import sys
import urllib.request


def main(command: str) -> None:
    """Start the demo, send one request, and stop the demo."""
    process = subprocess.Popen([command, "demo", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        head = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", head)
        assert found, head
        url = found.group()
        body = {"model": "demo-hello", "messages": [{"role": "user", "content": "hi"}]}
        request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as response:
            reply = json.load(response)["choices"][0]["message"]["content"]
        assert reply == "Hello Sam, how can I help you today?", reply
        print(f"wheel: {command} demo answers {reply!r}")
    finally:
        process.terminate()
        process.wait(timeout=20)


if __name__ == "__main__":
    main(sys.argv[1])
