"""A receiver for remote_write that counts the samples and bytes that a Prometheus sends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.prometheus.server import Labels


class Receiver:
    """Listens on loopback.

    It counts received `bytes`, `requests` and `samples`; `series` has the labels of all series.
    """

    def __init__(self) -> None:
        self.bytes = self.requests = self.samples = 0
        self.series: set[tuple[tuple[str, str], ...]] = set()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver._take(body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api/v1/write"

    def _take(self, body: bytes) -> None:
        found = list(_series(_uncompressed(body)))
        with self._lock:
            self.bytes += len(body)
            self.requests += 1
            for labels, samples in found:
                self.samples += samples
                self.series.add(tuple(sorted(labels.items())))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _uncompressed(data: bytes) -> bytes:
    """Decode Snappy's block format (format_description.txt of google/snappy): literals, and copies of earlier bytes."""
    size, at = _varint(data, 0)
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        if tag & 3 == 0:
            length = tag >> 2
            if length >= 60:
                extra = length - 59
                length = int.from_bytes(data[at : at + extra], "little")
                at += extra
            out += data[at : at + length + 1]
            at += length + 1
            continue
        if tag & 3 == 1:
            length, offset = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | data[at]
            at += 1
        else:
            width = 2 if tag & 3 == 2 else 4
            length, offset = (tag >> 2) + 1, int.from_bytes(data[at : at + width], "little")
            at += width
        start = len(out) - offset
        for number in range(length):  # a copy may overlap the bytes that it writes
            out.append(out[start + number])
    assert len(out) == size
    return bytes(out)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each length-delimited field of a protobuf message. Skip all other fields."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 2:
            length, at = _varint(data, at)
            yield key >> 3, data[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(data, at)
        else:
            at += 8 if kind == 1 else 4


def _series(request: bytes) -> Iterator[tuple[Labels, int]]:
    """Yield two values for each series in a WriteRequest (prompb/remote.proto).

    The values are its labels, and its number of samples and histograms.
    """
    for number, series in _fields(request):
        if number != 1:  # metadata
            continue
        labels: Labels = {}
        samples = 0
        for field, value in _fields(series):
            if field == 1:
                name, text = (part.decode() for _, part in _fields(value))
                labels[name] = text
            elif field in (2, 4):
                samples += 1
        yield labels, samples
