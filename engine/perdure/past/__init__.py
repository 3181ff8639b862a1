"""The past: what is in the log, read again, folded up to a moment, run again. No log that engines use is written to.

tape.py       records of chosen runs, beside the definitions that were in force; `view_of` folds them
reading.py    a tape of an open log
file.py       a tape as a file, and over HTTP; redaction.py replaces what must not leave the house
importing.py  a tape as a log of its own, in which nothing goes on
state.py      what was known of a run, or of a join key, at a moment
records.py    what each record of a run did, in words
moments.py    a partition's log folded again, to stand where it stood
replay.py     a run on the user's present code, by the shipped worker; what it would write is caught (replica.py)
watched.py    the ops of a replay, as they are asked for and answered
debugger.py   pdb in the user's own frames (frames.py)
checking.py   all that is under way, replayed on other code
whatif.py     which runs another app would have started and ended: two folds of a tape, `beside.py`, with `mail.py`
fork.py       a run that goes another way from a step on: what an engine is to be asked for
"""
