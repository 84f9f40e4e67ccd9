"""Reads YAML nodes by a table of options: the values, their lines, and all errors at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Callable, NamedTuple

import yaml

from exporter.config.options import ConfigError
from exporter.config.values import Option
from exporter.config.yaml_file import YamlLoader, compose, shorten

FLAG = "flag"
"""The type of a text from the command line, which has no YAML type."""

_TYPE_NAMES = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "a boolean",
               "timestamp": "a date", "null": "null", "map": "a mapping", "seq": "a list"}  # fmt: skip


class _Item(NamedTuple):
    """One value of a key: its name in errors, its node and its line."""

    name: str
    node: yaml.Node
    line: int


class Reader:
    """Collects the valid values and all problems, by dotted key. `options` describes the keys that exist.

    `place(line, key)` is the start of an error message: it tells where the error is. `null_problem(key)` is the error
    message of a key without a value. `null_sections` allows sections without a value. `loader_class` gives the types of
    plain scalars.
    """

    def __init__(
        self,
        options: Mapping[str, Option],
        place: Callable[[int, str], str],
        null_problem: Callable[[str], str],
        *,
        null_sections: bool = False,
        loader_class: type[YamlLoader] = YamlLoader,
    ) -> None:
        self.options = options
        self.sections = {key.rpartition(".")[0] for key in options} - {""}
        self.place = place
        self.null_problem = null_problem
        self.null_sections = null_sections
        self.loader_class = loader_class
        self.problems: list[tuple[int, str]] = []
        self.values: dict[str, object] = {}
        self.lines: dict[str, int] = {}  # the line of every key and item that is set, valid or not

    def add_problem(self, line: int, key: str, problem: str) -> None:
        """Keep a problem of a key until check() raises it."""
        self.problems.append((line, f"{self.place(line, shorten(key))}: {problem}"))

    def check(self) -> None:
        """Raise ConfigError with all problems, in the order of their lines, if there are any."""
        if self.problems:
            raise ConfigError(*(problem for _, problem in sorted(self.problems, key=lambda found: found[0])))

    def read_file(self, text: str, name: str) -> None:
        """Read the text of a whole file, whose name in errors is `name`. Raises ConfigError if it is not valid YAML."""
        root = compose(text, name, self.loader_class)
        if root is not None and root.value != "" and not (self.null_sections and _yaml_type(root) == "null"):
            self.read_section(root, "", _line(root))

    def read_section(self, node: yaml.Node, section: str, line: int) -> None:
        """Read a mapping whose keys are options or further sections."""
        if _yaml_type(node) != "map":
            keys = [key[len(section) :].lstrip(".") for key in self.options if key.startswith(section)]
            problem = f"{_quoted(node)} {_type_problem(node)}; allowed is a mapping with {', '.join(keys)}"
            self.add_problem(line, section or "the whole file", problem.lstrip())
            return
        first: dict[str, int] = {}
        for name_node, value in node.value:
            line = _line(name_node)
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else f"({_yaml_type(name_node)})"
            key = f"{section}.{name}" if section else name
            if key in first:
                self.add_problem(line, key, _given_again(first[key]))
            first.setdefault(key, line)
            is_null = _yaml_type(value) == "null"
            if key in self.options and "." not in name:
                if not (is_null and self.options[key].nullable):
                    self.read_option(key, value, line)
            elif key in self.sections and "." not in name:
                if not (is_null and self.null_sections):
                    self.read_section(value, key, line)
            else:
                self.add_problem(line, key, f"unknown key{self._hint(key)}")

    def read_option(self, key: str, node: yaml.Node, line: int) -> None:
        """Read the value of a key: one value, a list of values, or a mapping of names to values."""
        option, problems_before = self.options[key], len(self.problems)
        self.lines[key] = line
        if option.is_mapping:
            items = self._mapping_items(key, node, line)
        elif option.min_items is not None:
            items = self._list_items(key, node, line)
        else:
            items = [_Item(key, node, line)]
        values: list[object] = []
        for item in items:
            self._read_item(key, item, values)
        if len(self.problems) > problems_before:
            return
        if option.is_mapping:
            self.values[key] = {item.name[len(key) + 1 :]: value for item, value in zip(items, values)}
        else:
            self.values[key] = values[0] if option.min_items is None else tuple(values)

    def _read_item(self, key: str, item: _Item, values: list[object]) -> None:
        """Append the value of an item to `values`, or add a problem."""
        option, yaml_type = self.options[key], _yaml_type(item.node)
        self.lines[item.name] = item.line
        try:
            if yaml_type not in (*option.yaml_types, FLAG):
                is_null_key = yaml_type == "null" and item.name == key
                raise ValueError(self.null_problem(key) if is_null_key else _type_problem(item.node))
            value = option.parse(item.node.value)
            if option.min_items is not None and not option.repeats and value in values:
                raise ValueError("is in the list already")
            values.append(value)
        except ValueError as error:
            shown = "" if option.secret else _quoted(item.node)
            self.add_problem(item.line, item.name, f"{shown} {error}; allowed is {option.allowed}".lstrip())

    def _list_items(self, key: str, node: yaml.Node, line: int) -> list[_Item]:
        option = self.options[key]
        if _yaml_type(node) != "seq":
            problem = self.null_problem(key) if _yaml_type(node) == "null" else _type_problem(node)
            self.add_problem(line, key, f"{problem}; allowed is a list of {option.allowed}")
            return []
        if option.min_items and len(node.value) < option.min_items:
            self.add_problem(line, key, f"is empty; allowed is at least {option.min_items} of {option.allowed}")
            return []
        return [_Item(f"{key}[{i}]", value, _line(value)) for i, value in enumerate(node.value)]

    def _mapping_items(self, key: str, node: yaml.Node, line: int) -> list[_Item]:
        if _yaml_type(node) != "map":
            allowed = f"allowed is a mapping of names to {self.options[key].allowed}"
            self.add_problem(line, key, f"{_type_problem(node)}; {allowed}")
            return []
        items: dict[str, _Item] = {}
        for name_node, value in node.value:
            line = _line(name_node)
            if not isinstance(name_node, yaml.ScalarNode):
                self.add_problem(line, key, f"has a name that {_type_problem(name_node)}; allowed is a string")
                continue
            name = f"{key}.{name_node.value}"
            if name in items:
                self.add_problem(line, name, _given_again(items[name].line))
            items.setdefault(name, _Item(name, value, line))
        return list(items.values())

    def _hint(self, key: str) -> str:
        """Return a hint for the message about an unknown key: the most similar key, preferably of the same section."""
        names = [*self.options, *self.sections]
        if key in names:  # a dotted key that was written as one word
            return f"; write it nested, as {key.replace('.', ': {')}: ...{'}' * key.count('.')}"
        section, _, last = key.rpartition(".")
        known = {name.rpartition(".")[2]: name for name in sorted(names, key=lambda n: n.rpartition(".")[0] == section)}
        near = difflib.get_close_matches(last[:64], known, 1, 0.7)
        return f", did you mean {known[near[0]]}?" if near else f"; allowed are {', '.join(self.options)}"


def _given_again(line: int) -> str:
    return f"given again, first on line {line}; allowed is once"


def _yaml_type(node: yaml.Node) -> str:
    """Return the short name of a node's YAML type. A tag that contradicts the form of the node gets a "!" in front."""
    name = node.tag.replace("tag:yaml.org,2002:", "", 1)
    form = {"map": yaml.MappingNode, "seq": yaml.SequenceNode}.get(name, yaml.ScalarNode)
    return name if isinstance(node, form) else "!" + name


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


def _quoted(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or _yaml_type(node) == "null":
        return ""
    text = shorten(node.value)
    return f'"{text}"' if _yaml_type(node) in {"str", FLAG} else text


def _type_problem(node: yaml.Node) -> str:
    yaml_type = _yaml_type(node)
    return f"is {_TYPE_NAMES.get(yaml_type) or shorten('of the unknown type ' + yaml_type)}"
