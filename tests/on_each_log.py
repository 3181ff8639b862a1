"""Which tests of the engine run on Kafka too, and why the others do not.

A test that makes a `TestEngine` runs twice: on the log in memory, and on a real Kafka whose records the test's clock
stamps. Tests of `Engine` take the fixture `log_url`. What has to do with a log and does neither stands in `ONE_LOG`.
"""

import inspect
from collections.abc import Collection, Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

from perdure import Engine
from perdure.log import open_log
from perdure.log.embedded import EmbeddedLog
from perdure.log.kafka.log import KafkaLog
from perdure.log.memory import MemoryLog
from perdure.sdk.node import Node
from perdure.testing import TestEngine, crash_everywhere
from tests.system.engine_process import EngineProcess

RUN_ON_A_LOG: tuple[object, ...] = (
    *(TestEngine, crash_everywhere, Engine, EngineProcess, Node, open_log),
    *(MemoryLog, EmbeddedLog, KafkaLog),
)
ONE_LOG = {
    "programs on the log that they name, in memory or embedded": ("tests/examples/test_by_themselves.py",),
    "the process dies after each record in turn: hundreds of lives, half a second each on Kafka": (
        "tests/examples/test_crash_everywhere.py",
        "tests/otel/test_spans.py::test_a_crash_after_any_record_gives_the_same_spans",
        "tests/notify/test_telling.py::test_crashes_lose_no_message_and_double_it_at_most_once",
        "tests/worker/test_crash_everywhere.py",
        "tests/worker/test_pools.py::test_a_crash_anywhere_changes_nothing",
    ),
    "SIGKILLs of a process on the embedded log; those on Kafka are `tests/kafka/chaos`": (
        "tests/system/kill",
        "tests/system/test_notifications.py",
    ),
    "an engine tells those who wait for it when it closes, whatever its log": (
        "tests/sdk/test_client.py::test_who_awaits_a_run_while_the_engine_closes_is_told_that_it_goes_on",
        "tests/sdk/test_elsewhere.py::test_who_waits_for_an_answer_while_the_engine_closes_is_told_so",
    ),
    "records of a topic of events that the test makes up, taken into a journal in memory": (
        "tests/sdk/test_ingest.py::test_an_app_is_born_where_its_first_code_found_the_topic_to_end",
        "tests/sdk/test_ingest.py::test_it_says_where_and_when_it_came",
        "tests/sdk/test_ingest.py::test_the_birth_of_an_app_may_be_out_of_sight",
        "tests/sdk/test_ingest.py::test_what_came_before_the_app_is_none_of_its",
    ),
    "its owner trims it at once; of Kafka's trimmed journals and their snapshots, tests/kafka/test_copy.py": (
        "tests/past/test_tape.py::test_of_a_trimmed_log_there_is_what_the_state_has",
        "tests/past/test_redaction.py::test_what_the_state_stands_for_is_not_redacted",
        "tests/past/test_whatif.py::test_of_a_trimmed_log_it_tells_what_is_there",
    ),
    "tapes of made-up apps, by the dozen; those beside them are of each log": (
        "tests/past/test_whatif.py::test_it_goes_as_the_same_events_go_with_the_other_app",
        "tests/past/test_whatif.py::test_it_names_the_event_and_the_reason",
    ),
    "tapes as files, whatever log they were read of": ("tests/past/test_file.py",),
    "pasts from files, imported into folders; tapes of each log are read beside them": (
        "tests/past/test_importing.py",
    ),
    "commands that read the past, and forks under kills; replays, sources and forks are of each log in `tests/past`": (
        "tests/cli/test_fork.py",
        "tests/cli/test_replay.py",
        "tests/cli/test_whatif.py",
        "tests/system/test_fork_kills.py",
    ),
    "lines at times that the test chooses": (
        "tests/sdk/test_run_lines.py::test_a_page_ends_where_others_lines_fill_it",
        "tests/sdk/test_run_lines.py::test_where_to_begin_is_found_by_time",
    ),
    "what becomes of spans, made of records that the tests beside these have of each log": tuple(
        f"tests/otel/test_spans.py::test_{name}"
        for name in (
            "a_cancelled_run_has_a_span_without_an_error",
            "a_handler_is_below_the_run_that_failed",
            "a_run_that_nobody_traced_has_a_trace_of_its_own",
            "spans_say_whose_they_are",
            "spans_that_cannot_be_made_hurt_no_run",
            "what_is_not_sampled_makes_no_spans_in_the_whole_trace",
        )
    ),
    "how CPython keeps the attributes of objects": ("tests/worker/test_hot_path.py",),
    "`perdure dev` and `serve` are for one machine; `worker` and `gateway` are in `tests/kafka`": (
        "tests/system/test_backfill.py",
        "tests/system/test_cli_dev.py",
        "tests/system/test_spans.py",
    ),
    "about the files of the embedded log": (
        "tests/cli/test_history.py",
        "tests/system/faults",
        "tests/system/test_damage.py",
        "tests/system/test_full_disk.py",
        "tests/system/test_recovery.py::test_a_directory_of_a_newer_version",
        "tests/system/test_recovery.py::test_a_hot_copy_goes_on_where_it_was",
        "tests/system/test_recovery.py::test_a_record_that_this_code_cannot_read_halts_and_is_never_skipped",
        "tests/system/test_recovery.py::test_a_store_ahead_of_its_log_is_refused",
        "tests/system/test_recovery.py::test_another_partition_count",
        "tests/system/test_recovery.py::test_in_use_by_another_process",
        "tests/system/test_recovery.py::test_state_of_another_fold_version_is_folded_again",
    ),
    "journals of the folds' storms and of simulated worlds, and what a reader of a log meets there": (
        "tests/history/test_projection.py",
        "tests/history/test_postgres.py",
        "tests/history/test_reading.py",
        "tests/history/test_sqlite.py",
        "tests/history/test_store.py",
    ),
    "the API and the dashboard ask history, which `perdure dev` and `serve` keep of an embedded log": (
        "tests/cli/test_explain.py",
        "tests/dashboard",
        "tests/history/test_events_asked.py",
        "tests/history/test_backfill.py",
        "tests/history/test_jobs.py",
        "tests/history/test_live_changes.py",
        "tests/history/test_overview.py",
        "tests/history/test_runs_asked.py",
        "tests/history/test_shelf.py",
    ),
    "the logs themselves; what is true of all of them is the conformance suite, which runs on each": ("tests/log",),
    "simulated brokers in virtual time, with faults that a real one cannot be made to have at will": (
        "tests/partition",
        "tests/simulation",
    ),
    "`TestEngine` itself as users have it, in memory": ("tests/testing",),
    "settings that are refused before there is a log, and brokers that are not there": (
        "tests/otel/test_carried.py::test_an_unknown_setting_is_refused",
        "tests/otel/test_carried.py::test_the_setting",
        "tests/otel/test_carried.py::test_tracing_without_a_provider_says_so_and_runs",
        "tests/otel/test_carried.py::test_tracing_without_its_packages_says_what_to_install",
        "tests/kafka/test_log.py::test_no_broker_at_all",
        "tests/worker/test_large_payloads.py::test_settings_that_cannot_be",
        "tests/worker/test_large_payloads.py::test_the_setting_comes_from_the_environment_too",
        "tests/worker/test_run_logs.py::test_an_unknown_level_is_refused",
    ),
    "reads a log that was closed": (
        "tests/worker/test_run_logs.py::test_a_thread_that_outlives_its_engine_hurts_nobody",
    ),
    "counts the loop's turns, and it turns while brokers answer": (
        "tests/worker/test_delivery.py::test_a_busy_step_body_keeps_nobody_waiting",
    ),
    "something happens between two turns of the log in memory": (
        "tests/worker/test_crash_counting.py::test_a_suspect_whose_outcome_comes_in_the_batch_that_lets_it_go_on_does_not_begin",
        "tests/worker/test_crash_counting.py::test_a_suspect_whose_run_ends_in_the_batch_that_lets_it_go_on_does_not_begin",
        "tests/worker/test_crash_counting.py::test_who_waits_for_its_turn_takes_the_outcome_that_comes_instead",
        "tests/worker/test_leaving.py",
    ),
    "members of pools live, die and answer late upon one log object; on Kafka: `tests/kafka/test_roles.py`, and the "
    "conformance suite's commands": tuple(
        f"tests/worker/test_pools.py::test_{name}"
        for name in (
            "a_batch_is_no_answer",
            "a_claim_that_nobody_answers_is_given_back",
            "a_command_of_a_later_version_is_left_to_others",
            "a_follower_that_fails_is_named_and_follows_anew",
            "a_grant_that_is_read_too_late_is_not_begun",
            "a_lease_ends_while_its_member_is_alive_and_slow",
            "a_member_asks_again_until_an_owner_answers",
            "a_member_dies_after_it_wrote_the_outcome",
            "a_member_dies_before_it_begins",
            "a_member_dies_while_it_runs",
            "a_member_elsewhere_runs_it",
            "a_member_that_closes_gives_back_at_once",
            "a_member_whose_log_closes_gives_up",
            "a_member_without_the_step_leaves_it_to_others",
            "a_race_that_is_lost_closes_the_step",
            "a_slow_members_failure_counts_for_nothing",
            "a_step_that_is_cancelled_while_it_runs_is_stopped",
            "a_step_that_kills_its_members_fails",
            "a_step_that_was_cancelled_in_its_queue_never_begins",
            "a_suspect_has_its_member_to_itself",
            "a_thread_sees_that_it_is_not_wanted",
            "clocks_that_differ_end_no_lease",
            "large_arguments_are_brought_by_the_command",
            "signs_of_life_prolong_the_lease",
            "the_owner_dies_while_a_member_runs_the_step",
            "typed_arguments_and_results_go_both_ways",
            "what_is_no_command_is_left_out",
            "who_lost_its_lease_stops",
        )
    ),
}
"""Why → folders, modules and tests that have the one log that they name."""
LISTED = tuple(one for tests in ONE_LOG.values() for one in tests)


def has_one_log(test: str) -> bool:
    return any(is_of(test, listed) for listed in LISTED)


def is_of(test: str, listed: str) -> bool:
    return test == listed or test.startswith((f"{listed}/", f"{listed}::", f"{listed}["))


def names_any(tests: Iterable[FunctionType], wanted: Collection[object]) -> bool:
    """Whether their code, or that of helpers of the tests that it calls, names one of these."""
    todo, seen = list(tests), set[FunctionType]()
    while todo:
        function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        for name in _names(function.__code__):
            found = function.__globals__.get(name)
            if any(found is one for one in wanted):
                return True
            todo += _functions_of(found)
    return False


def _functions_of(found: Any) -> list[FunctionType]:
    if not str(getattr(found, "__module__", "")).startswith("tests."):
        return []
    members = vars(found).values() if isinstance(found, type) else [found]
    return [one for one in map(inspect.unwrap, members) if isinstance(one, FunctionType)]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
