"""io.prometheus.client.MetricFamily for Google's protobuf, declared at run time instead of in generated code.

It declares the fields that the exporter sends, from
https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto. It works with protobuf 3.21
and newer, although these versions have different functions that make message classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

COUNTER, GAUGE, SUMMARY, UNTYPED, HISTOGRAM = range(5)  # enum MetricType

_PACKAGE = "io.prometheus.client"
_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _Field.TYPE_STRING,
    "double": _Field.TYPE_DOUBLE,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "sint32": _Field.TYPE_SINT32,
    "sint64": _Field.TYPE_SINT64,
    "int32": _Field.TYPE_INT32,
}
_MESSAGES = {
    "LabelPair": "1 string name, 2 string value",
    "Value": "1 double value",
    "BucketSpan": "1 sint32 offset, 2 uint32 length",
    "Bucket": "1 uint64 cumulative_count, 2 double upper_bound",
    "Histogram": (
        "1 uint64 sample_count, 2 double sample_sum, 3* Bucket bucket, 5 sint32 schema, 6 double zero_threshold, "
        "7 uint64 zero_count, 12* BucketSpan positive_span, 13* sint64 positive_delta"
    ),
    "Metric": "1* LabelPair label, 2 Value gauge, 3 Value counter, 5 Value untyped, 7 Histogram histogram",
    "MetricFamily": "1 string name, 2 string help, 3 int32 type, 4* Metric metric",
}


def _declared() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for declaration in fields.split(", "):
            number, kind, field_name = declaration.split()
            field = message.field.add(name=field_name, number=int(number.rstrip("*")))
            field.label = _Field.LABEL_REPEATED if number.endswith("*") else _Field.LABEL_OPTIONAL
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.MetricFamily")
    if hasattr(message_factory, "GetMessageClass"):  # since protobuf 4.22
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


MetricFamily = _declared()


def decode(page: bytes) -> Iterator[Any]:
    """Yield the families of a page. Raises ValueError for a truncated message or an undeclared field."""
    at = 0
    while at < len(page):
        size, at = _varint(page, at)
        if at + size > len(page):
            raise ValueError(f"a message of {size} bytes at {at} of {len(page)}")
        family = MetricFamily.FromString(page[at : at + size])
        at += size
        whole = family.ByteSize()
        family.DiscardUnknownFields()
        if family.ByteSize() != whole:
            raise ValueError(f"undeclared fields in {family.name}")
        yield family


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
