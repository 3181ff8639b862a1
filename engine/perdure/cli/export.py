"""`perdure export`."""

from pathlib import Path

import click

from perdure.cli.banner import say
from perdure.cli.exits import UsageProblem
from perdure.cli.filters import moment_of
from perdure.cli.output import console, print_json, styled
from perdure.cli.past import past_options, past_source
from perdure.cli.tables import redaction_rules
from perdure.errors import DefinitionError, UnknownRun
from perdure.past.file import lines_of, written
from perdure.past.reading import Wanted
from perdure.past.redaction import Rule, redacted, rule_of
from perdure.past.tape import Tape


@click.command()
@click.argument("run_ids", metavar="[RUN_ID]...", nargs=-1)
@click.option("--since", help="All that was written since then, and all of the runs that it is about: 7d, 2026-11-21.")
@click.option("--all", "everything", is_flag=True, help="All that there is.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file.  [default: runs.ndjson]")
@click.option("--redact", "rules", multiple=True, help="Replace these values: data.email, steps.charge.card, …")
@click.option("--app", default="", help="module:app, or its name, where the log has several.")
@past_options
@click.pass_context
def export(
    ctx: click.Context,
    run_ids: tuple[str, ...],
    since: str | None,
    everything: bool,
    output: Path | None,
    rules: tuple[str, ...],
    app: str,
    past_log: str | None,
    past_file: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Write runs into one file, which `perdure replay`, `state` and the others read with --file.

    Runs by their ids, or all since a time. The file is a JSON object a line, packed with zstd if its name ends in .zst.
    What --redact names, and the rules of [tool.perdure.redact], is replaced by other values of the same type wherever
    it stands.
    """
    if bool(run_ids) + bool(since) + everything != 1:
        raise UsageProblem("say which runs: their ids, or --since 7d, or --all")
    named = [_rule(rule) for rule in dict.fromkeys([*redaction_rules(), *rules])]
    wanted = Wanted(frozenset(run_ids), moment_of(since, "--since"))
    tape = past_source(ctx, past_log, past_file, url, app)(wanted)
    missing = sorted(set(run_ids) - set(tape.runs()))
    if missing:
        raise UnknownRun(f"of {', '.join(missing)} nothing is known there: compare the ids, or name another source")
    unused: list[str] = []
    if named:
        tape, counts = redacted(tape, named)
        unused = [rule for rule, count in counts.items() if not count]
    path = output or Path("runs.ndjson")
    with written(path) as file:
        file.writelines(lines_of(tape))
    _tell(path, tape, unused, as_json=as_json)


def _rule(text: str) -> Rule:
    try:
        return rule_of(text)
    except DefinitionError as error:
        raise UsageProblem(f"--redact {error}") from None


def _tell(path: Path, tape: Tape, unused: list[str], *, as_json: bool) -> None:
    runs, records = len(tape.runs()), sum(len(part.entries) for part in tape.parts.values())
    if as_json:
        told = {"file": str(path), "app": tape.app, "runs": runs, "records": records, "bytes": path.stat().st_size}
        print_json({**told, "redacted": tape.redacted, "found_nothing": unused})
        return
    for rule in unused:
        say(f"--redact {rule}: no value was found there", as_json=False)
    console().print(
        styled(f"{path}: {runs:,} run{'s' * (runs != 1)} of {tape.app!r}, {records:,} records"), soft_wrap=True
    )
