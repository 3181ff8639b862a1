"""Which code took a run further: read off the owners' words and the place of the run's last line."""

from perdure.flow import definitions
from perdure.flow.effects import Start
from perdure.flow.states import Meta
from perdure_schemas.definition import Definition, FunctionDefined
from perdure_schemas.records import Owner, OwnerStarted, RunParked, StepFailed, V
from tests.flow.world import ERROR, World, called, completed, definition_of, of_kind, on, put_in_queue, run_of, slept

OLD, NEW = on("added"), on("added", where="true")


def owned_by(world: World, partition: int, definition: Definition) -> Owner:
    """The next owner of a partition runs this code."""
    owner = world.owners[partition].view.meta.owner
    return world.start_owner(partition, (owner.number if owner else 0) + 1, code=definition.digest)


def advanced_by(world: World, run: str) -> int:
    view = world.view_of(run)
    return view.advanced_by(world.run(run), view.lines.load(run))


def begun_by(world: World, run: str) -> int:
    view = world.view_of(run)
    return view.begun_by(world.run(run), view.lines.load(run))


def meta(world: World, partition: int = 0) -> Meta:
    return world.owners[partition].view.meta


def test_a_run_is_advanced_by_the_code_of_the_owner_at_its_last_line(world: World) -> None:
    old, new = world.define(OLD), world.define(NEW)
    run = world.request()
    partition = world.of_run(run)
    owned_by(world, partition, old)
    assert advanced_by(world, run) == 0, "nothing was done yet"
    world.to_run(run, completed(run, "0/a#1"))
    assert advanced_by(world, run) == 1
    owned_by(world, partition, new)
    assert advanced_by(world, run) == 1
    world.to_run(run, completed(run, "0/b#1"))
    assert advanced_by(world, run) == 2
    owned_by(world, partition, old)
    assert advanced_by(world, run) == 2
    world.to_run(run, completed(run, "0/c#1"))
    assert advanced_by(world, run) == 1
    world.check()


def test_what_it_opened_or_failed_counts_too(world: World) -> None:
    old, new = world.define(OLD), world.define(NEW)
    runs = [world.request(name) for name in ("one", "two", "three")]
    for partition in range(world.partitions):
        owned_by(world, partition, old)
    for run in runs:
        world.to_run(run, completed(run, "0/a#1"))
    for partition in range(world.partitions):
        owned_by(world, partition, new)
    slept_, failed, untouched = runs
    world.to_run(slept_, slept(slept_, "0/sleep#1", 1_000))
    world.to_run(failed, StepFailed(failed, "0/b#1", 1, "d", ERROR, retry_in_ms=1_000, v=V))
    assert [advanced_by(world, run) for run in (slept_, failed, untouched)] == [2, 2, 1]
    world.checkpoint()
    assert [advanced_by(world, run) for run in (slept_, failed, untouched)] == [2, 2, 1], "from the store, too"
    world.check()


def test_what_it_gave_to_a_queue_counts_too(world: World) -> None:
    """Of such an op there is no line until its outcome comes."""
    old, new = world.define(OLD), world.define(NEW)
    runs = first, _, asked = [world.request(name) for name in ("one", "two", "three")]
    for partition in range(world.partitions):
        owned_by(world, partition, old)
    world.to_run(first, put_in_queue(first))
    for partition in range(world.partitions):
        owned_by(world, partition, new)
    for run in runs[:2]:
        world.to_run(run, completed(run, "0/b#1"))
    assert [begun_by(world, run) for run in runs] == [1, 2, 0]
    world.to_run(asked, put_in_queue(asked))
    assert [advanced_by(world, run) for run in runs] == [2, 2, 2]
    assert [begun_by(world, run) for run in runs] == [1, 2, 2]
    world.checkpoint()
    assert [begun_by(world, run) for run in runs] == [1, 2, 2], "from the store, too"
    world.check()


def test_an_answer_that_is_waited_for_does_not_hide_who_began_a_run(world: World) -> None:
    """An open call has its line, and no place of its own."""
    run = world.request()
    world.define(OLD)
    partition = world.of_run(run)
    owned_by(world, partition, world.define(NEW))
    world.to_run(run, called(run, "0/child#1", run_of("child")))
    assert (begun_by(world, run), advanced_by(world, run)) == (2, 2)


def test_a_run_is_begun_by_the_code_of_its_first_step_or_opening(world: World) -> None:
    """Whichever code was active when it was asked for."""
    old, new = world.define(OLD), world.define(NEW)
    stepped, slept_, untouched = (world.request(name) for name in ("one", "two", "three"))
    for partition in range(world.partitions):
        owned_by(world, partition, old)
    assert begun_by(world, stepped) == 0, "nothing was done yet"
    world.to_run(stepped, completed(stepped, "0/a#1"))
    world.to_run(slept_, slept(slept_, "0/sleep#1", 1_000))
    for partition in range(world.partitions):
        owned_by(world, partition, new)
    for run in (stepped, slept_, untouched):
        world.to_run(run, completed(run, "0/b#1"))
    assert [begun_by(world, run) for run in (stepped, slept_, untouched)] == [1, 1, 2]


def test_an_owner_whose_code_is_numbered_later_had_that_number_from_its_start(world: World) -> None:
    run = world.request()
    partition = world.of_run(run)
    world.define(OLD)
    owned_by(world, partition, definition_of(NEW))
    world.to_run(run, completed(run, "0/a#1"))
    assert advanced_by(world, run) == 0
    world.define(NEW)
    assert advanced_by(world, run) == 2
    assert [number for _, number in meta(world, partition).codes] == [2]
    world.check()


def test_code_that_is_activated_again_has_its_new_number_from_there_on(world: World) -> None:
    old, new = world.define(OLD), world.define(NEW)
    run = world.request()
    partition = world.of_run(run)
    owned_by(world, partition, old)
    world.to_run(run, completed(run, "0/a#1"))
    world.define(OLD, activate=True)
    assert advanced_by(world, run) == 1
    world.to_run(run, completed(run, "0/b#1"))
    assert advanced_by(world, run) == 3
    assert meta(world, partition).known == {old.digest: 3, new.digest: 2}
    world.check()


def test_owners_of_the_same_code_are_one_entry(world: World) -> None:
    old = world.define(OLD)
    for _ in range(5):
        owned_by(world, 0, old)
    assert [number for _, number in meta(world).codes] == [1]


def test_only_so_many_changes_of_code_are_remembered(world: World) -> None:
    digests = [world.define(OLD), world.define(NEW)]
    for turn in range(definitions.CODES_KEPT + 5):
        owned_by(world, 0, digests[turn % 2])
    codes = meta(world).codes
    assert len(codes) == definitions.CODES_KEPT
    assert codes == sorted(codes)
    assert world.owners[0].view.code_at(codes[0][0] - 1) == 0


def test_who_did_not_win_is_not_whose_code_counts(world: World) -> None:
    old, new = world.define(OLD), world.define(NEW)
    owned_by(world, 0, new)
    world.put(0, OwnerStarted(Owner(1, "late"), old.digest, 1, v=V))
    assert meta(world).code == new.digest


def test_a_parked_run_is_tried_by_the_next_owner_of_other_code(world: World) -> None:
    """On any pod, without a deploy; one of the same code would only park it again."""
    old, new = world.define(OLD), world.define(NEW)
    run = world.request()
    partition = world.of_run(run)
    world.to_run(run, RunParked(run, owned_by(world, partition, new), new.digest, "differs", v=V))
    owned_by(world, partition, new)
    assert world.run(run).status == "parked"
    acts = len(world.acts)
    owned_by(world, partition, old)
    assert world.run(run).status == "running"
    assert of_kind(world.acts[acts:], Start) == [Start(run)]
    world.check()


def test_it_waits_until_the_paths_of_new_code_are_copied(world: World) -> None:
    """Else a wait of the new code could miss an event."""
    old = world.define(OLD)
    run = world.request()
    partition = world.of_run(run)
    world.to_run(run, RunParked(run, owned_by(world, partition, old), old.digest, "differs", v=V))
    owned_by(world, partition, definition_of(NEW, FunctionDefined("more", "background")))
    assert world.run(run).status == "parked"
    world.define(NEW, FunctionDefined("more", "background"))
    assert world.run(run).status == "running"


def test_activation_elsewhere_does_not_try_it_under_the_code_that_parked_it(world: World) -> None:
    """In the midst of a deploy: this partition's owner has the code before."""
    old = world.define(OLD)
    run = world.request()
    world.to_run(run, RunParked(run, owned_by(world, world.of_run(run), old), old.digest, "differs", v=V))
    world.define(NEW)
    assert world.run(run).status == "parked"


def test_what_a_zombie_of_older_code_wrote_does_not_bind_the_run_to_newer_code(world: World) -> None:
    """Its result comes when newer code owns the partition, which cannot go on with it: older code may, at once."""
    old, new = world.define(OLD), world.define(NEW)
    run = world.request()
    partition = world.of_run(run)
    owned_by(world, partition, old)
    owner = owned_by(world, partition, new)
    world.to_run(run, completed(run, "0/of the zombie#1"))
    assert advanced_by(world, run) == 2
    world.to_run(run, RunParked(run, owner, new.digest, "differs", v=V))
    owned_by(world, partition, old)
    assert advanced_by(world, run) == 0
    world.to_run(run, completed(run, "0/next#1"))
    assert advanced_by(world, run) == 1
    world.check()
