"""Imports point one way: schemas ← flow, log ← partition ← worker ← sdk ← past ← testing, cli, connectors.

The checker reads syntax trees, so an import inside a function or under TYPE_CHECKING counts like any other.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [ROOT / "schemas", ROOT / "engine", ROOT / "connectors"]

COMMON = {"schemas", "errors", "duration", "schedule"}
BELOW_SDK = COMMON | {"flow", "log", "partition", "worker", "history"}
SDK = BELOW_SDK | {"sdk", "surface"}
MAY_IMPORT: dict[str, set[str]] = {
    "schemas": set(),
    "errors": set(),
    "duration": {"errors"},
    "schedule": {"errors", "duration"},
    "flow": COMMON,
    "log": COMMON,
    "partition": COMMON | {"flow", "log"},
    "worker": COMMON | {"flow", "log", "partition"},
    "history": COMMON | {"flow", "log", "partition"},
    "sdk": BELOW_SDK,
    "surface": SDK,  # perdure/__init__.py and __main__.py: what users import
    "past": SDK,
    "connectors": SDK | {"past"},
    "testing": SDK,
    "cli": SDK | {"past", "connectors", "testing"},
}
"""Layer → the layers that it may import beside itself."""

EXCEPTIONS = {
    ("perdure.__main__", "cli"),  # `python -m perdure` is the command line
    ("perdure.sdk.local_port", "past"),  # what a port hands out of the log, imported when it is asked for
    ("perdure.sdk.engine", "connectors"),  # Engine.asgi() hands out the gateway, imported when it is asked for
    ("perdure.sdk.telemetry", "connectors"),  # Engine(tracing=True) makes spans, by what is imported for it alone
}
"""(module, layer) pairs that the picture leaves out, each with its reason."""

PURE = (
    {"__future__", "abc", "dataclasses", "enum", "types", "typing", "typing_extensions"}
    | {"bisect", "collections", "functools", "heapq", "itertools", "operator"}
    | {"decimal", "difflib", "hashlib", "json", "math", "re", "string", "struct"}
    | {"msgspec", "xxhash"}
)
"""All that flow/ may import from outside: no loop, no clock, no chance, no I/O."""

IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


def layer_of(module: str) -> str | None:
    """`perdure.flow.run` → `flow`; None for what is not ours."""
    head, _, rest = module.partition(".")
    if head in ("perdure_schemas", "perdure_connectors"):
        return head.removeprefix("perdure_")
    if head != "perdure":
        return None
    part = rest.partition(".")[0]
    return part if part in MAY_IMPORT else "surface"


def imported(module: str, tree: ast.Module, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute name of a module) for every import; relative ones are resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from perdure import errors` names a module, `… import App` the surface: layer_of tells them apart.
            names = [f"{source}.{alias.name}" for alias in node.names] if source == "perdure" else [source]
            yield from ((node.lineno, name) for name in names)


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of this module, a line each."""
    tree = ast.parse(source)
    layer = layer_of(module)
    assert layer is not None
    found: list[str] = []
    for line, name in imported(module, tree, is_package=is_package):
        other = layer_of(name)
        if other is not None:
            if other != layer and other not in MAY_IMPORT[layer] and (module, other) not in EXCEPTIONS:
                found.append(f"{module}:{line}: {layer} may not import {name} ({other})")
        elif layer == "flow" and name.partition(".")[0] not in PURE:
            found.append(f"{module}:{line}: flow is pure and may not import {name}")
    if layer == "flow":
        found += [
            f"{module}:{node.lineno}: flow is pure and may not call {node.func.id}()"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS
        ]
    return found


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of ours with its dotted name."""
    for source in SOURCES:
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_every_module_keeps_its_layer() -> None:
    found = [
        violation
        for module, path in modules()
        for violation in violations(module, path.read_text(encoding="utf-8"), is_package=path.stem == "__init__")
    ]
    assert not found, "\n" + "\n".join(found)


def test_the_walk_finds_modules_of_every_source_root() -> None:
    """An empty walk would pass everything."""
    names = {module for module, _ in modules()}
    assert {"perdure_schemas.records", "perdure.flow", "perdure.log.protocol", "perdure.errors"} <= names


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("perdure_schemas.records", "import perdure"),
        ("perdure_schemas.records", "from perdure.errors import PerdureError"),
        ("perdure.errors", "from perdure.duration import parse"),
        ("perdure.flow.run", "import asyncio"),
        ("perdure.flow.run", "from time import monotonic"),
        ("perdure.flow.run", "import random"),
        ("perdure.flow.run", "import os.path"),
        ("perdure.flow.run", "def fold():\n    import threading"),
        ("perdure.flow.run", "from socket import socket"),
        ("perdure.flow.run", "import logging"),
        ("perdure.flow.run", "from datetime import datetime"),
        ("perdure.flow.run", "open('state')"),
        ("perdure.flow.run", "from perdure.log.protocol import Log"),
        ("perdure.flow.run", "from perdure import log"),
        ("perdure.flow.run", "from perdure import App"),
        ("perdure.flow.run", "from ..partition import processor"),
        ("perdure.flow.run", "from .. import worker"),
        ("perdure.log.embedded", "from perdure.flow.states import RunState"),
        ("perdure.partition.processor", "from perdure.worker.spec import StepSpec"),
        ("perdure.worker.spec", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from perdure.sdk import app"),
        ("perdure.worker.spec", "from perdure import App"),
        ("perdure.history.runs", "import perdure.sdk.port"),
        ("perdure.sdk.app", "import perdure_connectors.http"),
        ("perdure.sdk.app", "from perdure.testing import TestEngine"),
        ("perdure.sdk.app", "from perdure import App"),
        ("perdure_connectors.http", "from perdure.cli import main"),
    ],
)
def test_a_violation_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("perdure_schemas.records", "from perdure_schemas.event import EventBody\nimport msgspec"),
        ("perdure.flow.run", "from collections.abc import Iterator\nfrom perdure.flow.view import View"),
        ("perdure.flow.run", "from perdure import errors\nfrom .view import View\nfrom . import ops"),
        ("perdure.flow.run", "import perdure_schemas"),
        ("perdure.log.memory", "import asyncio, time\nfrom perdure.errors import LogFull"),
        ("perdure.partition.timers", "from perdure.schedule import next_fire\nfrom perdure.flow.view import View"),
        ("perdure.worker.spec", "from perdure.partition.host import Host"),
        ("perdure.sdk.app", "from perdure.worker.spec import StepSpec"),
        ("perdure_connectors.http", "from perdure import App\nfrom perdure.sdk.port import Port"),
        ("perdure.cli.dev", "import perdure_connectors.http"),
        ("perdure.__main__", "from perdure.cli import main"),
    ],
)
def test_what_the_layers_allow_passes(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_relative_imports_of_a_package_are_its_own() -> None:
    """In `perdure/flow/__init__.py` one dot is `perdure.flow`, in `perdure/flow/run.py` too."""
    assert violations("perdure.flow", "from .run import fold", is_package=True) == []
    assert len(violations("perdure.flow", "from ..log import memory", is_package=True)) == 1
