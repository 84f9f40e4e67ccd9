"""YAML files read by a table of options: values, the lines they stand on, and everything that is wrong at once.

A file is composed into nodes and never into objects: nodes know their line, and run nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, cast

import yaml

from exporter.config.options import ConfigError, UnreadableError
from exporter.config.values import Option

MAX_BYTES, MAX_NODES, MAX_DEPTH = 1 << 20, 4096, 32  # far more than the longest honest file
FLAG = "flag"  # stands for the type where the command line gave the text, which has no type of its own

_KINDS = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "a boolean",
          "timestamp": "a date", "null": "null", "map": "a mapping", "seq": "a list"}  # fmt: skip


class Reader:
    """Collects the good values and all problems of nodes that `options` describes, by dotted key.

    `where` words the place of a line and a key; `default` words the default of a key.
    """

    def __init__(
        self,
        options: Mapping[str, Option],
        where: Callable[[int, str], str],
        default: Callable[[str], str],
    ) -> None:
        self.options = options
        self.sections = {key.rpartition(".")[0] for key in options} - {""}
        self.where = where
        self.default = default
        self.problems: list[tuple[int, str]] = []
        self.values: dict[str, object] = {}
        self.lines: dict[str, int] = {}  # of every option and item that was given, good or not

    def wrong(self, line: int, key: str, what: str) -> None:
        """Note what is wrong with a key."""
        self.problems.append((line, f"{self.where(line, _short(key))}: {what}"))

    def file(self, text: str, name: str) -> None:
        """Read a whole YAML text; `name` is what syntax errors call it. Raises ConfigError where it is not YAML."""
        root = _compose(text, name)
        if root is not None and root.value != "":
            self.section(root, "", _line(root))

    def section(self, node: yaml.Node, section: str, line: int) -> None:
        """Read a mapping of keys, some of which are sections."""
        if _kind(node) != "map":
            keys = [key[len(section) :].lstrip(".") for key in self.options if key.startswith(section)]
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
            if key in self.options and "." not in name:
                self.option(key, value, line)
            elif key in self.sections and "." not in name:
                self.section(value, key, line)
            else:
                self.wrong(line, key, f"unknown key{self._nearest(key)}")

    def option(self, key: str, node: yaml.Node, line: int) -> None:
        """Read one value, list or mapping of names to values."""
        option, problems = self.options[key], len(self.problems)
        self.lines[key] = line
        items: list[tuple[str, yaml.Node, int]] = [(key, node, line)]
        if option.named:
            items = self._named(key, node, line)
        elif option.least is not None:
            items = []
            if _kind(node) != "seq":
                what = self.default(key) if _kind(node) == "null" else _shown(node)
                self.wrong(line, key, f"{what}; allowed is a list of {option.allowed}")
            elif len(node.value) < option.least:
                self.wrong(line, key, f"is empty; allowed is at least {option.least} of {option.allowed}")
            else:
                items = [(f"{key}[{i}]", item, _line(item)) for i, item in enumerate(node.value)]
        values: list[object] = []
        for name, item, at in items:
            self.lines[name] = at
            try:
                if _kind(item) not in (*option.kinds, FLAG):
                    raise ValueError(self.default(key) if _kind(item) == "null" and name == key else _shown(item))
                value = option.parse(item.value)
                if option.least is not None and value in values:
                    raise ValueError("is in the list already")
                values.append(value)
            except ValueError as error:
                shown = "" if option.secret else _quoted(item)
                self.wrong(at, name, f"{shown} {error}; allowed is {option.allowed}".lstrip())
        if len(self.problems) > problems:
            return
        if option.named:
            self.values[key] = {name[len(key) + 1 :]: value for (name, _, _), value in zip(items, values)}
        else:
            self.values[key] = values[0] if option.least is None else tuple(values)

    def _named(self, key: str, node: yaml.Node, line: int) -> list[tuple[str, yaml.Node, int]]:
        if _kind(node) != "map":
            self.wrong(line, key, f"{_shown(node)}; allowed is a mapping of names to {self.options[key].allowed}")
            return []
        items: dict[str, tuple[str, yaml.Node, int]] = {}
        for name_node, value in node.value:
            at = _line(name_node)
            if not isinstance(name_node, yaml.ScalarNode):
                self.wrong(at, key, f"has a name that {_shown(name_node)}; allowed is a string")
                continue
            name = f"{key}.{name_node.value}"
            if name in items:
                self.wrong(at, name, f"given again, first on line {items[name][2]}; allowed is once")
            items.setdefault(name, (name, value, at))
        return list(items.values())

    def check(self) -> None:
        """Raise ConfigError if anything was wrong, line by line."""
        if self.problems:
            raise ConfigError(*(problem for _, problem in sorted(self.problems, key=lambda found: found[0])))

    def _nearest(self, key: str) -> str:
        """What the writer of an unknown key may have meant, in the same section or in another."""
        names = [*self.options, *self.sections]
        if key in names:  # the dotted key, written as one word
            return f"; write it nested, as {key.replace('.', ': {')}: ...{'}' * key.count('.')}"
        section, _, last = key.rpartition(".")
        known = {name.rpartition(".")[2]: name for name in sorted(names, key=lambda n: n.rpartition(".")[0] == section)}
        near = difflib.get_close_matches(last[:64], known, 1, 0.7)
        return f", did you mean {known[near[0]]}?" if near else f"; allowed are {', '.join(self.options)}"


class _YamlLoader(yaml.SafeLoader):
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
    return f'"{text}"' if _kind(node) in {"str", FLAG} else text


def _shown(node: yaml.Node) -> str:
    kind = _kind(node)
    return f"is {_KINDS.get(kind) or _short('of the unknown type ' + kind)}"


def _syntax(error: Exception, text: str) -> str:
    """`LINE: what` for an error of the YAML reader, on one line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{line}: not YAML: character U+{error.character:04X} is not allowed"
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        what = " ".join(_short(part, 120) for part in (error.context, error.problem) if part)
        return f"{mark.line + 1}: not YAML: column {mark.column + 1}: {what}"
    return f"1: not YAML: {_short(str(error), 120)}"  # such as what chr() says of \U00110000


def _compose(text: str, name: str) -> yaml.Node | None:
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES} bytes")
    try:
        loader = _YamlLoader(text)
        root = loader.get_node() if loader.check_node() else None
        if loader.check_node():
            line = loader.next_mark().line + 1
            raise ConfigError(f"{name}:{line}: a second document starts here; allowed is one")
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}:{_syntax(error, text)}") from None
    return root


def _start(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most)


def text_of(path: Path, read: Callable[[Path, int], bytes] = _start) -> str:
    """The text of a file, UTF-8, at most MAX_BYTES long. Raises ConfigError.

    `read` returns the first bytes of a file, so many at the most, and raises OSError.
    """
    try:
        data = read(path, MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot read the configuration file: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise UnreadableError(f"{path}: cannot read the configuration file: {error}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}") from None
