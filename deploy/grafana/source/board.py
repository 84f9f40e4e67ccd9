"""The parts that both dashboards share: variables, annotations, links, and the layout and numbers of panels."""

from __future__ import annotations

from collections.abc import Iterable

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.source.panels import SOURCE, Panel
from exporter.model.reason import CLASSES

TAG = "kvm-exit-exporter"
FLEET, VM = "kvm-exits-fleet", "kvm-exits-vm"
"""The uids of the dashboards. Links and bookmarks contain them, so they must not change."""

_CARRIED = "${datasource:queryparam}&${job:queryparam}&${class:queryparam}&${__url_time_range}"


def vm_url(fields: str) -> str:
    """Return the URL of a VM's dashboard; `fields` is Grafana's expression for the labels of the row or series.

    A VM's owner chooses its name freely, so the URL contains the name percent-encoded.
    """
    return f"/d/{VM}?var-vm=${{{fields}.vm:percentencode}}&var-instance=${{{fields}.instance:percentencode}}&{_CARRIED}"


OF_ROW, OF_SERIES = "__data.fields", "__field.labels"

All = model.VariableOption(text="All", value="$__all")


def datasource() -> dashboard.DatasourceVariable:
    """Return the variable of the data source. Every other variable and every query uses the chosen data source."""
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def query(name: str, label: str, text: str, expr: str, *, all_value: str | None = None) -> dashboard.QueryVariable:
    """Return a variable with the values of a label. With `all_value`, users can choose several; the default is All."""
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
    """Return the variable of the job.

    The value All contains the jobs of exporters by name, so that `up` also finds targets that are down.
    """
    text = "The exporters' job in Prometheus"
    return query("job", "Job", text, "label_values(kvm_exit_exporter_up, job)", all_value="")


def classes() -> dashboard.CustomVariable:
    """Return the variable of the class.

    It does not offer idle, because the guest wants idle time, and idle time would hide all other time.
    """
    names = [name for name in CLASSES if name != "idle"]
    return _custom("class", "Class", "Classes of exit reasons that count as time lost, never idle", names, All)


def limit() -> dashboard.CustomVariable:
    """Return the variable of the limit. Without a limit, a graph of 5,000 vCPUs takes minutes and cannot be read."""
    text = "Largest number of VMs, vCPUs or reasons in a table or graph"
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
    """Return an annotation. It marks each time when the query has a value, in every graph, evaluated once a minute."""
    return dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color).expr(expr)


Row = tuple[str, Iterable[Panel]]


def assemble(board: dashboard.Dashboard, rows: Iterable[Row]) -> model.Dashboard:
    """Return the dashboard with its panels laid out row by row, left to right, and numbered in that order."""
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
