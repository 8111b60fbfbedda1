"""The README is true: its examples run as printed, and what it names is there.

A block marked `sh` is an example; all other blocks are for reading.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi
from server import ReceivedRequest, ReplayServer, Reply, completion, document, stream

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)

MAKE_VARIABLES = {"PREFIX"}

Run = Callable[[str], str]


# The examples


HISTORY = """
git init -q
for number in 0 1 2; do
    echo "$number" > notes.txt
    git add notes.txt
    git -c user.name=me -c user.email=me@example.com commit -q -m "Change number $number"
done
"""


@pytest.fixture
def folder(kimi: Kimi) -> Path:
    """A folder with all that the examples name: two files, and a history if there is git."""
    folder = kimi.folder / "work"
    folder.mkdir()
    if shutil.which("git"):
        assert kimi.shell(HISTORY, cwd=folder).wait().status == 0
    (folder / "notes.txt").write_text("buy milk\n")
    (folder / "plan.txt").write_text("sleep\n")
    return folder


@pytest.fixture
def run(kimi: Kimi, server: ReplayServer, folder: Path) -> Iterator[Run]:
    """Runs an example in a shell, with a token and the server as the only settings."""
    server.answer(_answer)
    variables = {"KIMI_BASE_URL": server.url, "KIMI_TOKEN": CANARY}

    def run(example: str) -> str:
        for tool in ("jq", "git"):
            if re.search(rf"\b{tool}\b", example):
                require(tool)
        finished = kimi.shell(f"set -eu\n{example}", env=variables, cwd=folder).wait()
        assert finished.status == 0, finished
        assert "kimi:" not in finished.error
        return finished.stdout.decode()

    yield run
    for request in server.requests:
        assert request.headers["Authorization"] == f"Bearer {CANARY}"


def require(tool: str) -> None:
    """Skip where the tool is not installed, but not in CI."""
    if shutil.which(tool) is None:
        assert "CI" not in os.environ, f"CI must have {tool}"
        pytest.skip(f"needs {tool}")


def _answer(request: ReceivedRequest) -> Reply:
    """Say what was asked, or give JSON to whoever wants it."""
    if request.method == "GET":
        return document({"object": "list", "data": [{"id": "kimi-k2.5"}]})
    asked = request.json["messages"][-1]["content"]
    if "response_format" in request.json:
        text = json.dumps({"rivers": ["Rhine", "Nile", "Volga"]})
    else:
        text = f"You said: {asked.splitlines()[0]}"
    if request.json["stream"]:
        return stream(text[:3], text[3:], reasoning=["Hm."])
    return completion(text)


def test_there_are_ten_examples() -> None:
    assert len(EXAMPLES) == 10
    assert "## Ten examples" in README


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_as_printed(run: Run, example: str, folder: Path) -> None:
    shown = run(example)
    written = [folder / name for name in re.findall(r"> (\S+\.txt)", example)]
    assert shown or written
    assert all(path.read_text().startswith("You said: ") for path in written)


def find_example(words: str) -> str:
    (found,) = [example for example in EXAMPLES if words in example]
    return found


def test_a_pipe_becomes_part_of_the_prompt(run: Run, server: ReplayServer) -> None:
    run(find_example("git diff"))
    (request,) = server.requests
    (message,) = request.json["messages"]
    assert message["content"].startswith("Write a commit message\n\ndiff --git ")
    assert "+buy milk" in message["content"]


def test_files_become_parts_of_the_prompt(run: Run, server: ReplayServer) -> None:
    run(find_example("plan.txt"))
    (request,) = server.requests
    wanted = "What is missing?\n\nnotes.txt:\nbuy milk\n\nplan.txt:\nsleep"
    assert request.json["messages"][0]["content"] == wanted


def test_one_answer_is_the_next_prompt(run: Run) -> None:
    assert run(find_example('river" |')) == "You said: In which country is this?\n"


def test_the_loop_asks_once_a_line(run: Run, server: ReplayServer) -> None:
    shown = run(find_example("while read"))
    prompts = [f"Say this more plainly: Change number {number}" for number in (2, 1, 0)]
    assert shown == "".join(f"You said: {prompt}\n" for prompt in prompts)
    assert [request.json["messages"][0]["content"] for request in server.requests] == prompts


def test_data_comes_out(run: Run) -> None:
    assert run(find_example("--json ")) == "You said: Name a colour\n144\n"
    assert run(find_example("--json-mode")) == "Rhine\nNile\nVolga\n"


def test_a_field_without_an_option_is_sent(run: Run, server: ReplayServer) -> None:
    run(find_example("thinking"))
    (request,) = server.requests
    assert request.json["thinking"] == {"type": "disabled"}
    assert request.json["messages"][0] == {"role": "system", "content": "Answer in one word."}


def test_a_dry_run_needs_no_token(kimi: Kimi, folder: Path) -> None:
    require("jq")
    finished = kimi.shell(find_example("--dry-run"), cwd=folder).wait()
    assert finished.status == 0
    assert json.loads(finished.stdout)["model"] == "kimi-k3"


@pytest.mark.parametrize(("status", "advice"), [(503, "try again later"), (401, "tell a human")])
def test_failures_are_told_apart(
    kimi: Kimi, server: ReplayServer, folder: Path, status: int, advice: str
) -> None:
    error = {"error": {"code": "unknown", "message": "no"}}
    server.answer(lambda request: document(error, status=status))
    variables = {"KIMI_BASE_URL": server.url, "KIMI_TOKEN": CANARY, "KIMI_RETRIES": "0"}
    finished = kimi.shell(find_example("case $?"), env=variables, cwd=folder).wait()
    assert (finished.status, finished.stdout.decode()) == (0, f"{advice}\n")


# What else it names


def test_the_first_commands_are_demo_and_test() -> None:
    assert re.findall(r"^    (\S+ \S+)", README, re.MULTILINE)[:2] == ["make demo", "make test"]


def test_the_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:`|    |sudo |; )make ([a-z]+)", README)) <= targets
    for name in MAKE_VARIABLES:
        assert f"{name}={re.search(rf'^{name} = (.*)$', makefile, re.MULTILINE)[1]}" in README


def test_the_extras_exist() -> None:
    setup = (ROOT / "setup.cfg").read_text()
    extras = setup.partition("[options.extras_require]")[2]
    for name in re.findall(r"\.\[(\w+)\]", README):
        assert re.search(rf"^{name} =$", extras, re.MULTILINE)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]*)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


# The screen of a chat


def test_the_screen_of_a_chat_is_true(kimi: Kimi, server: ReplayServer) -> None:
    """What is typed there, and answered as there, shows the same screen again."""
    import pexpect
    import pyte

    (block,) = re.findall(r"^```console\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    command, *printed = block.splitlines()
    typed = [line[2:] for line in printed if line.startswith("> ")]
    pairs = itertools.pairwise(printed)
    answers = [reply for line, reply in pairs if re.match("> [^/]", line)]
    server.script(*map(stream, answers))
    screen = pyte.Screen(80, 24)
    feed = pyte.ByteStream(screen)
    variables = {
        **kimi.environment,
        "KIMI_BASE_URL": server.url,
        "KIMI_TOKEN": CANARY,
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "TERM": "xterm",
    }
    words = command.removeprefix("$ kimi ").replace("--profile local", "-m smollm2-135m")
    child = pexpect.spawn(str(kimi.program), words.split(), env=variables, dimensions=(24, 80))

    def see(wanted: list[str]) -> None:
        ends = time.monotonic() + 20
        while [line.rstrip() for line in screen.display[: len(wanted)]] != wanted:
            assert time.monotonic() < ends, screen.display
            with contextlib.suppress(pexpect.TIMEOUT):
                feed.feed(child.read_nonblocking(65536, timeout=0.2))

    for question in typed:
        see([*printed[: printed.index(f"> {question}")], ">"])
        child.send(f"{question}\r")
    see([*printed[:-1], ">"])
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert (kimi.folder / ".local/state/kimi/conversations/paris.jsonl").exists()
