"""A dashboard's JSON as Grafana reads it: its panels, their queries, and how it fills in variables."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.support.paths import ROOT
from tests.support.prometheus.server import Prometheus

FOLDER = ROOT / "deploy/grafana/dashboards"
NAMES = ("kvm-exits-fleet", "kvm-exits-vm")

Board = dict[str, Any]


def load(name: str) -> Board:
    board: Board = json.loads((FOLDER / f"{name}.json").read_text())
    return board


def panels(board: Board) -> list[dict[str, Any]]:
    """All panels but the headings of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def variables(board: Board) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in board["templating"]["list"]}


class Expression(NamedTuple):
    where: str
    text: str


def expressions(board: Board) -> Iterator[Expression]:
    """Every PromQL of a dashboard: panels, annotations, and the selectors of variables."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield Expression(f"{panel['title']} {target['refId']}", target["expr"])
    for annotation in board["annotations"]["list"]:
        yield Expression(annotation["name"], annotation["expr"])
    for name, variable in variables(board).items():
        if variable["type"] == "query":
            yield Expression(name, _label_values(variable)[0])


def _label_values(variable: Mapping[str, Any]) -> tuple[str, str]:
    """Selector and label of a variable's query."""
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert match, variable["query"]
    return match[1], match[2]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Variables and macros in their place. None may be left."""
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"${name}", values[name])
    assert "$" not in text, text
    return text


def regex(chosen: Sequence[str]) -> str:
    """What Grafana makes of the chosen values of a variable that allows for several, in PromQL."""
    escaped = [re.sub(r"([\\^$.|?*+()\[\]{}])", r"\\\\\1", value) for value in chosen]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def choices(variable: Mapping[str, Any], values: Mapping[str, str], prometheus: Prometheus) -> list[str]:
    """What a variable's list has, asked of the server where it is a query."""
    if variable["type"] == "custom":
        return str(variable["query"]).split(",")
    selector, label = _label_values(variable)
    query = urllib.parse.urlencode({"match[]": fill(selector, values)})
    found: list[str] = prometheus.api(f"label/{label}/values?{query}")
    return found


def settings(board: Board, prometheus: Prometheus, chosen: Mapping[str, str], **macros: str) -> dict[str, str]:
    """The value of every variable, in the board's order: what was chosen, else All, else its default or the first."""
    result = dict(macros)
    for name, variable in variables(board).items():
        if name == "datasource":
            continue
        found = choices(variable, result, prometheus)
        assert found, f"the list of ${name} is empty"
        if name in chosen:
            assert chosen[name] in found
            result[name] = regex([chosen[name]]) if variable.get("multi") else chosen[name]
        elif variable.get("includeAll"):
            result[name] = variable.get("allValue") or regex(found)
        else:
            result[name] = variable.get("current", {}).get("value") or found[0]
    return result
