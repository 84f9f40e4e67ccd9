"""The format and encoding for a scraper, from the HTTP headers Accept and Accept-Encoding (RFC 9110)."""

from __future__ import annotations

from typing import NamedTuple

_MAX_HEADER = 4096
"""Only this many characters of a header are read; Prometheus sends about 300."""


class Format(NamedTuple):
    """A wire format: its name here, and its Content-Type."""

    name: str
    content_type: str


TEXT = Format("text", "text/plain; version=0.0.4; charset=utf-8")
OPENMETRICS = Format("openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8")
OPENMETRICS_OLD = Format("openmetrics", "application/openmetrics-text; version=0.0.1; charset=utf-8")
PROTOBUF = Format(
    "protobuf",
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
)


class _Range(NamedTuple):
    kind: str
    parameters: dict[str, str]
    quality: float


def _ranges(header: str) -> list[_Range]:
    """Return the elements of a header such as Accept. An empty element is left out."""
    found = []
    for element in header[:_MAX_HEADER].split(","):
        kind, *rest = (part.strip() for part in element.split(";"))
        parameters, quality = {}, 1.0
        for part in rest:
            name, _, value = part.partition("=")
            name, value = name.strip().lower(), value.strip().strip('"')
            if name == "q":
                quality = _quality(value)
                break  # parameters after q do not belong to the type
            parameters[name] = value
        if kind:
            found.append(_Range(kind.lower(), parameters, quality))
    return found


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0.0 <= value <= 1.0 else 0.0


def _offered(wanted: _Range) -> Format | None:
    """Return the format that an element of Accept asks for; None if the exporter does not have it."""
    parameters = wanted.parameters
    if wanted.kind == "application/vnd.google.protobuf":
        if (
            parameters.get("proto", "io.prometheus.client.MetricFamily") == "io.prometheus.client.MetricFamily"
            and parameters.get("encoding", "delimited") == "delimited"
        ):
            return PROTOBUF
    elif wanted.kind == "application/openmetrics-text":
        return {"1.0.0": OPENMETRICS, "0.0.1": OPENMETRICS_OLD, "": OPENMETRICS}.get(parameters.get("version", ""))
    elif wanted.kind == "text/plain":
        return TEXT if parameters.get("version", "0.0.4") == "0.0.4" else None
    elif wanted.kind in ("*/*", "text/*"):
        return TEXT
    return None


def choose_format(accept: str) -> Format:
    """Return the format with the highest quality, the first one of equal formats.

    Return text if the exporter has none of the formats.
    """
    best, quality = TEXT, 0.0
    for wanted in _ranges(accept):
        offered = _offered(wanted)
        if offered and wanted.quality > quality:
            best, quality = offered, wanted.quality
    return best


def accepts_gzip(accept_encoding: str) -> bool:
    """True if the scraper accepts gzip, by name or by `*`."""
    qualities = {wanted.kind: wanted.quality for wanted in reversed(_ranges(accept_encoding))}
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0.0
