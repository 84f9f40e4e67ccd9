"""What both dashboards share: variables, annotations, links, and how panels get their place and number."""

from __future__ import annotations

from collections.abc import Iterable

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.source.panels import SOURCE, Panel
from exporter.model.reason import CLASSES

TAG = "kvm-exit-exporter"
FLEET, VM = "kvm-exits-fleet", "kvm-exits-vm"
"""Uids: links and bookmarks hang on them."""

_CARRIED = "${datasource:queryparam}&${job:queryparam}&${class:queryparam}&${__url_time_range}"


def vm_url(fields: str) -> str:
    """Return the URL of a VM's dashboard; `fields` is where the row or series has its labels.

    A VM's name is whatever its owner likes, so it is encoded.
    """
    return f"/d/{VM}?var-vm=${{{fields}.vm:percentencode}}&var-instance=${{{fields}.instance:percentencode}}&{_CARRIED}"


OF_ROW, OF_SERIES = "__data.fields", "__field.labels"

All = model.VariableOption(text="All", value="$__all")


def datasource() -> dashboard.DatasourceVariable:
    """Every other variable and every query goes to what is chosen here."""
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def query(name: str, label: str, text: str, expr: str, *, all_value: str | None = None) -> dashboard.QueryVariable:
    """Return a variable of the values of a label. With `all_value` several can be chosen, and All is."""
    variable = (
        dashboard.QueryVariable(name).label(label).description(text).datasource(SOURCE)
        .query({"query": expr, "refId": f"variable-{name}"})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NATURAL_ASC)
    )  # fmt: skip
    if all_value is None:
        return variable
    variable = variable.multi(True).include_all(True).current(All)
    return variable.all_value(all_value) if all_value else variable


def job() -> dashboard.QueryVariable:
    """All stands for the jobs that have an exporter, by name: only so can `up` be asked for those that are down."""
    text = "Prometheus's job of the exporters"
    return query("job", "Job", text, "label_values(kvm_exit_exporter_up, job)", all_value="")


def classes() -> dashboard.CustomVariable:
    """Idle is no choice: an idle vCPU is out of its guest by its own wish, and would drown all else."""
    names = [name for name in CLASSES if name != "idle"]
    return _custom("class", "Class", "Classes of exit reasons that count as time lost; idle never does", names, All)


def limit() -> dashboard.CustomVariable:
    """Bound what is drawn: a graph of 5,000 vCPUs tells nothing, and takes minutes."""
    text = "How many VMs, vCPUs and reasons tables and graphs show at most"
    return _custom("top", "Top", text, ["10", "20", "50", "100"], model.VariableOption(text="20", value="20"))


def _custom(
    name: str, label: str, text: str, values: list[str], chosen: model.VariableOption
) -> dashboard.CustomVariable:
    several = chosen is All
    options = [model.VariableOption(selected=value == chosen.value, text=value, value=value) for value in values]
    if several:
        options.insert(0, model.VariableOption(selected=True, text="All", value="$__all"))
    return (
        dashboard.CustomVariable(name).label(label).description(text).values(",".join(values))
        .options(options).current(chosen).multi(several).include_all(several)
    )  # fmt: skip


def annotation(name: str, color: str, expr: str) -> dashboard.AnnotationQuery:
    """Return marks in every graph, where the query has a value; Prometheus is asked once a minute."""
    return dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color).expr(expr)


Row = tuple[str, Iterable[Panel]]


def assemble(board: dashboard.Dashboard, rows: Iterable[Row]) -> model.Dashboard:
    """Lay the panels out, row by row, left to right, and number them in that order."""
    link = (
        dashboard.DashboardLink("KVM exits").type(model.DashboardLinkType.DASHBOARDS).tags([TAG])
        .include_vars(True).keep_time(True)
    )  # fmt: skip
    board = board.tags([TAG]).timezone("browser").editable().time("now-1h", "now").link(link)
    board = board.tooltip(model.DashboardCursorSync.CROSSHAIR)
    for title, panels in rows:
        board = board.with_row(dashboard.Row(title))
        for panel in panels:
            board = board.with_panel(panel)
    result = board.build()
    for number, panel_or_row in enumerate(result.panels or (), 1):
        panel_or_row.id_val = number
    return result
