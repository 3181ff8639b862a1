"""Records that were copied from another log (`perdure topics copy`): folds see them where and when they stood there.

    log copied from    | 700 | 701 | 702 |                 trimmed below 700
    this log       | 0 |  1  |  2  |  3  |  4  |  5  |     0 stands for what was trimmed
    folds see            700   701   702   703   704       `orig`, and from there on: this log's own offset + `moved`

State refers to records by offset, and timers are told apart by it; so offsets go on where they were, and never come
twice. Whoever writes the copies may write one twice; the second changes nothing and has no place, so that a copy of
this log has all else where it is here. Time goes on likewise: a record that was copied keeps the time that it had,
whatever this log's clock said when it was written here.

Records of an imported past (`perdure import`) are copies, too, of a part of a log. They carry no numbers, which are
dense in the whole log alone, and what they ask of other partitions and of queues is dropped: it stands in the log as
well, or is not to be done again by whoever looks at it.
"""

import msgspec
from msgspec import Struct

from perdure_schemas.records import Orig


class _Copied(Struct):
    kind: str
    orig: Orig | None = None


_decode = msgspec.json.Decoder(_Copied).decode


class NoRecord(ValueError):
    """Not a record of any kind or version."""


def orig_of(raw: bytes) -> Orig | None:
    """Where it stood, if it was copied. Raises `NoRecord`."""
    try:
        return _decode(raw).orig
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NoRecord(f"{error}: {raw[:200]!r}") from error


def with_orig(raw: bytes, orig: Orig) -> bytes:
    """The copy of a record that has none."""
    return raw.rstrip()[:-1] + _suffix(orig)


def without_orig(raw: bytes, orig: Orig) -> bytes:
    """What was copied."""
    suffix = _suffix(orig)
    return raw.removesuffix(suffix) + b"}" if raw.endswith(suffix) else raw


def _suffix(orig: Orig) -> bytes:
    return b',"orig":{"offset":%d,"at":%d%b}}' % (orig.offset, orig.at, b',"past":true' if orig.past else b"")


class Origins:
    """Where folds see the records of a log, asked of all in turn. `moved` as before the first."""

    def __init__(self, moved: int) -> None:
        self.moved = moved

    def of(self, raw: bytes, offset: int, stamp_ms: int) -> tuple[Orig, bytes]:
        """Its place and time for folds, and the record without them. Raises `NoRecord`."""
        orig = orig_of(raw)
        if orig is None:
            return Orig(offset + self.moved, stamp_ms), raw.rstrip()
        if orig.offset < offset + self.moved:
            self.moved -= 1  # a repetition, which takes no place
        else:
            self.moved = orig.offset - offset
        return orig, without_orig(raw, orig)
