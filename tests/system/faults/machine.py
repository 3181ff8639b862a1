"""What a disk holds after a power failure, worked out from the record of changes.

    written    |=========|--------------------|      what the process, and every other one, reads
    synced     |=========|                           what is there again in any case
    after it   |=========|--  --   ---               and any part of the rest

- **Data.** What a sync that has ended covers is there. Of each file's later writes there may be nothing, a beginning
  (cut anywhere), all, or any set of sectors of 512 bytes or of pages of 4 KiB, each as any of the writes to it left
  it; what is missing below the file's length reads as zeros.
- **Names.** A name that was made, changed or removed is sure once its folder was synced. Others: *strict*, of each
  folder's the first few happened, in order, whatever other folders and the data say; *journalled*, as on ext4 and XFS,
  the first few of all, and any sync of anything makes all before it sure. (POSIX would allow more: any set. RocksDB
  itself needs the order within a folder: it renames CURRENT without having synced the name of the table before it.)
- A sync that failed makes nothing sure, and a later one does not make up for it (Linux takes the pages for written).
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.faults.shim import Entry, Op

Write = tuple[int, int, bytes | None]
"""(when, where, what); None as bytes is a truncation to there."""

SECTOR = 512
PAGE = 4096
DATA = ("none", "beginning", "sectors", "pages", "all")
NAMES = ("strict none", "strict some", "journalled none", "journalled some", "all")


@dataclass
class File:
    """A file or folder: what is sure of it, and what came after that."""

    folder: bool = False
    synced: bytearray = field(default_factory=bytearray)
    later: list[Write] = field(default_factory=list[Write])
    lost: set[int] = field(default_factory=set[int])
    """Writes that a failed sync took for written."""


Names = dict[str, File]


@dataclass
class Naming:
    """A change of names: all of `removed` go, all of `made` come, at once."""

    when: int
    folders: set[str]
    removed: list[str] = field(default_factory=list[str])
    made: Names = field(default_factory=Names)

    def apply(self, names: Names) -> None:
        for path in self.removed:
            names.pop(path, None)
        names.update(self.made)


class Machine:
    """One process's disk below `root`, from power on to power off."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.now: Names = {self.root: File(folder=True)}
        for path in sorted(root.rglob("*")):
            if not path.name.startswith("LOG"):
                self.now[str(path)] = File(path.is_dir(), bytearray(b"" if path.is_dir() else path.read_bytes()))
        self.sure: Names = dict(self.now)
        self.namings: list[Naming] = []
        self.syncs = 0
        self._when = 0
        self._journalled = 0
        self._open: dict[int, tuple[File, str]] = {}
        self._syncing: dict[int, int] = {}

    def happen(self, changes: Iterable[Entry]) -> None:
        for change in changes:
            self._when += 1
            self._happen(change)

    def content(self, path: Path) -> bytes:
        """As the process sees it."""
        found = self.now.get(str(path))
        return _all(found) if found else b""

    def contents(self) -> dict[str, bytes | None]:
        """Everything as the process sees it; None is a folder."""
        return {path: None if file.folder else _all(file) for path, file in self.now.items()}

    def lose_power(self, rng: random.Random) -> dict[str, bytes | None]:
        """What is there afterwards; None is a folder."""
        names = self._names_after(rng)
        kind = rng.choice((*DATA, "mixed"))
        image: dict[str, bytes | None] = {}
        kept: dict[int, bytes] = {}
        for path, file in sorted(names.items()):
            above = path.rpartition("/")[0]
            if path != self.root and above not in image:
                continue
            if not file.folder and id(file) not in kept:
                kept[id(file)] = _after(file, rng, rng.choice(DATA) if kind == "mixed" else kind)
            image[path] = None if file.folder else kept[id(file)]
        return image

    def _names_after(self, rng: random.Random) -> Names:
        names = dict(self.sure)
        kind = rng.choice(NAMES)
        done = 0
        if kind.startswith("journalled"):
            done = sum(naming.when <= self._journalled for naming in self.namings)
        if kind == "journalled some":
            done = rng.randint(done, len(self.namings))
        limits: dict[str, int] = {}
        for number, naming in enumerate(self.namings):
            if kind == "strict some":
                for folder in naming.folders:
                    limits[folder] = limits.setdefault(folder, rng.randint(0, len(self.namings))) - 1
            happened = all(limits.get(folder, -1) >= 0 for folder in naming.folders)
            if number < done or kind == "all" or (kind == "strict some" and happened):
                naming.apply(names)
        return names

    def _happen(self, change: Entry) -> None:
        match change.op:
            case Op.OPEN:
                self._opened(change)
            case Op.CLOSE:
                self._open.pop(change.fd)
            case Op.WRITE:
                self._open[change.fd][0].later.append((self._when, change.at, change.one))
            case Op.TRUNCATE:
                self._open[change.fd][0].later.append((self._when, change.at, None))
            case Op.SYNC_BEGUN:
                self._syncing[change.at] = self._when
            case Op.SYNC_ENDED:
                self._synced(*self._open[change.fd], self._syncing.pop(change.at))
            case Op.SYNC_FAILED:
                begun = self._syncing.pop(change.at)
                file, _ = self._open[change.fd]
                file.lost.update(when for when, _, _ in file.later if when <= begun)
            case Op.RENAME:
                old, new = change.path, change.two.decode()
                self._name([old, new], removed=[old], made={new: self.now[old]})
            case Op.LINK:
                new = change.two.decode()
                self._name([new], made={new: self.now[change.path]})
            case Op.UNLINK | Op.RMDIR:
                self._name([change.path], removed=[change.path])
            case Op.MKDIR:
                self._name([change.path], made={change.path: File(folder=True)})
            case Op.STRANGE:
                raise AssertionError(f"the shim does not follow {change.path}")

    def _opened(self, change: Entry) -> None:
        path = change.path.rstrip("/")
        if path not in self.now:
            assert change.at & 1, f"{path} was opened and never made"
            self._name([path], made={path: File()})
        file = self.now[path]
        if change.at & 2 and not change.at & 1:
            file.later.append((self._when, 0, None))
        self._open[change.fd] = file, path

    def _name(self, paths: list[str], *, removed: list[str] | None = None, made: Names | None = None) -> None:
        folders = {path.rpartition("/")[0] for path in paths}
        naming = Naming(self._when, folders, removed or [], made or {})
        naming.apply(self.now)
        self.namings.append(naming)

    def _synced(self, file: File, path: str, begun: int) -> None:
        self.syncs += 1
        self._journalled = max(self._journalled, begun)
        if file.folder:
            for naming in self.namings:
                if naming.when <= begun and path in naming.folders:
                    naming.apply(self.sure)
            self.namings = [one for one in self.namings if one.when > begun or path not in one.folders]
            return
        covered = [write for write in file.later if write[0] <= begun and write[0] not in file.lost]
        _apply(file.synced, covered)
        file.later = [write for write in file.later if write[0] > begun or write[0] in file.lost]


def lay(image: dict[str, bytes | None], root: Path, target: Path) -> None:
    """Write an image of `root` into `target`, which must not exist."""
    for path, content in sorted(image.items()):
        place = target / Path(path).relative_to(root)
        if content is None:
            place.mkdir()
        else:
            place.write_bytes(content)


def _all(file: File) -> bytes:
    content = bytearray(file.synced)
    _apply(content, sorted(file.later, key=lambda write: write[0]))
    return bytes(content)


def _apply(content: bytearray, writes: Iterable[Write]) -> None:
    for _, at, what in writes:
        if what is None:
            del content[at:]
            content.extend(b"\0" * (at - len(content)))
        else:
            if at > len(content):
                content.extend(b"\0" * (at - len(content)))
            content[at : at + len(what)] = what


def _after(file: File, rng: random.Random, kind: str) -> bytes:
    content = bytearray(file.synced)
    if kind == "none" or not file.later:
        return bytes(content)
    if kind == "all":
        return _all(file)
    if kind == "beginning" or any(what is None for _, _, what in file.later):
        return _beginning(content, file.later, rng)
    size = SECTOR if kind == "sectors" else PAGE
    return _some(content, file.later, size, rng)


def _beginning(content: bytearray, later: list[Write], rng: random.Random) -> bytes:
    whole = rng.randrange(len(later))
    _apply(content, later[:whole])
    when, at, what = later[whole]
    if what is not None:
        cut = rng.randint(0, len(what))
        if rng.random() < 0.5 or at + cut < len(content):  # a device writes whole sectors
            cut = max(0, (at + cut) // SECTOR * SECTOR - at)
        if cut:
            _apply(content, [(when, at, what[:cut])])
    return bytes(content)


def _some(content: bytearray, later: list[Write], size: int, rng: random.Random) -> bytes:
    """Each block that was touched holds what one of the writes to it left, or what was there before."""
    touched: dict[int, int] = {}
    for _, at, what in later:
        assert what is not None
        for block in range(at // size, (at + len(what) - 1) // size + 1):
            touched[block] = touched.get(block, 0) + 1
    share = rng.choice((0.1, 0.5, 0.9))
    keep: dict[int, int] = {}
    for block, count in touched.items():
        keep[block] = (count if rng.random() < 0.7 else rng.randint(1, count)) if rng.random() < share else 0
    full = max(len(content), *(at + len(what or b"") for _, at, what in later))
    for when, at, what in later:
        assert what is not None
        for block in range(at // size, (at + len(what) - 1) // size + 1):
            if keep[block]:
                keep[block] -= 1
                begin, end = max(at, block * size), min(at + len(what), (block + 1) * size)
                _apply(content, [(when, begin, what[begin - at : end - at])])
    grown = rng.choice((len(content), full, rng.randint(len(content), full)))
    content.extend(b"\0" * (grown - len(content)))
    return bytes(content)
