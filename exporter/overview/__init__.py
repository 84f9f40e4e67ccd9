"""The page at /: VMs ranked by the time they lose to exits, live, for a person with a browser."""

from exporter.overview.page import HEADERS, PATH, Look, Overview
from exporter.overview.view import Health

__all__ = ["HEADERS", "PATH", "Health", "Look", "Overview"]
