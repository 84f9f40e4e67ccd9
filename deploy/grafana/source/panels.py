"""The kinds of panel in both dashboards, made with Grafana's own builders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from grafana_foundation_sdk.builders import barchart, common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models import prometheus as query

Panel = Union[barchart.Panel, heatmap.Panel, stat.Panel, table.Panel, timeseries.Panel]

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

VCPUS = "count:vCPUs"
"""The unit is vCPUs, which are seconds per second. 2.5 means as much time as two and a half vCPUs have."""
EXITS = "count:exits/s"
SHARE = "percentunit"
SECONDS = "s"
COUNT = "short"

Steps = tuple[tuple[float, str], ...]
"""Thresholds: each (value, colour) applies from that value on. Values below the first threshold are green."""

OVERHEAD: Steps = ((0.1, "yellow"), (0.25, "red"))
"""Thresholds of the time lost, divided by the time that a VM wanted to run. A VM that does I/O loses a few percent."""
WAITING: Steps = ((0.05, "yellow"), (0.1, "red"))
"""Thresholds of the share of its time that a vCPU waits for a CPU. KvmHostOvercommitted fires at the first one."""
STUCK: Steps = ((1.0, "yellow"), (10.0, "red"))
"""Thresholds of an exit's age in seconds.

Few exits take a second. A guest's watchdog reports a stall after 10 to 20 s.
"""
ANY: Steps = ((1e-9, "red"),)
FULL: Steps = ((0.8, "yellow"), (0.95, "red"))

CLASS_COLORS = {
    "in guest": "#56A64B", "idle": "#8E8E8E", "interrupt": "#8AB8FF", "mmio": "#FF780A", "pio": "#FFB357",
    "sysreg": "#F2CC0C", "hypercall": "#A352CC", "fault": "#E02F44", "exception": "#AD0317", "pause": "#37872D",
    "debug": "#C0D8FF", "other": "#705DA0",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of numbers in a table. Its query returns one value for each combination of the table's labels."""

    title: str
    expr: str
    unit: str
    steps: Steps = ()
    decimals: int | None = None
    states: Mapping[str, tuple[str, str]] | None = None
    """Text and colour for each value, if the number stands for a word."""


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    levels = [model.Threshold(value=None, color="green"), *(model.Threshold(value, color) for value, color in steps)]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(levels)


def _set(**properties: object) -> list[model.DynamicConfigValue]:
    return [model.DynamicConfigValue(name.replace("__", "."), value) for name, value in properties.items()]


def _link(title: str, url: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).url(url)


def _target(expr: str, ref: str = "A") -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(ref).datasource(SOURCE).expr(expr).editor_mode(query.QueryEditorMode.CODE)


def number(
    title: str, text: str, expr: str, unit: str, *, steps: Steps = (), nothing: str = "", span: int = 4
) -> stat.Panel:
    """Return a panel with one number.

    It is the present value, or a value over the time range if the query uses WHOLE.
    """
    panel = (
        stat.Panel().title(title).description(text).datasource(SOURCE).unit(unit).span(span).height(4)
        .with_target(_target(expr).instant())
        .thresholds(_thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .color_mode(kinds.BigValueColorMode.BACKGROUND if steps else kinds.BigValueColorMode.NONE)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )  # fmt: skip
    return panel.no_value(nothing) if nothing else panel


def graph(
    title: str,
    text: str,
    queries: Sequence[tuple[str, str]],
    unit: str,
    *,
    stacked: bool = False,
    by_class: bool = False,
    steps: Steps = (),
    link: tuple[str, str] | None = None,
    span: int = 12,
    height: int = 9,
) -> timeseries.Panel:
    """Return a graph: one line for each series of each (query, legend). The legend is a table with mean and maximum."""
    panel = (
        timeseries.Panel().title(title).description(text).datasource(SOURCE).unit(unit).span(span).height(height)
        .min(0).line_width(1).fill_opacity(60 if stacked else 5).show_points(kinds.VisibilityMode.NEVER)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.TABLE).placement(kinds.LegendPlacement.RIGHT)
            .show_legend(True).calcs(["mean", "max"]).sort_by("Mean").sort_desc(True)
        )
    )  # fmt: skip
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if steps:
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        )
    if link:
        panel = panel.data_links([_link(*link)])
    for number_, (expr, legend) in enumerate(queries):
        panel = panel.with_target(_target(expr, chr(ord("A") + number_)).range().legend_format(legend))
    return _in_class_colors(panel) if by_class else panel


def _in_class_colors(panel: Any) -> Any:
    for name, color in CLASS_COLORS.items():
        panel = panel.override_by_name(name, _set(color={"mode": "fixed", "fixedColor": color}))
    return panel


def rows(
    title: str,
    text: str,
    labels: Sequence[str],
    columns: Sequence[Column],
    *,
    sort: str,
    link: tuple[str, str, str] | None = None,
    nothing: str = "",
    span: int = 24,
    height: int = 9,
) -> table.Panel:
    """Return a table with one row for each combination of labels; `link` is (column, title, url)."""
    names = [f"Value #{chr(ord('A') + place)}" for place in range(len(columns))] if len(columns) > 1 else ["Value"]
    order = [*labels, *names]
    panel = (
        table.Panel().title(title).description(text).datasource(SOURCE).unit(COUNT).span(span).height(height)
        .filterable(True)
        .with_transformation(model.DataTransformerConfig("merge", options={}))
        .with_transformation(
            model.DataTransformerConfig(
                "organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {name: place for place, name in enumerate(order)},
                    "renameByName": {name: column.title for name, column in zip(names, columns)},
                },
            )
        )
        .sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
    )  # fmt: skip
    for place, column in enumerate(columns):
        target = _target(column.expr, chr(ord("A") + place)).instant().format(query.PromQueryFormat.TABLE)
        panel = panel.with_target(target).override_by_name(column.title, _column(column))
    if link:
        column_name, link_title, url = link
        panel = panel.override_by_name(column_name, _set(links=[_link(link_title, url).build()]))
    return panel.no_value(nothing) if nothing else panel


def _column(column: Column) -> list[model.DynamicConfigValue]:
    result = _set(unit=column.unit)
    if column.decimals is not None:
        result += _set(decimals=column.decimals)
    if column.steps:
        result += _set(thresholds=_thresholds(column.steps).build())
    if column.states:
        words = {value: model.ValueMappingResult(text, color) for value, (text, color) in column.states.items()}
        result += _set(mappings=[model.ValueMap(words)])
    if column.steps or column.states:
        result += _set(custom__cellOptions={"type": "color-text"})
    return result


def bars(title: str, text: str, expr: str, row: str, unit: str, *, span: int = 24) -> barchart.Panel:
    """Return one bar for each value of the label `row`, with the classes stacked in it."""
    return _in_class_colors(  # type: ignore[no-any-return]
        barchart.Panel().title(title).description(text).datasource(SOURCE).unit(unit).min(0).span(span).height(9)
        .with_target(_target(expr).instant().format(query.PromQueryFormat.TABLE))
        .with_transformation(
            model.DataTransformerConfig(
                "convertFieldType",
                options={"fields": {}, "conversions": [{"targetField": row, "destinationType": "number"}]},
            )
        )
        .with_transformation(model.DataTransformerConfig("sortBy", options={"fields": {}, "sort": [{"field": row}]}))
        .with_transformation(
            model.DataTransformerConfig(
                "groupingToMatrix", options={"rowField": row, "columnField": "class", "valueField": "Value"}
            )
        )
        .x_field(f"{row}\\class").stacking(kinds.StackingMode.NORMAL).show_value(kinds.VisibilityMode.NEVER)
        .orientation(kinds.VizOrientation.VERTICAL).fill_opacity(80)
        .legend(
            common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM).show_legend(True).calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI))
    )  # fmt: skip


def durations(title: str, text: str, expr: str, *, span: int = 24) -> heatmap.Panel:
    """Return a heatmap of durations. Each cell shows exits per second."""
    return (
        heatmap.Panel().title(title).description(text).datasource(SOURCE).unit(EXITS).span(span).height(10)
        .with_target(_target(expr).range().format(query.PromQueryFormat.HEATMAP).legend_format("{{le}}"))
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(SECONDS).axis_placement(kinds.AxisPlacement.LEFT))
        .cell_values(heatmap.CellValues().unit(EXITS))
        .cell_gap(1)
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .color(
            heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Turbo").steps(64)
            .scale(heat.HeatmapColorScale.EXPONENTIAL).exponent(0.5)
        )
        .scale_distribution(common.ScaleDistributionConfig().type(kinds.ScaleDistribution.LINEAR))
        .max_data_points(120)
    )  # fmt: skip
