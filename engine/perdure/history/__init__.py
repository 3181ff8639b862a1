"""History: what happened, as rows for lists and search. A read model of the journal; the engine never reads it.

    journal ──► projector (a reader of its own) ──► projection (the folds, looking on) ──► changes ──► store

`rows.py` says what is kept, `projection.py` makes it of records (pure), `store.py` is where it lies and what it can be
asked, `asking.py` the questions in SQL, `sqlite.py` the store in the data directory, `postgres.py` the one in a
database, `projector.py` the task that keeps up. All of it can be deleted and made again from the log.
"""
