"""Speed, as ratios measured in one run: ``make bench``. Exit 1 when a mark is missed.

Each pair is run in turns on the same machine with the same interpreter; medians are compared.
The server lives in a process of its own and sends bytes that it made before.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KIMI = str(Path(sys.executable).with_name("kimi"))
RUNS = 25
DISTANCE = 0.04
"""Seconds that a byte takes to the host that is far away, or back."""
CHUNKS = 100_000


@dataclass(frozen=True)
class Figure:
    """One measured ratio and its mark: at least, or at most."""

    name: str
    value: float
    mark: float
    at_least: bool = False
    unit: str = "x"

    @property
    def passed(self) -> bool:
        """Whether the mark is kept."""
        return self.value >= self.mark if self.at_least else self.value <= self.mark

    def __str__(self) -> str:
        """Return the line that is printed."""
        sign = ">=" if self.at_least else "<="
        verdict = "PASS" if self.passed else "FAIL"
        return f"{verdict}  {self.name}: {self.value:.2f} {self.unit} (mark {sign} {self.mark:g})"


def make_environment(folder: str, *, orjson: bool = True) -> dict[str, str]:
    """Return what a program gets: little, and no orjson where it is to be missing."""
    environment = {"PATH": os.defpath, "HOME": folder, "KIMI_TOKEN": "benchmark"}
    if not orjson:
        Path(folder, "orjson.py").write_text("raise ImportError('hidden')\n")
        environment["PYTHONPATH"] = folder
    return environment


@contextmanager
def serve(chunks: int, *certificate: str) -> Iterator[str]:
    """Run the server with streams of *chunks* chunks; yield its URL."""
    with _run_script("server.py", str(chunks), *certificate) as url:
        yield url


@contextmanager
def _run_script(name: str, *arguments: str) -> Iterator[str]:
    """Run a script of this folder; yield the first line that it prints."""
    command = [sys.executable, str(HERE / name), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def time_command(command: Sequence[str], environment: dict[str, str]) -> float:
    """Return the seconds of one whole process."""
    began = time.perf_counter()
    subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - began


def compare(
    ours: Sequence[str], other: Sequence[str], environment: dict[str, str], runs: int = RUNS
) -> float:
    """Return the ratio of two commands' median times, run in turns."""
    pairs = [
        (time_command(ours, environment), time_command(other, environment)) for _ in range(runs)
    ]
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


def measure_starts(folder: str) -> Iterator[Figure]:
    """Compare whole processes with the import of the libraries they stand on."""
    environment = make_environment(folder)
    python = [sys.executable, "-c"]
    with serve(1) as url:
        ask = [KIMI, "ask", "--base-url", f"{url}/chunked", "hi"]
        ratio = compare(ask, [*python, "import click, requests"], environment)
        yield Figure("kimi ask / import click, requests", ratio, 1.2)
    for option in ("--version", "--help"):
        ratio = compare([KIMI, option], [*python, "import click"], environment)
        yield Figure(f"kimi {option} / import click", ratio, 1.3)


def measure_distance(folder: str) -> Iterator[Figure]:
    """Compare a question to a host that is far away, over TLS, with curl's."""
    if missing := [name for name in ("curl", "openssl") if shutil.which(name) is None]:
        print(f"SKIP  kimi ask / curl, 80 ms away: {missing[0]} is not installed", flush=True)
        return
    certificate = str(Path(folder, "far.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-days", "2", "-keyout", certificate, "-out", f"{certificate}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    with open(certificate, "a") as file:
        file.write(Path(f"{certificate}.crt").read_text())
    environment = {**make_environment(folder), "SSL_CERT_FILE": certificate}
    with (
        serve(1, certificate) as url,
        _run_script("relay.py", url.rpartition(":")[2], str(DISTANCE)) as port,
    ):
        far = f"https://127.0.0.1:{port}/chunked"
        ask = [KIMI, "ask", "--base-url", far, "hi"]
        curl = ["curl", "-sS", "--cacert", certificate, "-d", "{}", f"{far}/chat/completions"]
        yield Figure("kimi ask / curl, 80 ms away", compare(ask, curl, environment), 1.25)


def measure_streams(folder: str) -> Iterator[Figure]:
    """Compare chunks a second, streamed to a file, with the openai SDK's loop."""
    with serve(CHUNKS) as url:
        for framing in ("chunked", "closed"):
            rates: dict[str, list[float]] = {"openai": [], "orjson": [], "json": []}
            for _ in range(3):
                rates["openai"].append(_stream("openai", f"{url}/{framing}", folder))
                for codec in ("orjson", "json"):
                    rates[codec].append(_stream(codec, f"{url}/{framing}", folder))
            base = statistics.median(rates["openai"])
            for codec, mark in (("orjson", 15.0), ("json", 8.0)):
                ratio = statistics.median(rates[codec]) / base
                name = f"chunks/s, {framing}, with {codec} / openai SDK"
                yield Figure(name, ratio, mark, at_least=True)


def _stream(kind: str, url: str, folder: str) -> float:
    """Return the chunks a second of one client's streaming loop."""
    with tempfile.TemporaryDirectory(dir=folder) as private:
        done = subprocess.run(
            [sys.executable, str(HERE / "loop.py"), kind, url, str(Path(private, "answer"))],
            env=make_environment(private, orjson=kind != "json"),
            stdout=subprocess.PIPE,
            check=True,
        )
    return float(done.stdout)


def measure_memory(folder: str) -> Iterator[Figure]:
    """Compare the memory of a long stream with that of one four times as long."""
    with serve(CHUNKS) as short, serve(4 * CHUNKS) as long:
        for framing in ("chunked", "closed"):
            pairs = [
                (_peak(f"{long}/{framing}", folder), _peak(f"{short}/{framing}", folder))
                for _ in range(5)
            ]
            ratio = statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)
            yield Figure(f"peak memory of 400,000 / 100,000 chunks, {framing}", ratio, 1.1)


def _peak(url: str, folder: str) -> int:
    """Return the most memory that a stream to a file takes, in the system's unit."""
    command = [KIMI, "ask", "--base-url", url, "hi"]
    with open(Path(folder, "answer"), "wb") as file:
        process = subprocess.Popen(
            command, env=make_environment(folder), stdin=subprocess.DEVNULL, stdout=file
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def measure_delay(folder: str) -> Iterator[Figure]:
    """Measure from the server's write of the first delta to the reader of kimi's stdout."""
    with serve(1) as url:
        for framing in ("chunked", "closed"):
            delays = [_delay(f"{url}/stamp-{framing}", folder) for _ in range(11)]
            name = f"first delta on a pipe, {framing}"
            yield Figure(name, 1000 * statistics.median(delays), 5.0, unit="ms")


def _delay(url: str, folder: str) -> float:
    command = [KIMI, "ask", "--base-url", url, "hi"]
    with subprocess.Popen(
        command, env=make_environment(folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 64)
        came = time.clock_gettime(time.CLOCK_MONOTONIC)
        # The delta is the server's own clock at the moment of the write.
        return came - float(first)


def measure_turns(folder: str) -> Iterator[Figure]:
    """Measure what a turn costs more after 1,000 turns and 200 kB than in a new conversation."""
    with serve(1) as url:
        command = [KIMI, "chat", "--base-url", f"{url}/chunked", "-S"]
        _write_conversation(Path(folder, ".local/state/kimi/conversations/long.jsonl"), url)
        long, short = (_time_turns([*command, name], folder) for name in ("long", "short"))
        yield Figure(
            "a turn after 1,000 turns - a first turn", 1000 * (long - short), 50, unit="ms"
        )
        ask, environment = [KIMI, "ask", "--base-url", f"{url}/chunked"], make_environment(folder)
        pairs = [
            (
                time_command([*ask, "-S", "long", "hi"], environment),
                time_command([*ask, "hi"], environment),
            )
            for _ in range(RUNS)
        ]
        more = statistics.median(long - short for long, short in pairs)
        yield Figure("kimi ask -S after 1,000 turns - kimi ask", 1000 * more, 50, unit="ms")


def _write_conversation(path: Path, url: str) -> None:
    path.parent.mkdir(parents=True)
    manner = {"model": "kimi-k2.5", "profile": "acedata", "base_url": f"{url}/chunked"}
    with open(path, "w") as file:
        for number in range(1000):
            turn = {"turn": f"{number:012x}", "time": "2026-11-23T10:00:00Z"}
            question = {"role": "user", "content": "q" * 100, **manner, **turn}
            answer = {"role": "assistant", "content": "a" * 100, "finish_reason": "stop", **turn}
            file.write(f"{json.dumps(question)}\n{json.dumps(answer)}\n")


def _time_turns(command: Sequence[str], folder: str) -> float:
    """Return the median seconds from a question written to its answer read."""
    spent = []
    with subprocess.Popen(
        command,
        env=make_environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(RUNS + 1):
            began = time.perf_counter()
            process.stdin.write(b"hi\n")
            wanted = b"token0\n" if number == 0 else b"\ntoken0\n"
            while wanted:
                wanted = wanted[len(os.read(process.stdout.fileno(), len(wanted))) :]
            spent.append(time.perf_counter() - began)
        process.stdin.close()
    return statistics.median(spent[1:])


def measure_stop(folder: str) -> Iterator[Figure]:
    """Measure from ^C on the keyboard, while an answer comes, to the word that it was stopped."""
    with serve(1) as url:
        process, screen = pty.fork()
        if process == 0:
            environment = {
                **make_environment(folder),
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",
            }
            os.execve(KIMI, [KIMI, "chat", "--no-save", "--base-url", f"{url}/stuck"], environment)
        seen, spent = bytearray(), []

        def await_text(wanted: bytes) -> None:
            while wanted not in seen:
                seen.extend(os.read(screen, 65536))
            del seen[: seen.index(wanted) + len(wanted)]

        for _ in range(11):
            await_text(b"\x1b[?2004h")  # the editor is there: it wants pastes in brackets
            os.write(screen, b"hi\r")
            await_text(b"stuck")
            began = time.perf_counter()
            os.write(screen, b"\x03")
            await_text(b"stopped")
            spent.append(time.perf_counter() - began)
        os.write(screen, b"\x04")
        os.close(screen)
        os.waitpid(process, 0)
        yield Figure("from ^C to the end of an answer", 1000 * max(spent), 200, unit="ms")


def main() -> int:
    """Print every figure; return 1 when one misses its mark."""
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for measure in (
            measure_starts,
            measure_distance,
            measure_delay,
            measure_turns,
            measure_stop,
            measure_streams,
            measure_memory,
        ):
            for figure in measure(folder):
                print(figure, flush=True)
                missed += not figure.passed
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
