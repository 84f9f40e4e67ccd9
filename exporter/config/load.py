"""Reading the configuration: a file and a command line come as YAML nodes, and go the same way (yamlfile.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

import yaml

from exporter.config.options import LIVE, OPTIONS, Config, contradictions
from exporter.config.reader import FLAG, Reader, text_of

_TOOLKIT_FLAGS = {"web.config_file": "--web.config.file"}  # the one name that does not follow from its key


def _reader(where: Callable[[int, str], str]) -> Reader:
    return Reader(OPTIONS, where, _default)


def _finish(reader: Reader, base: Config) -> Config:
    """The base with the values read; raises ConfigError if anything was wrong."""
    config: Config = _replaced(base, "", reader.values)
    for keys, what in contradictions(config):
        given = [key for key in keys if key in reader.lines]
        if given and all(key in reader.values for key in given):
            reader.wrong(reader.lines[given[0]], given[0], what)
    reader.check()
    return config


def _default(key: str) -> str:
    return f"is null (leave the key out for its default, {shown(Config(), key)})"


def _replaced(node: Any, section: str, values: Mapping[str, object]) -> Any:
    changes: dict[str, object] = {}
    for item in dataclasses.fields(node):
        key, value = section + item.name, getattr(node, item.name)
        nested = dataclasses.is_dataclass(value)
        changes[item.name] = _replaced(value, key + ".", values) if nested else values.get(key, value)
    return dataclasses.replace(node, **changes)


def parse(text: str, name: str) -> Config:
    """The configuration in a YAML text; `name` is what problems call the file. Raises ConfigError."""
    reader = _reader(lambda line, key: f"{name}:{line}: {key}")
    reader.file(text, name)
    return _finish(reader, Config())


def load(path: Path) -> Config:
    """The configuration in a file, UTF-8, at most MAX_BYTES long. Raises ConfigError."""
    return parse(text_of(path), str(path))


def flag(key: str) -> str:
    """The command line flag of an option: "--web.listen-address" of "web.listen_address"."""
    key = key.partition("[")[0]
    return _TOOLKIT_FLAGS.get(key) or "--" + key.replace("_", "-")


def with_flags(config: Config, overrides: Mapping[str, object]) -> Config:
    """The configuration as overruled by flags: dotted key -> text, or texts of a flag that repeats.

    None stands for a flag that was not given. Raises ConfigError, whose problems name the flags, and KeyError
    for a key that is none of OPTIONS.
    """
    reader = _reader(lambda _, key: flag(key))
    for key, given in overrides.items():
        if given is None:
            continue
        texts = [given] if isinstance(given, (str, bool)) or not isinstance(given, Sequence) else given
        nodes = [yaml.ScalarNode(FLAG, str(text), None, None) for text in texts]
        if OPTIONS[key].least is not None:
            reader.option(key, yaml.SequenceNode("seq", nodes, None, None), 0)
        elif len(nodes) == 1:
            reader.option(key, nodes[0], 0)
        else:
            reader.wrong(0, key, f"given {len(nodes)} times; allowed is once")
    return _finish(reader, config)


def reloaded(old: Config, new: Config) -> tuple[Config, list[str]]:
    """What of `new` can be in force without a restart, and the keys that need one: they stay as in `old`."""
    waiting = [key for key in OPTIONS if key not in LIVE and _value(old, key) != _value(new, key)]
    return _replaced(new, "", {key: _value(old, key) for key in waiting}), waiting


def shown(config: Config, key: str) -> str:
    """The value of an option as it stands in a file."""
    return OPTIONS[key].show(_value(config, key))


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def describe(config: Config) -> str:
    """The whole configuration as YAML, which parse() reads back as the same."""
    return "".join(_described(config, "", ""))


def _described(node: Any, section: str, indent: str) -> Iterator[str]:
    for item in dataclasses.fields(node):
        key, value = section + item.name, getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield f"{indent}{item.name}:\n"
            yield from _described(value, key + ".", indent + "  ")
        else:
            yield f"{indent}{item.name}: {OPTIONS[key].show(value)}\n"
