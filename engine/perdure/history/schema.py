"""The tables of the SQLite store. Runs and events have numbers, so that what came together lies together."""

from perdure.flow import FOLD_VERSION

SCHEMA = 2
VERSION = SCHEMA * 1_000 + FOLD_VERSION
"""In the file. The state in it is the folds', so that another version of them makes it anew, too."""
APPLICATION = 0x50455244
"""Which says that it is ours."""

TABLES = """
CREATE TABLE standing (
    partition INTEGER PRIMARY KEY, offset INTEGER NOT NULL, at INTEGER NOT NULL, stamp INTEGER NOT NULL,
    gap INTEGER NOT NULL
);
CREATE TABLE state (
    partition INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (partition, key)
) WITHOUT ROWID;

CREATE TABLE runs (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, partition INTEGER NOT NULL, function TEXT NOT NULL,
    status TEXT NOT NULL, cause TEXT NOT NULL, requested_at INTEGER NOT NULL, started_at INTEGER, ended_at INTEGER,
    due INTEGER, attempt INTEGER NOT NULL, event_id TEXT NOT NULL, parent TEXT NOT NULL, parent_op TEXT NOT NULL,
    rerun_of TEXT NOT NULL, scheduled INTEGER, metadata BLOB NOT NULL, blind INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_by_time ON runs (requested_at);
CREATE INDEX runs_by_function ON runs (function, requested_at);
CREATE INDEX runs_by_status ON runs (status, requested_at);
CREATE INDEX runs_by_both ON runs (function, status, requested_at);
CREATE INDEX runs_by_event ON runs (event_id, requested_at) WHERE event_id <> '';
CREATE INDEX runs_by_parent ON runs (parent, requested_at) WHERE parent <> '';
CREATE INDEX runs_by_rerun ON runs (rerun_of, requested_at) WHERE rerun_of <> '';

CREATE TABLE run_data (
    n INTEGER PRIMARY KEY, event BLOB, arguments BLOB, result BLOB, error BLOB, parked BLOB
);
CREATE TABLE run_metadata (
    key TEXT NOT NULL, value TEXT NOT NULL, requested_at INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (key, value, requested_at, n)
) WITHOUT ROWID;
CREATE TABLE ops (
    n INTEGER NOT NULL, op TEXT NOT NULL, position INTEGER NOT NULL, type TEXT NOT NULL, opened_at INTEGER NOT NULL,
    status TEXT NOT NULL, ended_at INTEGER, due INTEGER, attempt INTEGER, took_us INTEGER, about BLOB, input BLOB,
    result BLOB, error BLOB, PRIMARY KEY (n, op)
) WITHOUT ROWID;
CREATE TABLE marks (
    n INTEGER NOT NULL, op TEXT NOT NULL, offset INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
    detail BLOB NOT NULL, PRIMARY KEY (n, op, offset)
) WITHOUT ROWID;

CREATE TABLE events (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, partition INTEGER NOT NULL, name TEXT NOT NULL,
    received_at INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX events_by_time ON events (received_at);
CREATE INDEX events_by_name ON events (name, received_at);
CREATE TABLE uses (
    n INTEGER NOT NULL, op TEXT NOT NULL, event_id TEXT NOT NULL, what TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (n, op, event_id)
) WITHOUT ROWID;
CREATE INDEX uses_by_event ON uses (event_id, at);

CREATE TABLE tallies (
    size INTEGER NOT NULL, at INTEGER NOT NULL, function TEXT NOT NULL, what TEXT NOT NULL, runs INTEGER NOT NULL,
    PRIMARY KEY (size, at, function, what)
) WITHOUT ROWID;
"""
"""Payloads are BLOBs of JSON, as the log has it."""
