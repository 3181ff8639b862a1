"""Tapes of one log, read one after another, as one."""

from collections.abc import Sequence

from perdure.past.tape import Entry, Part, State, Tape, view_of


def merged(tapes: Sequence[Tape]) -> Tape:
    """Each record once. The tapes are of one app and of one log; there is at least one."""
    numbers = sorted({number for tape in tapes for number in tape.parts})
    return tapes[0]._replace(parts={number: _part(number, tapes) for number in numbers})


def _part(number: int, tapes: Sequence[Tape]) -> Part:
    having = [tape for tape in tapes if number in tape.parts]
    parts = [tape.parts[number] for tape in having]
    entries: dict[int, Entry] = {entry.offset: entry for part in parts for entry in part.entries}
    in_order = [entries[offset] for offset in sorted(entries)]
    return Part(number, in_order, min(part.start for part in parts), _state(number, having))


def _state(number: int, tapes: Sequence[Tape]) -> State | None:
    """The engine may have made checkpoints meanwhile: all is brought to where the last of them stands."""
    states = [state for tape in tapes if (state := tape.parts[number].state) is not None]
    if not states:
        return None
    last = max(states, key=lambda state: state.offset)
    rows = dict[bytes, bytes]()
    for tape in tapes:
        state = tape.parts[number].state
        if state is not None:
            rows |= state.rows if state.offset == last.offset else _moved_on(tape, state, last)
    return last._replace(rows=rows | {key: row for key, row in last.rows.items() if key[:2] in (b"#m", b"d/")})


def _moved_on(tape: Tape, state: State, last: State) -> dict[bytes, bytes]:
    """The rows of its runs as of the later state, as far as this tape tells."""
    rows = dict(state.rows)
    for run in [key[2:].decode() for key in state.rows if key[:2] == b"r/"]:
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        clears: list[bytes] = []
        view_of(tape, run, last.offset - 1).seal(puts, deletes, clears)
        gone = [key for key in rows if key in deletes or key.startswith(tuple(clears))]
        rows = {key: row for key, row in rows.items() if key not in gone} | dict(puts)
    return rows
