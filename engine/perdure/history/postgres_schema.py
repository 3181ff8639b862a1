"""The tables of the PostgreSQL store: those of `schema.py`, in a schema of the app's own.

Text is ordered as SQLite orders it, by its bytes. What is numbered gets its numbers from sequences: several processes
write, each the partitions that it owns.
"""

from collections.abc import Mapping

TABLES = """
CREATE TABLE about (version BIGINT NOT NULL);
CREATE TABLE standing (
    partition BIGINT PRIMARY KEY, "offset" BIGINT NOT NULL, at BIGINT NOT NULL, stamp BIGINT NOT NULL,
    gap BOOLEAN NOT NULL
);
CREATE TABLE state (partition BIGINT NOT NULL, key BYTEA NOT NULL, value BYTEA NOT NULL, PRIMARY KEY (partition, key));

CREATE SEQUENCE run_numbers;
CREATE TABLE runs (
    n BIGINT PRIMARY KEY, id TEXT COLLATE "C" NOT NULL UNIQUE, partition BIGINT NOT NULL,
    function TEXT COLLATE "C" NOT NULL, status TEXT COLLATE "C" NOT NULL, cause TEXT COLLATE "C" NOT NULL,
    requested_at BIGINT NOT NULL, started_at BIGINT, ended_at BIGINT, due BIGINT, attempt BIGINT NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL, parent TEXT COLLATE "C" NOT NULL, parent_op TEXT COLLATE "C" NOT NULL,
    rerun_of TEXT COLLATE "C" NOT NULL, scheduled BIGINT, metadata BYTEA NOT NULL, blind BOOLEAN NOT NULL DEFAULT false
);
CREATE INDEX runs_by_time ON runs (requested_at, n) WHERE n > 0;
CREATE INDEX runs_by_function ON runs (function, requested_at, n) WHERE n > -1;
CREATE INDEX runs_by_status ON runs (status, requested_at, n) WHERE n > -2;
CREATE INDEX runs_by_both ON runs (function, status, requested_at, n);
CREATE INDEX runs_by_event ON runs (event_id, requested_at, n) WHERE event_id <> '';
CREATE INDEX runs_by_parent ON runs (parent, requested_at, n) WHERE parent <> '';
CREATE INDEX runs_by_rerun ON runs (rerun_of, requested_at, n) WHERE rerun_of <> '';

CREATE TABLE run_data (n BIGINT PRIMARY KEY, event BYTEA, arguments BYTEA, result BYTEA, error BYTEA, parked BYTEA);
CREATE TABLE run_metadata (
    key TEXT COLLATE "C" NOT NULL, value TEXT COLLATE "C" NOT NULL, requested_at BIGINT NOT NULL, n BIGINT NOT NULL,
    PRIMARY KEY (key, value, requested_at, n)
);
CREATE TABLE ops (
    n BIGINT NOT NULL, op TEXT COLLATE "C" NOT NULL, position BIGINT NOT NULL, type TEXT COLLATE "C" NOT NULL,
    opened_at BIGINT NOT NULL, status TEXT COLLATE "C" NOT NULL, ended_at BIGINT, due BIGINT, attempt BIGINT,
    took_us BIGINT, about BYTEA, input BYTEA, result BYTEA, error BYTEA, PRIMARY KEY (n, op)
);
CREATE TABLE marks (
    n BIGINT NOT NULL, op TEXT COLLATE "C" NOT NULL, "offset" BIGINT NOT NULL, at BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL, detail BYTEA NOT NULL, PRIMARY KEY (n, op, "offset")
);

CREATE TABLE events (
    n BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY, id TEXT COLLATE "C" NOT NULL UNIQUE, partition BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL, received_at BIGINT NOT NULL, body BYTEA NOT NULL
);
CREATE INDEX events_by_time ON events (received_at, n) WHERE n > 0;
CREATE INDEX events_by_name ON events (name, received_at, n);
CREATE TABLE uses (
    n BIGINT NOT NULL, op TEXT COLLATE "C" NOT NULL, event_id TEXT COLLATE "C" NOT NULL, what TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL, PRIMARY KEY (n, op, event_id)
);
CREATE INDEX uses_by_event ON uses (event_id, at);

CREATE TABLE tallies (
    size BIGINT NOT NULL, at BIGINT NOT NULL, function TEXT COLLATE "C" NOT NULL, what TEXT COLLATE "C" NOT NULL,
    runs BIGINT NOT NULL, PRIMARY KEY (size, at, function, what)
);
"""
NAMES = ("about", "standing", "state", "runs", "run_data", "run_metadata", "ops", "marks", "events", "uses", "tallies")

SAID: Mapping[str, str] = {
    "runs_by_time": "n > 0",
    "runs_by_function": "n > -1",
    "runs_by_status": "n > -2",
    "events_by_time": "n > 0",
}
"""Of an index: what a question must say to be let in.

PostgreSQL has no way to name an index, and the planner, which goes by what was common when it last looked, would look
for the few runs of a function by reading all runs from the newest on. It takes a partial index only for a question that
says as much as its condition: true of every row, and said of one index alone.
"""
