"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import base64
import contextlib
import difflib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kimi_cli.api import codec
from kimi_cli.api.messages import count_tokens
from kimi_cli.chat.status import keep_keyboard
from kimi_cli.chat.talk import Talk
from kimi_cli.credentials.bearer import remove_secrets
from kimi_cli.errors import BadInput, CannotCreate, Terminated
from kimi_cli.options.types import BodyField
from kimi_cli.prompt.content import Prompt
from kimi_cli.prompt.reading import STDIN, read_attachment, read_image
from kimi_cli.system.editing import run_editor

_OTHER_NAMES = {"?": "help", "h": "help", "q": "exit", "quit": "exit", "bye": "exit"}
"""What other programs call a command of ours, and mean by it."""
_LIKE_OTHERS = {"clear": "new", "reset": "new"}
"""What others mean something else by, or more."""
_BARE = {
    **dict.fromkeys(("exit", "quit", "exit()", "quit()", ":q", "logout"), "/exit"),
    **dict.fromkeys(("help", "?"), "/help"),
}
"""What is typed alone to leave, or when lost; nobody means to ask it."""
_NOTHING = ('""', "''")
"""How a shell's user writes an empty text."""


@dataclass(frozen=True)
class Slash:
    """One command: what it takes, what it does, and how."""

    argument: str
    help: str
    run: Callable[[Talk, str], Prompt | None]
    """Returns a question to be asked at once, or None."""


def run(talk: Talk, line: str) -> Prompt | None:
    """Carry out *line*; return a question that it wants asked. Raises KimiError."""
    words = line[1:].split(maxsplit=1) or [""]
    name, argument = words[0], words[1].strip() if len(words) > 1 else ""
    command = COMMANDS.get(_OTHER_NAMES.get(name, name))
    if command is None:
        near = _find_near(name.lower())
        advice = f"did you mean /{near}?" if near else "/help lists what there is"
        raise BadInput(
            f"there is no command /{name}; {advice} (a line that must begin with '/' is "
            "written with '//')"
        )
    if argument and not command.argument:
        raise BadInput(f"/{name} takes nothing after it")
    if not argument and command.argument and not command.argument.startswith("["):
        raise BadInput(f"/{name} needs {command.argument}")
    return command.run(talk, argument)


def read_bare(line: str) -> str:
    """Return the command that a *line* without a slash means, or the line itself."""
    return _BARE.get(line.strip().lower(), line)


def _find_near(name: str) -> str | None:
    """Return the command that *name* may stand for."""
    known = {**_LIKE_OTHERS, **_OTHER_NAMES, **{command: command for command in COMMANDS}}
    if name in known:
        return known[name]
    words = [word for word in known if len(word) > 1]
    near = difflib.get_close_matches(name, words, n=1, cutoff=0.5)
    return known[near[0]] if near else None


def _tell(talk: Talk, text: str) -> None:
    talk.terminal.note(text)


def _help(talk: Talk, argument: str) -> None:
    rows = [(f"/{name} {command.argument}".rstrip(), command) for name, command in COMMANDS.items()]
    width = max(len(call) for call, _ in rows)
    _tell(talk, "\n".join(f"{call.ljust(width)}  {command.help}" for call, command in rows))


def _model(talk: Talk, argument: str) -> None:
    if argument:
        talk.terms = talk.terms.name_model(argument)
    _tell(talk, f"model {talk.terms.model}")


def _system(talk: Talk, argument: str) -> None:
    if argument:
        talk.terms = replace(talk.terms, system="" if argument in _NOTHING else argument)
    system = talk.terms.system
    in_force = system if system is not None else talk.conversation.system
    _tell(talk, f"system prompt: {in_force}" if in_force else "there is no system prompt")


def _option(talk: Talk, argument: str) -> None:
    key = argument.removesuffix("=")
    if argument.endswith("=") and "=" not in key:
        talk.terms = talk.terms.drop_field(key)
    elif argument:
        name, value = BodyField().convert(argument, None, None)
        talk.terms = talk.terms.set_field(name, value)
        if name == "model":
            return _model(talk, "")
    shown = [f"{key}={codec.dumps(value)}" for key, value in talk.terms.parameters.items()]
    return _tell(talk, "\n".join(shown) or "no options are set")


def _file(talk: Talk, argument: str) -> None:
    _attach(talk, argument, lambda path: Prompt(read_attachment(path, talk.reading)))


def _image(talk: Talk, argument: str) -> None:
    _attach(talk, argument, lambda path: read_image(path, talk.reading))


def _attach(talk: Talk, argument: str, read: Callable[[str], Prompt]) -> None:
    if argument == STDIN:
        raise BadInput("standard input is the keyboard here; name a file")
    with talk.stopper.allow():  # a pipe may keep us waiting
        attachment = read(os.path.expanduser(argument))
    talk.coming.attachments.append(attachment)
    _tell(talk, f"{argument} goes with the next question")


def _retry(talk: Talk, argument: str) -> Prompt | None:
    if talk.coming.unasked:
        return talk.coming.unasked
    turns = talk.conversation.list_turns()
    if not turns:
        raise BadInput("there is nothing to ask again")
    question = turns[-1].question
    if question is None:
        raise BadInput("the last turn has no question; /undo takes it back")
    talk.dialogue.take_back()
    return question


def _undo(talk: Talk, argument: str) -> None:
    title: str | None
    if talk.coming.unasked:
        title, talk.coming.unasked = talk.coming.unasked.title, None
    else:
        title = talk.dialogue.take_back()
    if title is None:
        raise BadInput("there is nothing to take back")
    _tell(talk, f"taken back: {title[:60]}")


def _edit(talk: Talk, argument: str) -> None:
    """Open the user's editor on the next question."""
    try:
        with contextlib.ExitStack() as stack:
            folder = tempfile.mkdtemp(prefix="kimi-")
            stack.callback(shutil.rmtree, folder)
            path = Path(folder, "question.md")
            path.write_text(argument, encoding="utf-8")
            try:
                _run_editor(talk, path)
            except Terminated:
                stack.pop_all()
                talk.terminal.complain(f"what was being edited is in {path}")
                raise
            talk.coming.draft = path.read_text(encoding="utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"what was edited is not UTF-8: {error}") from error
    except OSError as error:
        raise CannotCreate(f"cannot use a file for the editor: {error.strerror}") from error


def _run_editor(talk: Talk, path: Path) -> None:
    with keep_keyboard():
        run_editor(path, os.environ, remove_secrets(os.environ, talk.terms.settings))


def _reasoning(talk: Talk, argument: str) -> None:
    if argument not in ("show", "hide"):
        raise BadInput("/reasoning takes show or hide")
    talk.look = replace(talk.look, reasoning=argument == "show")


def _save(talk: Talk, argument: str) -> None:
    talk.save(argument)
    _tell(talk, f"saved; 'kimi chat -S {argument}' goes on with it")


def _load(talk: Talk, argument: str) -> None:
    talk.load(argument)
    turns = talk.conversation.list_turns()
    last = turns[-1].title[:60] if turns else "-"
    _tell(talk, f"{talk.count_turns()}; the last question was: {last}")


def _new(talk: Talk, argument: str) -> None:
    talk.begin_anew()
    _tell(talk, "a new conversation")


def _usage(talk: Talk, argument: str) -> None:
    usages = [entry.usage for entry in talk.conversation.entries if entry.usage is not None]
    if not usages:
        _tell(talk, "no tokens were counted yet")
        return
    with talk.stopper.allow():
        window = talk.window.ask(talk.terms)
    from kimi_cli.chat.bill import Bill  # noqa: PLC0415 - for this command only

    share = ""
    if window is not None and (total := count_tokens(usages[-1], "total_tokens")) is not None:
        share = f"; {total / window:.1%} of the {window:,} that {talk.terms.model} reads"
    bill = Bill(talk.conversation, talk.terms.settings)
    _tell(talk, f"last turn {bill.describe_last()}{share}\nall turns {bill.describe_all()}")


def _copy(talk: Talk, argument: str) -> None:
    """Hand the last answer to the terminal's clipboard (OSC 52, xterm's control sequences)."""
    answers = [turn.answer for turn in talk.conversation.list_turns() if turn.answer is not None]
    if not answers:
        raise BadInput("there is no answer to copy")
    data = base64.b64encode(answers[-1].message.text.encode()).decode()
    talk.terminal.address_screen(f"\x1b]52;c;{data}\x07")
    _tell(talk, "handed to the terminal's clipboard")


def _exit(talk: Talk, argument: str) -> None:
    talk.is_over = True


COMMANDS = {
    "help": Slash("", "list these commands", _help),
    "model": Slash("[NAME]", "show the model, or ask another from now on", _model),
    "system": Slash("[TEXT]", 'show the system prompt, or set it; "" is none', _system),
    "option": Slash("[KEY=JSON]", "show options, set one, or with KEY= drop it", _option),
    "file": Slash("PATH", "attach a text file to the next question", _file),
    "image": Slash("PATH", "attach an image to the next question", _image),
    "retry": Slash("", "ask the last question again, in place of its answer", _retry),
    "undo": Slash("", "take the last question and its answer back", _undo),
    "edit": Slash("[TEXT]", "write the next question in $VISUAL or $EDITOR", _edit),
    "reasoning": Slash("show|hide", "show the model's reasoning, or hide it", _reasoning),
    "save": Slash("NAME", "keep this conversation under a name", _save),
    "load": Slash("NAME", "go on with another conversation", _load),
    "new": Slash("", "begin a new conversation", _new),
    "usage": Slash("", "show how many tokens were used", _usage),
    "copy": Slash("", "copy the last answer to the clipboard", _copy),
    "exit": Slash("", "leave; so does Ctrl-D", _exit),
}
"""Every command by its name, in the order of ``/help``."""
