"""The port of an engine in this process."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from perdure.errors import KeepsNothing, NotOwned, NotParked, PayloadTooLarge, UnknownFunction, UnknownRun
from perdure.flow import routing
from perdure.flow.definitions import CRON
from perdure.flow.ending import heir_of
from perdure.flow.patterns import is_own
from perdure.flow.routing import partition_of, partition_of_run
from perdure.flow.states import TERMINAL, RunState
from perdure.sdk import forking
from perdure.sdk.journal import RunReader, records_of
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES
from perdure.sdk.node import Node
from perdure.sdk.port import (
    Counts,
    Enqueue,
    ForkAsk,
    FunctionView,
    LinePage,
    RunDetail,
    RunOutcome,
    RunStatus,
    RunSummary,
    Work,
)
from perdure.sdk.run_lines import page_of, place_of
from perdure.worker.arguments import CallOptions, decode_arguments
from perdure.worker.asking import rules_of_call
from perdure.worker.spec import FunctionSpec
from perdure.worker.tracing import current_traceparent
from perdure_schemas.definition import Definition
from perdure_schemas.event import EventBody
from perdure_schemas.payload import Payload
from perdure_schemas.records import (
    EventReceived,
    LogLevel,
    PauseRequested,
    Record,
    RunAnswered,
    RunCancelRequested,
    RunRequested,
    RunRerunRequested,
    RunUnparked,
    V,
)

_ENCODE = msgspec.json.Encoder().encode


class RunNow(NamedTuple):
    """A run as this process has it at one moment."""

    summary: RunSummary
    progress: Mapping[str, str | int | float | bool | None]
    bodies: Mapping[str, int]
    """Steps whose bodies run here, with their attempts; they began after log time `since`."""
    since: int
    held: bool
    """It has work, and waits for code that this process lacks."""


class LocalPort:
    """See `Port`."""

    def __init__(self, node: Node) -> None:
        self.node = self._node = node

    async def send(self, events: Sequence[EventBody]) -> list[str]:
        self._refuse_while_failing()
        log, ticket = self._node.log, 0
        if log.events is not None:
            # All are looked at before one is written; its readers would put aside what is too large for them.
            for event, raw in [(event, _checked(event)) for event in events]:
                ticket = log.events.put(event.id, raw)
        else:
            for event in events:
                ticket = self._node.append(partition_of(event.id, log.partitions), EventReceived(event, v=V))
        await log.acknowledge(ticket)
        return [event.id for event in events]

    def _refuse_while_failing(self) -> None:
        """A log that cannot write would keep the record and write it later: what is refused must not appear."""
        failure = self._node.log.failure
        if failure is not None:
            raise failure

    def request(self, request: Enqueue) -> tuple[str, int]:
        """Append a background run. Its id and the ticket; `UnknownFunction`, `PayloadError`."""
        spec = self._spec(request.function)
        decode_arguments(spec, request.arguments)
        return self._start(spec, request.arguments, request, request.traceparent, request.rerun_of)

    def call(self, function: str, arguments: Raw, options: CallOptions) -> tuple[str, int]:
        """As `request`, of arguments that were just written by the function's own signature in this process."""
        return self._start(self._spec(function), arguments, options, current_traceparent())

    def _spec(self, function: str) -> FunctionSpec:
        spec = self._node.specs.get(function)
        if spec is None or spec.kind == "handler":
            raise self._unknown(function)
        return spec

    def _unknown(self, function: str) -> UnknownFunction:
        known = ", ".join(sorted(one.id for one in self._node.specs.values() if one.kind != "handler"))
        return UnknownFunction(f"no function {function!r} in app {self._node.app.name!r} (has {known})")

    def _start(
        self, spec: FunctionSpec, arguments: Raw, options: Enqueue | CallOptions, traceparent: str, rerun_of: str = ""
    ) -> tuple[str, int]:
        self._refuse_while_failing()
        node = self._node
        key = options.idempotency_key
        command = f"key:{key}" if key else node.new_command()
        run = routing.run_id(node.app.name, spec.id, command)
        record = RunRequested(
            run,
            spec.id,
            "enqueue",
            arguments=node.worker.payloads.inline(arguments, f"what {spec.id!r} is called with"),
            rules=rules_of_call(spec, arguments) if spec.defined.cancel_on else (),
            delay_ms=options.delay_ms,
            discard_after_ms=options.discard_after_ms,
            metadata=options.metadata,
            command=command,
            rerun_of=rerun_of,
            traceparent=traceparent,
            v=V,
        )
        return run, node.request(record)

    async def enqueue(self, request: Enqueue) -> str:
        if request.rerun_of:
            await self.status(request.rerun_of)
        run, ticket = self.request(request)
        await self._node.log.acknowledge(ticket)
        return run

    async def result(self, run_id: str, timeout_ms: int | None = None) -> RunOutcome:
        if timeout_ms is None:
            return await self._ended(run_id)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await self._ended(run_id)
        except TimeoutError:
            raise TimeoutError(f"run {run_id} has not ended within {timeout_ms / 1000:g}s") from None

    async def _ended(self, run: str) -> RunOutcome:
        """How the run ended, or the last of those that it continued as; wherever it is owned, also if that changes."""
        try:
            return await self._ended_here(run)
        except NotOwned:
            return self._answered(await self._node.elsewhere.ask(run, "result"))

    def _answered(self, answer: RunAnswered) -> RunOutcome:
        payload = answer.result
        result: Raw | UnsetType = UNSET
        if payload is not None:
            result = self._node.worker.payloads.json_of(payload)
        return RunOutcome(answer.of, cast("RunStatus", answer.status), result, answer.error)

    async def _ended_here(self, run: str) -> RunOutcome:
        while True:
            if (await self._find(run)).status not in TERMINAL:
                await self._node.waiter(run)
            if not self.continued(run):
                return self.outcome(run)
            run = heir_of(run)

    def continued(self, run: str) -> bool:
        """Whether the run ended by `continue_as`: its result is its successor's."""
        return self.known(run).status == "continued"

    def outcome(self, run_id: str) -> RunOutcome:
        """How an ended run ended."""
        return self.outcome_of(self.known(run_id))

    def outcome_of(self, state: RunState) -> RunOutcome:
        result = UNSET if state.result is None else self.json_of(state, state.result)
        return RunOutcome(state.id, _status(state), result, state.error)

    def json_of(self, state: RunState, payload: Payload, field: str = "result") -> Raw:
        """A payload of a run. What stands in its state is read, whoever owns the run by now."""
        inline = payload.inline
        if type(inline) is Raw and not payload.encoded:
            return inline
        return self._node.worker.payload_json(self._node.processor_of(state.id), payload, field)

    async def _find(self, run: str) -> RunState:
        """The run, also one whose request is on its way from another partition."""
        await self._node.caught_up(run, own=True)
        try:
            return self.known(run)
        except UnknownRun:
            await self._node.effects()
            await self._node.caught_up(run)
            return self.known(run)

    def known(self, run: str) -> RunState:
        try:
            state = self._node.state(run)
        except ValueError:
            state = None
        if state is None or not state.function:
            raise UnknownRun(f"no run {run!r}: it never was, or ended longer ago than the window")
        return state

    async def status(self, run_id: str) -> RunStatus:
        try:
            return self.shown(await self._find(run_id))
        except NotOwned:
            # Whether it waits for the log alone is known to its owner's worker.
            status = (await self._node.elsewhere.ask(run_id, "status")).status
            return "completed" if status == "continued" else cast("RunStatus", status)

    def shown(self, state: RunState) -> RunStatus:
        """The fold's status; a running run that waits only for the log is shown as suspended."""
        if state.status != "running":
            return _status(state)
        worker = self._node.worker
        execution = worker.executions.get(state.id)
        held = state.id in worker.held
        return "suspended" if (execution is None or execution.idle) and not held else "running"

    async def cancel(self, run_id: str, reason: str = "", command: str = "") -> None:
        self._refuse_while_failing()
        await self._write(run_id, RunCancelRequested(run_id, command or secrets.token_hex(8), reason, v=V))

    async def _write(self, run: str, record: RunCancelRequested | RunRerunRequested | RunUnparked) -> None:
        """Any pod may: where the run is not at hand, whoever owns it finds out whether there is such a run."""
        with suppress(NotOwned):
            await self._find(run)
        await self._node.log.acknowledge(self._node.append(partition_of_run(run, self._node.log.partitions), record))

    async def rerun(self, run_id: str, command: str = "") -> str:
        """`command`: the same one asked for again gives the same run."""
        self._refuse_while_failing()
        await self.status(run_id)
        command = command or secrets.token_hex(16)
        new_run = routing.run_id(run_id, command)
        await self._write(run_id, RunRerunRequested(run_id, new_run, command, v=V))
        await self._node.effects()
        return new_run

    async def fork(self, ask: ForkAsk) -> str:
        self._refuse_while_failing()
        forking.check(ask)
        spec = self._node.specs.get(ask.function)
        if spec is None:
            raise self._unknown(ask.function)
        node, payloads = self._node, self._node.worker.payloads
        run = routing.run_id(node.app.name, spec.id, f"fork:{ask.key}")
        records: list[Record] = [forking.request_of(ask, run, spec, payloads)]
        records += [forking.recalled_of(run, n, line, payloads) for n, line in enumerate(ask.lines, ask.first)]
        partition, ticket = partition_of_run(run, node.log.partitions), 0
        for record in records:
            ticket = node.append(partition, record)
        await node.log.acknowledge(ticket)
        await node.effects()
        return run

    async def backfill(self, request: RunRequested) -> None:
        """Start the run of a past event. Nothing happens if there is one."""
        self._refuse_while_failing()
        await self._node.log.acknowledge(self._node.request(request))

    async def unpark(self, run_id: str, command: str = "") -> None:
        self._refuse_while_failing()
        status = await self.status(run_id)
        if status != "parked":
            raise NotParked(f"run {run_id!r} is not parked: it is {status}")
        await self._write(run_id, RunUnparked(run_id, command or secrets.token_hex(8), v=V))
        await self._node.effects()

    async def pause(self, function: str, command: str = "") -> None:
        await self._set_paused(function, paused=True, command=command)

    async def resume(self, function: str, command: str = "") -> None:
        await self._set_paused(function, paused=False, command=command)

    async def _set_paused(self, function: str, *, paused: bool, command: str) -> None:
        """`command`: the same one said again, by whatever pod, changes nothing."""
        self._refuse_while_failing()
        node = self._node
        if function not in node.specs or is_own(function):
            raise self._unknown(function)
        record = PauseRequested(function, paused, command or secrets.token_hex(8), v=V)
        await node.log.acknowledge(node.append(0, record))
        await node.effects()

    async def runs(
        self, *, function: str = "", status: str = "", event_id: str = "", limit: int = 50, cursor: str = ""
    ) -> tuple[list[RunSummary], str]:
        """Newest first. Looks at every run that the window keeps: the history service indexes them."""
        self._refuse_without_state()
        await self._node.effects()
        found: list[RunSummary] = []
        for processor in self._node.processors:
            for state in processor.view.runs.values():
                # The engine's own are shown to who asks for them by name.
                if not state.function or (state.function != function if function else is_own(state.function)):
                    continue
                summary = self._summary(state)
                if (not status or summary.status == status) and (not event_id or state.event_id == event_id):
                    found.append(summary)
        found.sort(key=_order, reverse=True)
        if cursor:
            found = [one for one in found if _cursor(one) < cursor]
        more = _cursor(found[limit - 1]) if len(found) > limit else ""
        return found[:limit], more

    def _summary(self, state: RunState) -> RunSummary:
        timer = state.timers.get("start") or state.timers.get("retry")
        return RunSummary(
            state.id,
            state.function,
            self.shown(state),
            state.cause,
            state.event_id,
            state.requested_at,
            state.ended_at,
            state.parent.run if state.parent else "",
            state.rerun_of,
            dict(state.metadata),
            state.started_at or None,
            None if timer is None else timer.due,
        )

    @property
    def owns(self) -> bool:
        """Whether partitions may be at hand here. A gateway never has any."""
        return self._node.owns

    async def ends(self) -> Mapping[int, int]:
        """Partition → where its log ends at this moment, whoever owns it."""
        log = self._node.log
        partitions = range(log.partitions)
        return dict(zip(partitions, await asyncio.gather(*map(log.latest, partitions)), strict=True))

    def queues(self) -> set[str]:
        """Those that the app's steps name."""
        return {spec.queue for spec in self._node.steps.values() if spec.queue}

    async def settled(self) -> None:
        """Returns when what was acknowledged here has reached whom it concerns: an event's runs are requested."""
        await self._node.effects()

    def now(self, run_id: str) -> RunNow | None:
        """What this process has of a run at this moment; None if that is nothing, or its partition is elsewhere."""
        try:
            state = self._node.state(run_id)
        except (ValueError, NotOwned):
            return None
        if state is None or not state.function:
            return None
        worker = self._node.worker
        execution = worker.executions.get(run_id)
        held = state.status == "running" and run_id in worker.held
        if execution is None:
            return RunNow(self._summary(state), {}, {}, 0, held)
        bodies = {op: body.attempt for op, body in execution.bodies.items()}
        return RunNow(self._summary(state), dict(execution.progress), bodies, execution.now_ms, held)

    def active_code(self) -> Definition | None:
        """As the log has it; None before the first, and where this process owns nothing."""
        routes = next((one.view.routes() for one in self._node.processors), None)
        return None if routes is None else routes.definition

    def readable(self, payload: Payload) -> Raw | UnsetType:
        """A payload apart from its record, as people are shown it: what lies elsewhere as the place where it does."""
        if payload.stored is not None or payload.ref is not None:
            return Raw(_ENCODE(payload))
        return UNSET if payload.inline is UNSET else self._node.worker.payloads.json_of(payload)

    async def run(self, run_id: str) -> RunDetail:
        self._refuse_without_state()
        state = await self._find(run_id)
        node = self._node
        processor = node.processor_of(run_id)
        reader = RunReader(processor, node.worker)
        ops = reader.read(state, await records_of(node.log, processor.partition, state, processor.view.meta.moved))
        execution = node.worker.executions.get(run_id)
        parked = state.parked.message if state.parked is not None else ""
        return RunDetail(
            self._summary(state),
            event=self.json_of(state, state.event, "event") if state.event is not None else UNSET,
            arguments=self.json_of(state, state.arguments, "arguments") if state.arguments is not None else UNSET,
            result=self.json_of(state, state.result) if state.result is not None else UNSET,
            error=state.error,
            ops=ops,
            progress=dict(execution.progress) if execution is not None else {},
            parked=parked,
            trimmed=reader.trimmed,
        )

    async def lines(self, run_id: str, *, level: LogLevel = "debug", limit: int = 200, cursor: str = "") -> LinePage:
        since, until = 0, None
        # Where the run is not at hand nobody says when it was: its lines may be anywhere.
        with suppress(NotOwned):
            state = await self._find(run_id)
            since, until = state.requested_at, state.ended_at
        return await page_of(self._node.log, run_id, level, place_of(cursor), limit, since, until)

    async def tape(self, run_id: str) -> bytes:
        from perdure.past.file import lines_of
        from perdure.past.reading import read_run

        return b"".join(lines_of(await read_run(self._node.log, run_id, self._node.app.name)))

    async def knows_event(self, event_id: str) -> bool:
        self._refuse_without_state()
        processor = self._node.processor(partition_of(event_id, self._node.log.partitions))
        return processor.view.seen.get(event_id) is not None

    def _refuse_without_state(self) -> None:
        """To ask again would change nothing."""
        if not self._node.owns:
            raise KeepsNothing(
                "this process keeps no runs: it can start, cancel and await them, and tell their status and result; "
                "what happened to them stands in the journal: `perdure topics tail --run ID`"
            )

    async def functions(self) -> list[FunctionView]:
        node = self._node
        live: Counter[str] = Counter()
        for processor in node.processors:
            live.update(processor.view.meta.live)
        views = [self._view(name, live[name]) for name in sorted(node.specs) if not is_own(name)]
        # All of them: those that sleep as well, and would be held only once they wake.
        missing = sorted(name for name in live if name not in node.specs)
        return views + [FunctionView(name, "missing", held=live[name]) for name in missing]

    def _view(self, function: str, running: int) -> FunctionView:
        node = self._node
        spec = node.specs[function]
        defined = spec.defined
        where = partition_of(CRON + function, node.log.partitions)
        paused = [since for one in node.processors if (since := one.view.meta.paused.get(function)) is not None]
        schedule = next((one.view.crons.get(function) for one in node.processors if one.partition == where), None)
        return FunctionView(
            function,
            spec.kind,
            tuple(trigger.event for trigger in defined.triggers),
            defined.cron.line if defined.cron else "",
            schedule.due if schedule else None,
            tuple(rule.event for rule in defined.cancel_on),
            spec.retries.limit,
            running,
            node.worker.held.functions[function],
            min(paused, default=None),
            sum(one.view.meta.waiting.get(function, 0) for one in node.processors),
        )

    async def lag(self) -> Mapping[str, int]:
        latest = self._node.log.latest
        processors = self._node.processors
        return {str(one.partition): max(0, await latest(one.partition) - one.offset) for one in processors}

    def counts(self) -> Counts:
        node = self._node
        numbers = sorted({one.partition for one in node.processors} | set(node.halted))
        held = node.worker.held
        return Counts(
            halted={str(one): int(one in node.halted) for one in numbers},
            held={str(one): held.of(one) for one in numbers},
            parked={str(one.partition): sum(1 for _ in one.view.parked.items()) for one in node.processors},
            work={node.app.name: self._work()},
            events_gone={str(one): end - start for one, (start, end) in node.gaps().items()},
        )

    def _work(self) -> Work:
        worker = self._node.worker
        measures, residents = worker.telemetry.measures, worker.executions.values()
        measures.wanted = True
        took, took_sum = measures.completed.told()
        delay, delay_sum = measures.loop_delay.told()
        ran, ran_sum = measures.runs_took.told()
        waited, waited_sum = measures.runs_waited.told()
        return Work(
            runs_in_memory=len(residents),
            runs_idle=len(worker.idle),
            steps_running=sum(len(one.bodies) for one in residents) + self._node.pools.running,
            steps_failed=measures.failed,
            retries=measures.retries,
            steps_took=took,
            steps_took_sum=took_sum,
            loop_delay=delay,
            loop_delay_sum=delay_sum,
            runs_ended=dict(measures.runs),
            runs_took=ran,
            runs_took_sum=ran_sum,
            runs_waited=waited,
            runs_waited_sum=waited_sum,
        )

    def ready(self) -> Mapping[str, str]:
        missing = dict(self._node.waiting())
        failure = self._node.log.failure
        if failure is not None:
            missing["log"] = str(failure)
        return missing


def _checked(event: EventBody) -> bytes:
    raw = _ENCODE(event)
    if len(raw) > EVENT_LIMIT_BYTES:
        raise PayloadTooLarge(
            f"event {event.name!r} has {len(raw):,} bytes and may have {EVENT_LIMIT_BYTES:,}: "
            "keep large data elsewhere and send its key"
        )
    return raw


def _status(state: RunState) -> RunStatus:
    return "completed" if state.status == "continued" else cast("RunStatus", state.status)


def _order(run: RunSummary) -> tuple[int, str]:
    return run.requested_at, run.id


def _cursor(run: RunSummary) -> str:
    return f"{run.requested_at:016d}/{run.id}"
