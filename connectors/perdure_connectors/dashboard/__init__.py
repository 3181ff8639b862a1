"""The dashboard: pages of the wheel's own, which ask the API of the gateway that serves them."""

from perdure_connectors.dashboard.pages import routes

__all__ = ["routes"]
