"""Measurements in fresh processes, so that none meets another's memory, caches or garbage."""

import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from benchmarks.measure import Result

ROOT = Path(__file__).parents[1]
_LIMIT_SECONDS = 600


class MeasurementFailed(Exception):
    """A measurement's process ended without a result."""


def measured(name: str, **parameters: Any) -> Result:
    """In a fresh process with a fresh folder, which is removed afterwards."""
    with TemporaryDirectory(prefix="perdure-bench-") as folder:
        return measured_in(folder, name, **parameters)


def measured_in(folder: str, name: str, **parameters: Any) -> Result:
    """In a fresh process, with a folder that may hold what another one left."""
    command = [sys.executable, "-m", "benchmarks.child", name, folder, msgspec.json.encode(parameters).decode()]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=False, timeout=_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"{name} {parameters} took longer than {_LIMIT_SECONDS} s") from None
    if done.returncode not in (0, -signal.SIGKILL) or not done.stdout:
        raise MeasurementFailed(f"{name} {parameters} ended with {done.returncode}: see above")
    result: Result = msgspec.json.decode(done.stdout.splitlines()[-1])
    return result
