"""Ask vLLM's server about a text: how long the first token took, and what was not computed.

python ask.py URL TEXT_FILE QUESTION
"""

import json
import sys
import time
import urllib.request
from pathlib import Path


def main(url: str, text: str, question: str) -> None:
    """Print the time to the first token, the tokens that were computed before, and the answer."""
    asked = {
        "model": "model",
        "prompt": Path(text).read_text(encoding="utf-8") + question,
        "max_tokens": 12,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(asked).encode(), {"content-type": "application/json"}
    )
    began_s, first_s, answer, usage = time.perf_counter(), 0.0, "", {}
    with urllib.request.urlopen(request) as stream:
        for line in stream:
            event = line.strip().removeprefix(b"data: ")
            if event.startswith(b"{"):
                first_s = first_s or time.perf_counter() - began_s
                told = json.loads(event)
                answer += "".join(choice["text"] for choice in told["choices"])
                usage = told.get("usage") or usage
    known = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    print(f"{first_s:.2f} s, {known} of {usage['prompt_tokens']} tokens not computed: {answer!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
