"""Turns a file into YAML nodes, within limits of size and nesting.

A file never becomes Python objects, so a tag in the file cannot run code. Each node has the number of its line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml

from exporter.common.files import read_start
from exporter.config.options import ConfigError, UnreadableError

MAX_BYTES, MAX_NODES, MAX_DEPTH = 1 << 20, 4096, 32
"""Limits of a file: its bytes, its values, its levels of nesting. They are far above what a real file needs."""


def read_text(path: Path) -> str:
    """Return the text of a regular file, which must be UTF-8 and at most MAX_BYTES long.

    Raises UnreadableError if the file cannot be read, and ConfigError if it is too large or not UTF-8.
    """
    try:
        data = read_start(path, MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot read the configuration file: {error.strerror}") from None
    except ValueError as error:  # the path contains a NUL
        raise UnreadableError(f"{path}: cannot read the configuration file: {error}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}") from None


class YamlLoader(yaml.SafeLoader):
    """Composes nodes, within the limits. A subclass can give plain scalars other types."""

    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node. Raises MarkedYAMLError if the text exceeds a limit."""
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
        """Return the place of the next event."""
        mark: yaml.Mark = cast("Any", self).peek_event().start_mark
        return mark


def compose(text: str, name: str, loader_class: type[YamlLoader] = YamlLoader) -> yaml.Node | None:
    """Return the root node of a YAML text, or None for an empty text. `name` is the file's name in errors.

    Raises ConfigError if the text is not YAML, has a second document, or exceeds a limit.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES} bytes")
    try:
        loader = loader_class(text)
        root = loader.get_node() if loader.check_node() else None
        if loader.check_node():
            line = loader.next_mark().line + 1
            raise ConfigError(f"{name}:{line}: a second document starts here; allowed is one")
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}:{_syntax_problem(error, text)}") from None
    return root


def shorten(text: str, limit: int = 64) -> str:
    """Cut a text for an error message at `limit` characters."""
    return text if len(text) <= limit else text[:limit] + "..."


def _syntax_problem(error: Exception, text: str) -> str:
    """Return `LINE: problem` for an error of the YAML parser, on one line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{line}: not YAML: character U+{error.character:04X} is not allowed"
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        problem = " ".join(shorten(part, 120) for part in (error.context, error.problem) if part)
        return f"{mark.line + 1}: not YAML: column {mark.column + 1}: {problem}"
    return f"1: not YAML: {shorten(str(error), 120)}"  # for example the ValueError of chr() for \U00110000
