"""Exit codes to names and classes, by the running kernel's own tables."""

from __future__ import annotations

from exporter.reasons.names import Reason, Reasons
from exporter.reasons.spaces import Space
from exporter.reasons.tracepoint import FormatError, TracepointFormat, parse_format

__all__ = ["FormatError", "Reason", "Reasons", "Space", "TracepointFormat", "parse_format"]
