"""One other client doing what ``kimi batch IN -o OUT`` does, as far as it can.

    python batch_rivals.py CLIENT URL CONCURRENCY IN [OUT]

It prints the seconds that its rows took, start-up and imports left out (kimi's are counted), and
the number of answers. Each gets the settings that make it fastest, and no limit on its rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time

Messages = list[dict[str, str]]


async def run_openai(url: str, concurrency: int, prompts: list[Messages], output: str) -> int:
    """Use AsyncOpenAI with a semaphore, a task a row, each answer written as it comes."""
    from openai import AsyncOpenAI

    try:
        import httpx2 as httpx
    except ImportError:
        import httpx

    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    client = AsyncOpenAI(
        base_url=url,
        api_key="none",
        max_retries=0,
        http_client=httpx.AsyncClient(limits=limits, timeout=600),
    )
    semaphore = asyncio.Semaphore(concurrency)
    done = 0
    with open(output, "w") as file:

        async def ask(number: int, messages: Messages) -> None:
            nonlocal done
            async with semaphore:
                answer = await client.chat.completions.create(model="k", messages=messages)
            file.write(json.dumps({"row": number, "answer": answer.to_dict()}) + "\n")
            file.flush()
            done += 1

        await asyncio.gather(*(ask(*item) for item in enumerate(prompts)))
    return done


async def run_flexllm(url: str, concurrency: int, prompts: list[Messages], output: str) -> int:
    """Use flexllm's batch with its checkpoint file."""
    from flexllm import LLMClient

    client = LLMClient(
        provider="openai",
        base_url=url,
        api_key="none",
        model="k",
        concurrency_limit=concurrency,
        max_qps=None,
        timeout=600,
    )
    results = await client.chat_batch(prompts, show_progress=False, output_jsonl=output)
    return sum(result.content is not None for result in results)


async def run_deluge(url: str, concurrency: int, prompts: list[Messages], output: str) -> int:
    """Use lm-deluge, which keeps all rows in memory and writes none."""
    from lm_deluge import Conversation, LLMClient
    from lm_deluge.models import register_model

    os.environ["NO_KEY"] = "none"
    register_model("k", name="k", api_base=url, api_key_env_var="NO_KEY", api_spec="openai")
    client = LLMClient(
        "k",
        max_requests_per_minute=10**9,
        max_tokens_per_minute=10**12,
        max_concurrent_requests=concurrency,
        max_attempts=1,
        request_timeout=600,
    )
    conversations = [Conversation().user(messages[0]["content"]) for messages in prompts]
    results = await client.process_prompts_async(conversations, show_progress=False)
    return sum(not result.is_error for result in results)


async def run_openai_defaults(
    url: str, concurrency: int, prompts: list[Messages], output: str
) -> int:
    """Use AsyncOpenAI as it comes: its retries, its pool, a task a row."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=url, api_key="none")
    asked = (client.chat.completions.create(model="k", messages=one) for one in prompts)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    return sum(not isinstance(answer, BaseException) for answer in answers)


async def run_flexllm_defaults(
    url: str, concurrency: int, prompts: list[Messages], output: str
) -> int:
    """Use flexllm as it comes."""
    from flexllm import LLMClient

    client = LLMClient(provider="openai", base_url=url, api_key="none", model="k")
    results = await client.chat_batch(prompts, show_progress=False, output_jsonl=output)
    return sum(result.content is not None for result in results)


CLIENTS = {
    "openai": run_openai,
    "openai-defaults": run_openai_defaults,
    "flexllm": run_flexllm,
    "flexllm-defaults": run_flexllm_defaults,
    "lm-deluge": run_deluge,
}
_MODULES = {"openai": "openai", "flexllm": "flexllm", "lm-deluge": "lm_deluge"}


def main() -> None:
    """Load the client, then count the time."""
    name, url, concurrency, source, output = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        __import__(_MODULES[name.removesuffix("-defaults")])
        began = time.perf_counter()
        with open(source) as file:
            rows = [json.loads(line) for line in file]
        prompts = [[{"role": "user", "content": row["prompt"]}] for row in rows]
        done = asyncio.run(CLIENTS[name](url, int(concurrency), prompts, output))
        seconds = time.perf_counter() - began
    print(seconds, done)


if __name__ == "__main__":
    main()
