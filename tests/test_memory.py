"""However much a host sends, and however many requests are in flight, memory has a bound."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast

import pytest
from program import Kimi
from server import ReplayServer, Reply, Step, chunk, completion, event, stream

from kimi_cli.api.allowance import Allowance, Reader
from kimi_cli.api.channel import Channel, WholeReply
from kimi_cli.api.messages import ChunkFolder
from kimi_cli.api.replies import DOCUMENT_LIMIT
from kimi_cli.api.route import Route
from kimi_cli.api.transport import Transport
from kimi_cli.batch.jobs import Job

MEGABYTE = 2**20
PIECE = "x" * (MEGABYTE // 4)
LOGPROB = {"token": "x", "logprob": -0.1, "top_logprobs": [{"token": "y", "logprob": -1}] * 20}
FLOODS: dict[str, dict[str, Any]] = {
    "content": {"content": PIECE},
    "reasoning": {"reasoning_content": PIECE},
    "a refusal": {"refusal": PIECE},
    "a call": {"tool_calls": [{"index": 0, "function": {"arguments": PIECE}}]},
}


class Endless(Sequence[Step]):
    """A body that does not end by itself; its length is not asked for."""

    def __init__(self, piece: bytes) -> None:
        """Repeat *piece*."""
        self._piece = piece

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: Any) -> Any:
        return self._piece

    def __iter__(self) -> Iterator[Step]:
        """Yield it again and again: a test that reads on fails by its time limit."""
        for _ in range(4000):
            yield self._piece


def flood(choice: dict[str, Any]) -> Reply:
    """Stream the same for ever."""
    body = Endless(event({**chunk({}), "choices": [{"index": 0, **choice}]}))
    return Reply(body, headers={"Content-Type": "text/event-stream"}, framing="chunked")


def measure(kimi: Kimi, folder: Path, *arguments: str, stdin: bytes = b"") -> tuple[int, int, str]:
    """Run the program; return its status, its largest size in memory (MiB), and its stderr."""
    (folder / "in").write_bytes(stdin)
    (folder / "measure.py").write_text(
        "import resource, subprocess, sys\n"
        "status = subprocess.call(sys.argv[2:])\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "open(sys.argv[1], 'w').write(str(peak))\n"
        "sys.exit(status)\n"
    )
    words = " ".join(f"'{word}'" for word in (str(kimi.program), *arguments))
    python = "/usr/bin/env python3"
    run = kimi.shell(
        f"{python} {folder}/measure.py {folder}/peak {words} <{folder}/in >{folder}/out"
    )
    result = run.wait(120)
    return result.status, int((folder / "peak").read_text()) // 1024, result.error


def test_an_endless_answer_ends(kimi: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """T9: 76 at 64 MiB, with what can be done; memory stays within some times that."""
    server.script(flood({"delta": FLOODS["content"]}))
    words = ("ask", "--base-url", server.url, "--no-auth", "-q", "--json", "-S", "kept", "hi")
    status, peak, error = measure(kimi, tmp_path, *words)
    assert status == 76, error
    assert "an answer of more than 67108864 characters" in error
    assert "--max-tokens" in error
    assert error.count("\n") == 1
    assert peak < 800
    shown = kimi("log", "show", "kept", "--json")
    answer = json.loads(shown.stdout.splitlines()[-1])
    assert len(answer["content"]) >= 63 * MEGABYTE
    assert answer["incomplete"] == "failed"


def test_an_endless_call_ends(kimi: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """T9: whatever is kept of an answer counts, also where its text is only printed."""
    server.script(flood({"delta": FLOODS["a call"]}))
    words = ("ask", "--base-url", server.url, "--no-auth", "-q", "hi")
    status, peak, error = measure(kimi, tmp_path, *words)
    assert status == 76, error
    assert "an answer of more than 67108864 characters" in error
    assert peak < 800


@pytest.mark.parametrize("kind", FLOODS)
def test_all_that_is_kept_is_counted(kind: str) -> None:
    """T9: text, reasoning, a refusal, the arguments of a call and logarithms alike."""
    folder = ChunkFolder()
    for _ in range(3):
        folder.add({"choices": [{"delta": FLOODS[kind]}]})
        folder.take()
    assert 3 * len(PIECE) <= folder.size < 4 * len(PIECE)


def test_logarithms_are_counted() -> None:
    """T9: with those of the tokens that were not taken."""
    folder = ChunkFolder()
    folder.add({"choices": [{"delta": {}, "logprobs": {"content": [LOGPROB] * 10}}]})
    assert folder.size >= 10 * 21 * 50


def make_rows(server: ReplayServer, size: int, framing: Any) -> None:
    """Answer every row with a document of so many bytes."""
    body = b"".join(step for step in completion("x" * size).body if isinstance(step, bytes))
    headers = {"Content-Type": "application/json"}
    reply = Reply([body], headers=headers, framing=framing, write_size=MEGABYTE)
    server.answer(lambda request: reply)


@pytest.mark.timeout(150)
def test_large_documents_do_not_add_up(kimi: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """T9: five rows of 40 MB at once are all answered, and held a few at a time."""
    make_rows(server, 40 * MEGABYTE, "chunked")
    words = ("batch", "--base-url", server.url, "--no-auth", "-c", "5", "--format", "text")
    status, peak, error = measure(kimi, tmp_path, *words, stdin=b'"hi"\n' * 5)
    assert status == 0, error
    assert "kimi: 5 answered; 0 failed" in error
    assert len(server.requests) == 5
    assert (tmp_path / "out").stat().st_size == 5 * (40 * MEGABYTE + 3)
    assert peak < 640


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_channels_share_what_they_may_hold(server: ReplayServer, framing: Any) -> None:
    """T9: of six replies of 2 MB two are held at once, the next when one is let go."""
    make_rows(server, 2 * MEGABYTE, framing)
    most = 2 * (2 * MEGABYTE + 1000) if framing == "length" else 2 * DOCUMENT_LIMIT
    allowance, replies = Allowance(most), SimpleQueue[WholeReply]()
    transport = Transport(Route(server.url))

    def post() -> None:
        channel = Channel(transport, "/chat/completions", {}, connect=10, allowance=allowance)
        with closing(channel):
            replies.put(channel.post(b"{}"))

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for left in range(6, 0, -1):
        reply = replies.get(timeout=30)
        assert len(reply.body) > 2 * MEGABYTE
        if framing == "length" and left > 2:
            assert replies.qsize() <= 1
        del reply
    for thread in threads:
        thread.join(10)


def test_who_waits_for_memory_is_not_late() -> None:
    """T9: a row does not run into its limit because we do not read its answer yet."""
    channel = SimpleNamespace(reader=SimpleNamespace(waited=0.0))
    job = Job(cast(Any, None), b"", 0.0, channel=cast(Any, channel), began=100.0)
    assert (job.is_late(110.0, 10.0), job.is_late(110.5, 10.0)) == (False, True)
    channel.reader.waited = 5.0
    assert (job.is_late(115.0, 10.0), job.is_late(115.5, 10.0)) == (False, True)


@pytest.mark.timeout(150)
def test_documents_that_cannot_be_read_hold_no_memory(kimi: Kimi, server: ReplayServer) -> None:
    """T9: what is kept of a failure is what it said, and not the reply."""
    body = b'{"choices": [' + b" " * 12 * MEGABYTE
    reply = Reply([body], headers={"Content-Type": "application/json"}, write_size=MEGABYTE)
    server.script(*[reply] * 12)
    words = ("--base-url", server.url, "--no-auth", "-c", "12", "--retries", "0")
    run = kimi("batch", *words, stdin=b'"hi"\n' * 12, timeout=120)
    assert run.status == 76, run.error
    assert len(server.requests) == 12


def test_an_allowance_lets_one_pass_whatever_its_size() -> None:
    """Nobody waits for ever for what will never be free; others wait for their turn."""
    allowance = Allowance(100)
    first = allowance.take(1000, lambda: False)
    order: list[str] = []

    def read(name: str, size: int) -> None:
        share = allowance.take(size, lambda: False)
        order.append(name)
        del share

    threads = [threading.Thread(target=read, args=(str(size), size)) for size in (60, 60, 500)]
    for thread in threads:
        thread.start()
    assert order == []
    first.shrink(30)
    del first
    gc.collect()
    for thread in threads:
        thread.join(10)
    assert sorted(order) == ["500", "60", "60"]


def test_who_is_given_up_waits_no_longer() -> None:
    """A run that ends does not wait for memory; how long one waited is known."""
    allowance = Allowance(10)
    held = allowance.take(10, lambda: False)
    reader, is_given_up = Reader(allowance), threading.Event()
    threading.Timer(0.3, is_given_up.set).start()
    with pytest.raises(ConnectionAbortedError):
        reader.take(1, is_given_up.is_set)
    assert reader.waited >= 0.3
    reader.begin()
    assert reader.waited == 0
    del held
    assert reader.take(1, lambda: False) is not None


def test_a_large_answer_is_whole(ask: Kimi, server: ReplayServer) -> None:
    """What is within the bound comes out byte by byte, in one piece and in many."""
    text = "é" * MEGABYTE
    server.script(completion(text), stream(*[text[:1000]] * 2000))
    assert ask("--no-stream", "--json", "hi").stdout.count("é".encode()) == MEGABYTE
    assert ask("--json", "hi").stdout.count("é".encode()) == 2_000_000
