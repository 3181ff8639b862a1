"""The gateway: events in, runs and functions seen and steered, over HTTP."""

from perdure_connectors.http.app import gateway
from perdure_connectors.http.health import health_checks

__all__ = ["gateway", "health_checks"]
