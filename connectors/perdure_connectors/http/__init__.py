"""The gateway: events in, runs and functions seen and steered, over HTTP."""

from perdure_connectors.http.app import gateway

__all__ = ["gateway"]
