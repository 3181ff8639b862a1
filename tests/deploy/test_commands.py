"""Every command line of these files, and of the page that explains them, is one that `perdure` takes."""

import re
import shlex

import click
import pytest

from perdure.cli import main
from tests.deploy.files import ROOT, commands


def parse(arguments: list[str]) -> click.Context:
    """As `perdure` does it, and no further. Raises `click.UsageError`."""
    command: click.Command = main
    context = click.Context(main, info_name="perdure")
    while isinstance(command, click.Group):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    return command.make_context(command.name, arguments, parent=context.parent)


@pytest.mark.parametrize("place", commands())
def test_what_containers_are_given_is_understood(place: str) -> None:
    parse(commands()[place])


def test_what_is_not_understood_is_noticed() -> None:
    wrong = [one.replace("--grace", "--gracious") for one in commands()["compose.yaml worker-1"]]
    with pytest.raises(click.UsageError, match="--gracious"):
        parse(wrong)


@pytest.mark.parametrize("page", ["docs/operations.md", "compose.yaml"])
def test_what_people_are_told_to_type_is_there(page: str) -> None:
    """The command, and the names of its options: a page leaves arguments out."""
    text = (ROOT / page).read_text()
    told = re.findall(r"`perdure ([^`]+)`|^.*\sperdure ((?:send|runs|topics) .+)$", text, re.MULTILINE)
    assert told
    for quoted, typed in told:
        words = shlex.split(quoted or typed)
        command: click.Command = main
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name = words.pop(0)
            found = command.get_command(click.Context(command), name)
            assert found is not None, f"{page}: there is no `{command.name} {name}`"
            command = found
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, f"{page}: {quoted or typed}"
