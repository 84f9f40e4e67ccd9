"""Reading the configuration: a file and a command line come as YAML nodes, and go the same way.

A file is composed into nodes and never into objects: nodes know their line, and run nothing. Everything that is
wrong is reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, cast

import yaml

from exporter.config import OPTIONS, Config, ConfigError, UnreadableError, contradictions

MAX_BYTES, MAX_NODES, MAX_DEPTH = 1 << 20, 4096, 32  # far more than the longest honest file

_SECTIONS = {key.rpartition(".")[0] for key in OPTIONS} - {""}
_KINDS = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "a boolean",
          "timestamp": "a date", "null": "null", "map": "a mapping", "seq": "a list"}  # fmt: skip
_FLAG = "flag"  # stands for the type where the command line gave the text, which has no type of its own


class _Loader(yaml.SafeLoader):
    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=self.next_mark())
        if self.nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES} values", problem_mark=self.next_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def next_mark(self) -> yaml.Mark:
        mark: yaml.Mark = cast("Any", self).peek_event().start_mark
        return mark


class _Reader:
    """Collects the good values and all problems; `where` words the place of a line and a key."""

    def __init__(self, where: Callable[[int, str], str]) -> None:
        self.where = where
        self.problems: list[tuple[int, str]] = []
        self.values: dict[str, object] = {}
        self.lines: dict[str, int] = {}  # of every option that was given, good or not

    def wrong(self, line: int, key: str, what: str) -> None:
        self.problems.append((line, f"{self.where(line, _short(key))}: {what}"))

    def section(self, node: yaml.Node, section: str, line: int) -> None:
        if _kind(node) != "map":
            keys = [key[len(section) :].lstrip(".") for key in OPTIONS if key.startswith(section)]
            what = f"{_quoted(node)} {_shown(node)}; allowed is a mapping with {', '.join(keys)}"
            self.wrong(line, section or "the whole file", what.lstrip())
            return
        first: dict[str, int] = {}
        for name_node, value in node.value:
            line = _line(name_node)
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else f"({_kind(name_node)})"
            key = f"{section}.{name}" if section else name
            if key in first:
                self.wrong(line, key, f"given again, first on line {first[key]}; allowed is once")
            first.setdefault(key, line)
            if key in OPTIONS and "." not in name:
                self.option(key, value, line)
            elif key in _SECTIONS and "." not in name:
                self.section(value, key, line)
            else:
                self.wrong(line, key, f"unknown key{_nearest(key)}")

    def option(self, key: str, node: yaml.Node, line: int) -> None:
        option, problems = OPTIONS[key], len(self.problems)
        self.lines[key] = line
        items, values = [(key, node, line)], []
        if option.least is not None:
            items = []
            if _kind(node) != "seq":
                what = _default(key) if _kind(node) == "null" else _shown(node)
                self.wrong(line, key, f"{what}; allowed is a list of {option.allowed}")
            elif len(node.value) < option.least:
                self.wrong(line, key, f"is empty; allowed is at least {option.least} of {option.allowed}")
            else:
                items = [(f"{key}[{i}]", item, _line(item)) for i, item in enumerate(node.value)]
        for name, item, at in items:
            try:
                if _kind(item) not in (*option.kinds, _FLAG):
                    raise ValueError(_default(key) if _kind(item) == "null" and name == key else _shown(item))
                value = option.parse(item.value)
                if value in values:
                    raise ValueError("is in the list already")
                values.append(value)
            except ValueError as error:
                self.wrong(at, name, f"{_quoted(item)} {error}; allowed is {option.allowed}".lstrip())
        if len(self.problems) == problems:
            self.values[key] = values[0] if option.least is None else tuple(values)

    def finish(self, base: Config) -> Config:
        """The base with the values read; raises ConfigError if anything was wrong."""
        config: Config = _replaced(base, "", self.values)
        for keys, what in contradictions(config):
            given = [key for key in keys if key in self.lines]
            if given and all(key in self.values for key in given):
                self.wrong(self.lines[given[0]], given[0], what)
        if self.problems:
            raise ConfigError(*(problem for _, problem in sorted(self.problems, key=lambda found: found[0])))
        return config


def _kind(node: yaml.Node) -> str:
    """The YAML type in short; a tag that does not go with the form of the node is no type of ours."""
    kind = node.tag.replace("tag:yaml.org,2002:", "", 1)
    form = {"map": yaml.MappingNode, "seq": yaml.SequenceNode}.get(kind, yaml.ScalarNode)
    return kind if isinstance(node, form) else "!" + kind


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


def _short(text: str, most: int = 64) -> str:
    return text if len(text) <= most else text[:most] + "..."


def _quoted(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or _kind(node) == "null":
        return ""
    text = _short(node.value)
    return f'"{text}"' if _kind(node) in {"str", _FLAG} else text


def _shown(node: yaml.Node) -> str:
    kind = _kind(node)
    return f"is {_KINDS.get(kind) or _short('of the unknown type ' + kind)}"


def _default(key: str) -> str:
    value: Any = Config()
    for name in key.split("."):
        value = getattr(value, name)
    return f"is null (leave the key out for its default, {OPTIONS[key].show(value)})"


def _nearest(key: str) -> str:
    """What the writer of an unknown key may have meant, in the same section or in another."""
    names = [*OPTIONS, *_SECTIONS]
    if key in names:  # the dotted key, written as one word
        return f"; write it nested, as {key.replace('.', ': {')}: ...{'}' * key.count('.')}"
    section, _, last = key.rpartition(".")
    known = {name.rpartition(".")[2]: name for name in sorted(names, key=lambda n: n.rpartition(".")[0] == section)}
    near = difflib.get_close_matches(last[:64], known, 1, 0.7)
    return f", did you mean {known[near[0]]}?" if near else f"; allowed are {', '.join(OPTIONS)}"


def _replaced(node: Any, section: str, values: Mapping[str, object]) -> Any:
    changes: dict[str, object] = {}
    for item in dataclasses.fields(node):
        key, value = section + item.name, getattr(node, item.name)
        nested = dataclasses.is_dataclass(value)
        changes[item.name] = _replaced(value, key + ".", values) if nested else values.get(key, value)
    return dataclasses.replace(node, **changes)


def _syntax(error: Exception, text: str) -> str:
    """`LINE: what` for an error of the YAML reader, on one line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{line}: not YAML: character U+{error.character:04X} is not allowed"
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        what = " ".join(_short(part, 120) for part in (error.context, error.problem) if part)
        return f"{mark.line + 1}: not YAML: column {mark.column + 1}: {what}"
    return f"1: not YAML: {_short(str(error), 120)}"  # such as what chr() says of \U00110000


def parse(text: str, name: str) -> Config:
    """The configuration in a YAML text; `name` is what problems call the file. Raises ConfigError."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES} bytes")
    try:
        loader = _Loader(text)
        root = loader.get_node() if loader.check_node() else None
        if loader.check_node():
            line = loader.next_mark().line + 1
            raise ConfigError(f"{name}:{line}: a second document starts here; allowed is one")
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}:{_syntax(error, text)}") from None
    reader = _Reader(lambda line, key: f"{name}:{line}: {key}")
    if root is not None and root.value != "":
        reader.section(root, "", _line(root))
    return reader.finish(Config())


def load(path: Path) -> Config:
    """The configuration in a file, UTF-8, at most MAX_BYTES long. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot read the configuration file: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise UnreadableError(f"{path}: cannot read the configuration file: {error}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        return parse(data.decode(), str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}") from None


def flag(key: str) -> str:
    """The command line flag of an option: "--web.listen-address" of "web.listen_address"."""
    return "--" + key.partition("[")[0].replace("_", "-")


def with_flags(config: Config, overrides: Mapping[str, object]) -> Config:
    """The configuration as overruled by flags: dotted key -> text, or texts of a flag that repeats.

    None stands for a flag that was not given. Raises ConfigError, whose problems name the flags, and KeyError
    for a key that is none of OPTIONS.
    """
    reader = _Reader(lambda _, key: flag(key))
    for key, given in overrides.items():
        if given is None:
            continue
        texts = [given] if isinstance(given, (str, bool)) or not isinstance(given, Sequence) else given
        nodes = [yaml.ScalarNode(_FLAG, str(text), None, None) for text in texts]
        if OPTIONS[key].least is not None:
            reader.option(key, yaml.SequenceNode("seq", nodes, None, None), 0)
        elif len(nodes) == 1:
            reader.option(key, nodes[0], 0)
        else:
            reader.wrong(0, key, f"given {len(nodes)} times; allowed is once")
    return reader.finish(config)


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
