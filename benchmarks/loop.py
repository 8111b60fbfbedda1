"""One client's streaming loop, from the request to the last delta in a file: chunks a second.

Called as ``loop.py KIND URL FILE``; KIND is ``openai`` for the SDK, anything else for kimi.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def run_openai(url: str, path: str) -> float:
    """Stream through the openai SDK."""
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="benchmark")
    began = time.perf_counter()
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for chunk in client.chat.completions.create(
            model="kimi-k2.5", messages=[{"role": "user", "content": "hi"}], stream=True
        ):
            if chunk.choices and chunk.choices[0].delta.content:
                file.write(chunk.choices[0].delta.content)
                count += 1
    return count / (time.perf_counter() - began)


def run_kimi(url: str, path: str) -> float:
    """Stream through kimi's client and transcript; its stdout is the file."""
    from kimi_cli.api.client import Client
    from kimi_cli.api.limits import Limits
    from kimi_cli.api.messages import Message, Request
    from kimi_cli.api.retry import RetryPolicy
    from kimi_cli.api.transport import Route, Transport
    from kimi_cli.show.transcript import Transcript
    from kimi_cli.system.terminal import Terminal

    report = os.dup(1)
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    client = Client(
        Transport(Route(url)), bearer_token="benchmark", limits=Limits(), policy=RetryPolicy()
    )
    transcript = Transcript(Terminal(os.environ), show_reasoning=True)
    began = time.perf_counter()
    with client.stream(Request("kimi-k2.5", (Message("user", "hi"),))) as stream, transcript:
        for delta in stream:
            transcript.note(delta)
    seconds = time.perf_counter() - began
    os.dup2(report, 1)
    return Path(path).read_text().count("token") / seconds


if __name__ == "__main__":
    kind, url, path = sys.argv[1:]
    print(run_openai(url, path) if kind == "openai" else run_kimi(url, path))
