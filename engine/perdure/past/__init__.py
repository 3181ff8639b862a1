"""The past: what is in the log, read again, folded up to a moment, run again. Nothing here writes to a log by itself.

tape.py       records of chosen runs, beside the definitions that were in force; `view_of` folds them
reading.py    a tape of an open log
"""
