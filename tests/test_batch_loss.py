"""F3: somebody takes the output away while a run writes to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Kimi
from rows import echo, list_ids, make_rows, pause, write_rows
from server import ReceivedRequest, ReplayServer, Reply

COUNT = 40
BEFORE = 8


def act_at_a_request(
    server: ReplayServer, act: Callable[[], object]
) -> Callable[[ReceivedRequest], Reply]:
    """Answer with the prompt, slowly; *act* while the request BEFORE is out."""

    def answer(request: ReceivedRequest) -> Reply:
        pause(0.1)
        if len(server.requests) == BEFORE:
            act()
        return echo(request)

    return answer


def remove(out: Path) -> None:
    """As ``rm``."""
    out.unlink()


def move(out: Path) -> None:
    """As ``mv``, or logrotate."""
    out.rename(out.with_name("moved"))


def edit(out: Path) -> None:
    """As ``sed -i``, an editor, or a client that syncs: a copy takes the name."""
    copy = out.with_name("copy")
    copy.write_bytes(out.read_bytes())
    copy.replace(out)


def rotate(out: Path) -> None:
    """As logrotate with ``create``."""
    move(out)
    out.touch()


def link(out: Path) -> None:
    """A link takes the name; what it leads to is nobody's to write to."""
    move(out)
    out.symlink_to(out.with_name("elsewhere"))
    out.with_name("elsewhere").write_text("precious\n")


@pytest.mark.parametrize("take", [remove, move, edit, rotate, link])
def test_nothing_more_is_bought_and_all_is_saved(
    batch: Kimi,
    server: ReplayServer,
    source: Path,
    out: Path,
    take: Callable[[Path], None],
) -> None:
    """It is seen within a second; 74, and the next run asks only for what was not answered."""
    server.answer(act_at_a_request(server, lambda: (out.chmod(0o640), take(out))))
    write_rows(source, make_rows(COUNT))
    command = (str(source), "-o", str(out))
    result = batch(*command, "-c", "1")
    assert result.status == 74, result.error
    bought = len(server.requests)
    assert bought < COUNT
    assert "while the run wrote to it; all its lines are saved" in result.error
    saved = Path(f"{out}.saved") if f"saved in {out}.saved:" in result.error else out
    assert saved == out or take not in (remove, move)
    assert list_ids(saved) == [f"r{number}" for number in range(bought)]
    assert saved.stat().st_mode & 0o777 == 0o640
    if take is link:
        assert out.read_text() == "precious\n"
        out.unlink()
    again = batch(*command, "--done-from", str(saved))
    assert again.status == 0, again.error
    assert len(server.requests) == COUNT


@pytest.mark.parametrize("ordered", [(), ("--ordered",)])
@pytest.mark.parametrize("take", [remove, edit, rotate])
def test_it_is_seen_at_the_end(
    batch: Kimi,
    server: ReplayServer,
    source: Path,
    out: Path,
    ordered: tuple[str, ...],
    take: Callable[[Path], None],
) -> None:
    """T11: a run that ends before it looks again has lost nothing, also one that sorts."""

    def answer(request: ReceivedRequest) -> Reply:
        if len(server.requests) == COUNT:
            take(out)
        return echo(request)

    server.answer(answer)
    write_rows(source, make_rows(COUNT))
    result = batch(str(source), "-o", str(out), "-c", "1", *ordered)
    assert result.status == 74, result.error
    saved = Path(f"{out}.saved") if f"saved in {out}.saved:" in result.error else out
    assert sorted(list_ids(saved)) == sorted(f"r{number}" for number in range(COUNT))


def test_a_saved_file_is_not_written_over(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """What an earlier loss left has its name for itself."""
    Path(f"{out}.saved").write_text("earlier\n")
    server.answer(lambda request: (edit(out), echo(request))[1])
    write_rows(source, make_rows(3))
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 74
    assert Path(f"{out}.saved").read_text() == "earlier\n"
    assert f"saved in {out}.saved-2:" in result.error


@pytest.mark.parametrize("size", [0, 100])
def test_a_file_that_is_cut_short_ends_the_buying(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, size: int
) -> None:
    """As ``> out`` or logrotate's copytruncate does: 74, and how much has gone."""
    server.answer(act_at_a_request(server, lambda: os.truncate(out, size)))
    write_rows(source, make_rows(COUNT))
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 74
    assert len(server.requests) < COUNT
    assert "was cut short by" in result.error


def test_a_folder_that_goes_leaves_the_lines_somewhere(
    batch: Kimi, server: ReplayServer, source: Path, tmp_path: Path, home: Path
) -> None:
    """Where the name cannot be made again, the folder of temporary files has them."""
    folder = tmp_path / "folder"
    folder.mkdir()
    out = folder / "out.jsonl"

    def answer(request: ReceivedRequest) -> Reply:
        if folder.exists():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        return echo(request)

    server.answer(answer)
    write_rows(source, make_rows(3))
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 74
    saved = home / "tmp/out.jsonl.saved"
    assert f"saved in {saved}:" in result.error
    assert list_ids(saved) == ["r0", "r1", "r2"]
