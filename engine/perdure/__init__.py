"""Perdure: Python functions that survive. See README.md; the public surface is what stands in `__all__`."""

from perdure.errors import (
    DefinitionError,
    Duration,
    Failed,
    LogError,
    LogFull,
    NonDeterminism,
    NonRetriable,
    OutsideRun,
    PayloadError,
    PerdureError,
    RetryAfter,
    RunCancelled,
    RunFailed,
    StepError,
    UnknownFunction,
    UnknownRun,
)
from perdure.sdk.app import App
from perdure.sdk.client import Client
from perdure.sdk.context import Context, StepInfo, current_run, current_step
from perdure.sdk.ended import Ended
from perdure.sdk.engine import Engine
from perdure.sdk.events import CancelOn, Event, EventType, Json, Match, Scalar, Trigger
from perdure.sdk.function import Function
from perdure.sdk.handle import RunHandle
from perdure.sdk.options import Options, Retry, StepOptions
from perdure.sdk.port import RunStatus
from perdure.sdk.sender import Sender
from perdure.sdk.step import Step
from perdure.sdk.sync_client import SyncClient, SyncRunHandle
from perdure.worker.coding import Codec

__all__ = [
    "App",
    "CancelOn",
    "Client",
    "Codec",
    "Context",
    "DefinitionError",
    "Duration",
    "Ended",
    "Engine",
    "Event",
    "EventType",
    "Failed",
    "Function",
    "Json",
    "LogError",
    "LogFull",
    "Match",
    "NonDeterminism",
    "NonRetriable",
    "Options",
    "OutsideRun",
    "PayloadError",
    "PerdureError",
    "Retry",
    "RetryAfter",
    "RunCancelled",
    "RunFailed",
    "RunHandle",
    "RunStatus",
    "Scalar",
    "Sender",
    "Step",
    "StepError",
    "StepInfo",
    "StepOptions",
    "SyncClient",
    "SyncRunHandle",
    "Trigger",
    "UnknownFunction",
    "UnknownRun",
    "current_run",
    "current_step",
]
