"""Write a table of 30,000 answers with the program itself, against a host on the loopback.

    python tools/table.py FOLDER

The first error, cut answer, reasoning and cached token come after row 25,000, behind what readers
look at to learn what a column is. ``table.jsonl`` has ids of every kind; ``numbers.jsonl`` and
``dates.jsonl`` only such as look like numbers, and like dates.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COUNT = 30_000
ODD = ("0071", "1e5", "2026-11-01", "12345678901234567890", "12345678901234567891")
REFUSED, CUT, LATE = 29_000, 28_000, 27_000
"""Rows that are refused, end early, and whose answers have what others lack."""


class Host(BaseHTTPRequestHandler):
    """Answers with the prompt; what is special says the prompt as well."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        status, document = answer(prompt)
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


def answer(prompt: str) -> tuple[int, dict[str, Any]]:
    """Return what the host says to *prompt*."""
    kind, _, text = prompt.partition(" ")
    if kind == "refused":
        error = {"type": "bad_request", "code": "bad_request", "message": f"no: {text}"}
        return 400, {"error": error}
    usage: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    message = {"role": "assistant", "content": text}
    if kind == "late":
        message["reasoning_content"] = "hm\u2028hm"
        usage["prompt_tokens_details"] = {"cached_tokens": 4}
    finish = "length" if kind == "cut" else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return 200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}


def make_rows(ids: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """Return rows; the odd ids come last, but for one of them."""
    rows = []
    for number in range(1, count + 1):
        kind = {REFUSED: "refused", CUT: "cut", LATE: "late"}.get(number, "plain")
        row = {
            "custom_id": f"r{number}",
            "text": f'{kind} {number}, "quoted"\n',
            "label": number % 7,
        }
        rows.append(row | ({"new": [number]} if number == LATE else {}))
    for row, name in zip(rows[-len(ids) :], ids, strict=True):
        row["custom_id"] = name
    return rows


def main() -> None:
    """Write the tables."""
    folder = Path(sys.argv[1])
    host = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{host.server_address[1]}"
    numbers = tuple(f"{number:04}" for number in range(50))
    dates = tuple(f"2026-11-{number:02}" for number in range(1, 31))
    for name, ids, count in (
        ("table", ODD, COUNT),
        ("numbers", numbers, len(numbers)),
        ("dates", dates, len(dates)),
    ):
        source = folder / f"{name}.in.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in make_rows(ids, count)))
        output = folder / f"{name}.jsonl"
        command = ["kimi", "batch", "-q", "--no-auth", "--base-url", url, "-p", "{text}"]
        command += ["--format", "table", "--ordered", "-c", "8", "-o", str(output), str(source)]
        done = subprocess.run(command, check=False)
        assert done.returncode == (4 if count == COUNT else 0), done.returncode


if __name__ == "__main__":
    main()
