"""Tapes as files: what is read is what was written, and whatever else lies there is refused with a reason."""

from pathlib import Path

import msgspec
import pytest

from perdure.errors import LogCorrupt, LogError, LogMismatch
from perdure.flow import FOLD_VERSION
from perdure.log.memory import MemoryLog
from perdure.partition import snapshots
from perdure.past import file as files
from perdure.past.file import lines_of, read_file, tape_of, written
from perdure.past.merging import merged
from perdure.past.reading import Wanted, read_tape
from perdure.past.tape import Tape, view_of
from perdure.testing import TestEngine
from tests.partition.test_trimming import begin, body, rest
from tests.past.shop import shop
from tests.simulation.checks.tapes import what_is_known


@pytest.fixture
async def tape() -> Tape:
    async with TestEngine(shop()) as engine:
        for n in range(3):
            await engine.send("placed", {"cart": n, "text": "ä\n"})
        await engine.send("paid", {"cart": 1})
        return await read_tape(engine.log)


@pytest.fixture
async def trimmed(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """One for each of three runs, of whose records the first are gone; read at different times."""
    monkeypatch.setattr(snapshots, "TRIM_MS", 0)
    log = MemoryLog(1, retention_ms=0)
    node, port = await begin(log)
    for n in range(3):
        await port.send([body("placed", f"e{n}", b'{"cart":%d,"fails":false,"text":"x"}' % n)])
        await rest(node)
    tapes: list[Tape] = []
    for n, run in enumerate((await port.runs(function="order"))[0]):
        await port.send([body("paid", f"p{n}", b'{"cart":%d,"text":"y"}' % n)])
        await rest(node)
        tapes.append(await read_tape(log, Wanted(frozenset([run.id]))))
    await node.close()
    assert len({part.state.offset for tape in tapes for part in tape.parts.values() if part.state}) == 3
    return tapes


def test_what_is_read_is_what_was_written(tape: Tape) -> None:
    assert tape_of(lines_of(tape), "it") == tape


def test_so_it_is_of_a_trimmed_log(trimmed: list[Tape]) -> None:
    for tape in trimmed:
        assert tape_of(lines_of(tape), "it") == tape


def test_tapes_of_one_log_make_one(tape: Tape, trimmed: list[Tape]) -> None:
    for apart in ([tape, tape], trimmed):
        whole = merged(apart)
        assert tape_of(lines_of(whole), "it") == whole
        for one in apart:
            for run in one.runs():
                assert what_is_known(view_of(whole, run), run) == what_is_known(view_of(one, run), run)


@pytest.mark.parametrize("name", ["runs.ndjson", "runs.ndjson.zst"])
def test_a_file_is_packed_by_its_name(tape: Tape, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with written(path) as out:
        out.writelines(lines_of(tape))
    assert read_file(path) == tape
    assert (path.read_bytes()[:1] == b"{") == (name == "runs.ndjson")
    whole = path.read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 1 if name.endswith("zst") else len(whole) - 20):
        path.write_bytes(whole[:end])
        with pytest.raises(LogCorrupt):
            read_file(path)
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_without_the_library_a_packed_file_is_refused(
    tape: Tape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(files, "import_module", missing)
    with pytest.raises(LogError, match=r"pip install 'perdure\[zstd\]'"), written(tmp_path / "runs.zst"):
        pass


def test_of_a_file_that_could_not_be_written_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be written"), written(tmp_path / "no" / "runs"):
        pass
    with pytest.raises(ZeroDivisionError), written(tmp_path / "runs"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(LogError, match="cannot be read: No such file"):
        read_file(tmp_path / "runs")


def wrong(tape: Tape, line: int, instead: bytes) -> list[bytes]:
    lines = list(lines_of(tape))
    return [*lines[:line], *([instead] if instead else []), *lines[line + 1 :]]


@pytest.mark.parametrize(
    ("line", "instead", "told"),
    [
        (0, b"hello\n", "line 1: this is not what"),
        (0, b"", "line 1: this is not what"),
        (0, b'{"tape":"end","records":0}\n', "line 1: this is not what"),
        (3, b"", "out of place"),
        (3, b"{}\n", "line 4: this is not what"),
        (3, b'{"tape":"record","partition":0,"offset":1,"at":1,"record":{}}\n', "line 4: Object missing required"),
        (3, b'{"tape":"record","partition":99,"offset":1,"at":1,"record":{}}\n', "line 4: it is out of place"),
        (3, b"[" * 5_000 + b"\n", "line 4: this is not what"),
        (3, b'{"tape":"record', "ends within line 4: it was cut off"),
    ],
)
def test_what_is_no_tape_is_refused_with_its_line(tape: Tape, line: int, instead: bytes, told: str) -> None:
    with pytest.raises(LogCorrupt, match=told):
        tape_of(wrong(tape, line, instead), "it")


def test_one_that_was_cut_off_between_two_lines_is_refused(tape: Tape) -> None:
    for count in (1, 2, 5):
        with pytest.raises(LogCorrupt, match="before its own end: it was cut off"):
            tape_of(list(lines_of(tape))[:count], "it")


def test_newer_ones_are_refused(tape: Tape, trimmed: list[Tape]) -> None:
    with pytest.raises(LogMismatch, match="install a newer one"):
        tape_of([b'{"tape":"start","version":2}\n'], "it")
    for one, refused in ((tape, False), (trimmed[0], True)):
        first, *more = lines_of(one)
        begin = msgspec.json.encode({**msgspec.json.decode(first), "folds": FOLD_VERSION + 1}) + b"\n"
        if refused:
            with pytest.raises(LogMismatch, match="export it again with this version"):
                tape_of([begin, *more], "it")
        else:
            assert tape_of([begin, *more], "it") == one
