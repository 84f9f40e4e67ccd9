"""Reads the configuration from a file and from flags. Both become YAML nodes, which reader.py reads the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

import yaml

from exporter.config.options import LIVE, OPTIONS, Config, contradictions
from exporter.config.reader import FLAG, Reader
from exporter.config.yaml_file import read_text

_TOOLKIT_FLAGS = {"web.config_file": "--web.config.file"}
"""Flags of Prometheus' exporter-toolkit, whose names do not follow from the keys."""


def _reader(place: Callable[[int, str], str]) -> Reader:
    return Reader(OPTIONS, place, _null_problem)


def _finish(reader: Reader, base: Config) -> Config:
    """Return `base` with the values that were read. Raises ConfigError if there are problems."""
    config: Config = _with_values(base, "", reader.values)
    for keys, problem in contradictions(config):
        given = [key for key in keys if key in reader.lines]
        if given and all(key in reader.values for key in given):
            reader.add_problem(reader.lines[given[0]], given[0], problem)
    reader.check()
    return config


def _null_problem(key: str) -> str:
    return f"is null (leave the key out for its default, {option_text(Config(), key)})"


def _with_values(node: Any, section: str, values: Mapping[str, object]) -> Any:
    changes: dict[str, object] = {}
    for item in dataclasses.fields(node):
        key, value = section + item.name, getattr(node, item.name)
        nested = dataclasses.is_dataclass(value)
        changes[item.name] = _with_values(value, key + ".", values) if nested else values.get(key, value)
    return dataclasses.replace(node, **changes)


def parse(text: str, name: str) -> Config:
    """Return the configuration in a YAML text. `name` is the name of the file in errors. Raises ConfigError."""
    reader = _reader(lambda line, key: f"{name}:{line}: {key}")
    reader.read_file(text, name)
    return _finish(reader, Config())


def load(path: Path) -> Config:
    """Return the configuration in a file, which is UTF-8 and at most MAX_BYTES long. Raises ConfigError."""
    return parse(read_text(path), str(path))


def flag_name(key: str) -> str:
    """Return the command line flag of an option: "--web.listen-address" for "web.listen_address"."""
    key = key.partition("[")[0]
    return _TOOLKIT_FLAGS.get(key) or "--" + key.replace("_", "-")


def with_flags(config: Config, overrides: Mapping[str, object]) -> Config:
    """Return the configuration with the values of flags: dotted key -> text, or a list of texts for a repeated flag.

    None stands for a flag that is not set. Raises ConfigError, whose problems name the flags, and KeyError for a key
    that is not in OPTIONS.
    """
    reader = _reader(lambda _, key: flag_name(key))
    for key, given in overrides.items():
        if given is None:
            continue
        texts = [given] if isinstance(given, (str, bool)) or not isinstance(given, Sequence) else given
        nodes = [yaml.ScalarNode(FLAG, str(text), None, None) for text in texts]
        if OPTIONS[key].min_items is not None:
            reader.read_option(key, yaml.SequenceNode("seq", nodes, None, None), 0)
        elif len(nodes) == 1:
            reader.read_option(key, nodes[0], 0)
        else:
            reader.add_problem(0, key, f"given {len(nodes)} times; allowed is once")
    return _finish(reader, config)


def reloaded(old: Config, new: Config) -> tuple[Config, list[str]]:
    """Return the configuration after a reload, and the keys that need a restart: these keep their old values."""
    waiting = [key for key in OPTIONS if key not in LIVE and _value(old, key) != _value(new, key)]
    return _with_values(new, "", {key: _value(old, key) for key in waiting}), waiting


def option_text(config: Config, key: str) -> str:
    """Return the value of an option as a file would contain it."""
    return OPTIONS[key].to_text(_value(config, key))


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def describe(config: Config) -> str:
    """Return the whole configuration as YAML. parse() turns it into an equal configuration."""
    return "".join(_described(config, "", ""))


def _described(node: Any, section: str, indent: str) -> Iterator[str]:
    for item in dataclasses.fields(node):
        key, value = section + item.name, getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield f"{indent}{item.name}:\n"
            yield from _described(value, key + ".", indent + "  ")
        else:
            yield f"{indent}{item.name}: {OPTIONS[key].to_text(value)}\n"
