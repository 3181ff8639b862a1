"""Steps of queues, in the run that calls them: opened in the log, run by a pool member, delivered as any outcome."""

from collections.abc import Coroutine, Mapping
from typing import Any

from perdure.errors import DefinitionError, qualified_name
from perdure.worker.arguments import arguments_json
from perdure.worker.delivery import Delivered, Go
from perdure.worker.execution import Execution
from perdure.worker.lineage import Branch
from perdure.worker.payloads import digest
from perdure.worker.spec import RetryPolicy, StepSpec
from perdure.worker.steps import run_step, value_of
from perdure_schemas.records import OpOpened, Queued, RetryRule, V

LEASE_MS = 60_000
"""Without a sign of life of its member for so long, a step goes to another one. It says so three times as often."""


def queued(
    branch: Branch, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Coroutine[Any, Any, Any]:
    """A step of a run for a worker pool, called in `branch`. Its identity is taken now, when it is called."""
    execution, op = branch.execution, branch.identity(spec.name)
    coroutine = execution.unawaited[op] = _queued(execution, branch, op, spec, args, kwargs)
    return coroutine


async def _queued(
    execution: Execution, branch: Branch, op: str, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    begun = execution.state.open.get(op)
    if begun is not None and begun.type == "step":
        # It failed once under code that ran it in the run's own process, and goes on there.
        return await run_step(execution, branch, op, spec, args, kwargs)
    del execution.unawaited[op]
    asked, _ = digest(spec.name, args, kwargs)
    delivered: Delivered | None = await execution.obtain(op, asked)
    while delivered is None:
        if op not in execution.recorded and op not in execution.closed:
            opening = _opening(execution, spec, args, kwargs)
            execution.recorded[op] = asked
            execution.processor.append(OpOpened(execution.run_id, op, asked, opening, v=V))
        execution.worker.may_rest(execution)
        answer = await execution.wait(op)
        delivered = None if isinstance(answer, Go) else answer
    return value_of(execution, op, spec, asked, delivered)


def _opening(execution: Execution, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Queued:
    """Raises `DefinitionError` for a step that no pool would find, `PayloadError` for what one could not get."""
    known = execution.worker.steps.get(spec.step)
    if known is None or known.origin is not spec.origin:
        raise DefinitionError(
            f"step {spec.name!r} has queue={spec.queue!r}, and a pool would not find it: it is no step of this app, "
            f"or the app has two of the name {spec.step!r}"
        )
    arguments = execution.worker.payloads.inline(
        arguments_json(spec, args, kwargs), f"what step {spec.name!r} is called with"
    )
    rule = _rule(spec.retries)
    return Queued(spec.queue, spec.step, arguments, rule, LEASE_MS, spec.timeout_ms, execution.traceparent)


def _rule(policy: RetryPolicy) -> RetryRule:
    never_on = tuple(qualified_name(kind) for kind in policy.never_on)
    return RetryRule(policy.limit, policy.first_ms, policy.factor, policy.longest_ms, never_on)
