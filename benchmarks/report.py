"""One HTML file of measured runs: tables, charts, and what the mangrove belt would take."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.belt import Belt, extrapolate
from benchmarks.harness import Run
from benchmarks.targets import TARGETS, is_met
from engine.errors import ConfigError
from engine.files import write_text
from engine.html import Section, document, paragraph, svg, table, text

STAGES: Final = (
    *("search", "sign", "fetch", "decode", "gdal", "mask", "composite", "sample", "train", "features", "classify"),
    *("compare", "write"),
)
"""In the order of the work."""

_MET, _MISSED = "#1b6e53", "#b26a00"
_COLOURS: Final = {"strong": _MET, "weak": _MISSED, "": "#444455"}


@dataclass(frozen=True)
class Measured:
    """What files of measurements hold."""

    runs: list[Run] = field(default_factory=list)
    """Of ``mangroves bench``, one a line."""

    comparisons: list[dict[str, Any]] = field(default_factory=list)
    """Of ``python -m benchmarks compare``."""

    records: dict[Path, dict[str, Any]] = field(default_factory=dict)
    """``run.json`` of whole runs."""


def read_files(paths: Iterable[Path]) -> Measured:
    """Read files of measurements, each of one of the three kinds.

    Raises
    ------
    ConfigError
        If a file is of none.
    """
    measured = Measured()
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
            found = json.loads(text) if text.startswith("{\n") else {}
            if "config_sha256" in found:
                measured.records[path] = {key: found[key] for key in ("stages", "config")}
            elif found:
                measured.comparisons.append({key: found[key] for key in ("runs", "simulated", "machine")} | found)
            elif not text.strip():
                raise ValueError("empty")
            else:
                measured.runs.extend(Run(**json.loads(line)) for line in text.splitlines() if line)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path} holds no runs ({type(error).__name__})",
                fix="give what `mangroves bench` or `python -m benchmarks compare --json` wrote, or a run.json",
            ) from error
    return measured


@dataclass(frozen=True)
class Group:
    """Runs that differ by chance alone, and what they come to."""

    runs: tuple[Run, ...]
    efficiency: float
    """Work a thread and second, over that of the fewest workers of the same workload and scaling."""

    def median(self, figure: Callable[[Run], float]) -> float:
        return statistics.median(figure(run) for run in self.runs)

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def rate(self) -> float:
        return self.median(rate_of)


def rate_of(run: Run) -> float:
    """Return pixels a second, or tasks where there are no pixels."""
    return (run.pixels or run.tasks) / run.seconds


def group_runs(runs: Iterable[Run]) -> dict[str, list[Group]]:
    """Return the runs by workload, in groups by scaling and number of workers."""
    together: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        together.setdefault((run.workload, run.scaling, run.workers), []).append(run)
    groups: dict[str, list[Group]] = {workload: [] for workload, _, _ in together}
    base: dict[tuple[str, str], float] = {}
    for (workload, scaling, _), some in sorted(together.items()):
        each = statistics.median(rate_of(run) / run.threads for run in some)
        first = base.setdefault((workload, scaling), each)
        groups[workload].append(Group(tuple(some), each / first))
    return groups


def write_report(measured: Measured, path: Path, belt: Belt) -> None:
    """Write the page: comparisons, scaling of each workload, the mangrove belt, whole runs, machines."""
    sections = bench_sections(measured)
    sections += _belt(measured.runs, belt)
    sections += [_record(place, record) for place, record in measured.records.items()]
    machines = [*(run.machine for run in measured.runs), *(found["machine"] for found in measured.comparisons)]
    sections.append(_machines(machines))
    for at, section in enumerate(sections):
        section.anchor = f"part-{at + 1}"
    write_text(path, document("Benchmarks", sections))


def bench_sections(measured: Measured) -> list[Section]:
    """Return what was measured: each comparison with peers and the floor, and the scaling of each workload."""
    sections = [_comparison(found) for found in measured.comparisons]
    return sections + [_workload(workload, groups) for workload, groups in group_runs(measured.runs).items()]


def _comparison(found: dict[str, Any]) -> Section:
    figures = {figure: found[figure] for figure in TARGETS if figure in found}
    rows, rounds = [], {k: v for run in found["runs"].values() for k, v in run["rounds"].items()}
    for figure, value in figures.items():
        sign, target = TARGETS[figure]
        spread = f"{min(rounds[figure]):.2f}-{max(rounds[figure]):.2f}"
        rows.append(
            (figure, f"{value:.2f}", spread, f"{sign} {target:g}", "met" if is_met(figure, value) else "missed")
        )
    parts = [
        table(("figure", "median", "range", "target", ""), rows),
        _chart(
            lambda axes: _draw_figures(axes, figures),
            alt="How many times as good as its target each figure is",
            height=0.3 * len(figures) + 0.9,
        ),
    ]
    for name, run in found["runs"].items():
        sides = run.get("seconds", {})
        parts += [
            f"<h3>{text(name)}</h3>",
            paragraph(str(run["what"])),
            table(
                ("side", "seconds", "CPU seconds"), ((k, _range(v["wall"]), _range(v["cpu"])) for k, v in sides.items())
            ),
        ]
        others = [(k, f"{statistics.median(v):.2f}", _range(v)) for k, v in run["rounds"].items() if k not in TARGETS]
        parts.append(table(("further figure", "median", "range"), others))
    return Section(f"Against peers and the floor ({found['simulated']})", "", parts)


def _draw_figures(axes: Axes, figures: dict[str, float]) -> None:
    """Draw how far each figure is from its target, better to the right."""
    names = list(figures)[::-1]
    better = [figures[n] / TARGETS[n][1] if TARGETS[n][0] != "<=" else TARGETS[n][1] / figures[n] for n in names]
    bars = axes.barh(names, better, color=[_MET if is_met(name, figures[name]) else _MISSED for name in names])
    axes.bar_label(bars, labels=[f" {figures[name]:.2f}" for name in names])
    axes.axvline(1, color="#222222", linewidth=1)
    axes.set_xlabel("times as good as its target (simulated)")


def _workload(name: str, groups: list[Group]) -> Section:
    simulated = " (simulated)" if groups[0].first.simulated else ""
    unit, divisor = ("Mpx/s", 1e6) if groups[0].first.pixels else ("tasks/s", 1)
    rows = [
        (
            f"{group.first.scaling or 'once'}, {group.first.workers} worker(s) of {group.first.threads} thread(s)",
            group.first.tasks,
            _range([run.seconds for run in group.runs]),
            f"{group.median(lambda run: run.submit_seconds):.3f}",
            f"{group.rate / divisor:.2f}",
            f"{group.median(lambda run: (run.bytes or 0) / run.seconds) / 1e6:.0f}",
            f"{group.efficiency:.0%}",
            f"{max(run.worker_peak_bytes for run in group.runs) / 1e9:.2f}",
            f"{max(run.client_peak_bytes for run in group.runs) / 1e9:.2f}",
            f"{max(run.spilled_bytes for run in group.runs) / 1e9:.2f}",
        )
        for group in groups
    ]
    heads = (
        "tasks",
        "seconds",
        "of them handing over",
        unit,
        "MB/s read",
        "efficiency",
        "worker GB",
        "client GB",
        "spilt GB",
    )
    parts = [table(("scaling", *heads), rows)]
    alt = f"Rate of {name} by how many tasks work at once{simulated}"
    parts.append(_chart(lambda axes: _draw_scaling(axes, groups, f"{unit}{simulated}", divisor), alt=alt))
    if any(group.first.stages for group in groups):
        alt = f"Seconds a task of {name} by stage{simulated}"
        height = 0.3 * len(groups) + 1
        parts.append(_chart(lambda axes: _draw_stages(axes, groups, simulated), alt=alt, height=height))
    return Section(f"{name}{simulated}", "", parts)


def _draw_scaling(axes: Axes, groups: list[Group], unit: str, divisor: float) -> None:
    for scaling in dict.fromkeys(group.first.scaling for group in groups):
        some = [group for group in groups if group.first.scaling == scaling]
        threads, rates = [group.first.threads for group in some], [group.rate / divisor for group in some]
        axes.plot(threads, rates, "o-", color=_COLOURS[scaling], label=f"{scaling} scaling".strip())
        ideal = [rates[0] * count / threads[0] for count in threads]
        axes.plot(threads, ideal, ":", color=_COLOURS[scaling], linewidth=1)
    axes.set_xticks(sorted({group.first.threads for group in groups}))
    axes.set_xlabel("tasks at once (dotted: as many times as fast)")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _draw_stages(axes: Axes, groups: list[Group], simulated: str) -> None:
    names = [f"{group.first.scaling}, {group.first.workers} worker(s)" for group in groups]
    left = [0.0] * len(groups)
    for stage in _in_order({stage for group in groups for stage in group.first.stages}):
        each = [statistics.median(run.stages.get(stage, 0) / run.tasks for run in group.runs) for group in groups]
        axes.barh(names, each, left=left, label=stage)
        left = [a + b for a, b in zip(left, each, strict=True)]
    axes.set_xlabel(f"seconds a task, summed over its threads{simulated}")
    axes.legend(frameon=False, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1))


def _in_order(stages: Iterable[str]) -> list[str]:
    return sorted(stages, key=lambda stage: (STAGES.index(stage) if stage in STAGES else len(STAGES), stage))


def _record(path: Path, record: dict[str, Any]) -> Section:
    """Show the stages of a whole run, and of its tile-years those that their completion markers tell."""
    spent: dict[str, float] = {}
    for marker in (*path.parent.glob("cube/*/*.json"), *path.parent.glob("maps/*/*.json")):
        for stage, told in json.loads(marker.read_text(encoding="utf-8")).get("stages", {}).items():
            spent[stage] = spent.get(stage, 0.0) + told["seconds"]
    notice = record["config"].get("notice")
    steps = ((name, f"{stage['seconds']:.1f}", stage["runs"]) for name, stage in record["stages"].items())
    parts = [
        table(("step", "seconds", "commands"), steps),
        table(
            ("stage of a tile-year", "seconds, summed over tile-years and threads"),
            ((stage, f"{spent[stage]:.1f}") for stage in _in_order(spent)),
        ),
    ]
    return Section(f"Run {record['config'].get('name')}{f' ({notice})' if notice else ''}", "", parts)


def _belt(runs: Sequence[Run], belt: Belt) -> list[Section]:
    estimates = extrapolate(runs, belt)
    if not estimates:
        return []
    rows = [
        (
            f"{one.years} year(s): {one.step}",
            f"{one.tasks:,}",
            f"{one.core_hours:,.0f}",
            f"{one.terabytes_read:,.1f}" if one.terabytes_read else "",
            f"{one.dollars:,.0f}",
        )
        for one in estimates
    ]
    for years in dict.fromkeys(one.years for one in estimates):
        some = [one for one in estimates if one.years == years]
        hours, read, dollars = (
            sum(getattr(one, name) for one in some) for name in ("core_hours", "terabytes_read", "dollars")
        )
        rows.append((f"{years} year(s): all", "", f"{hours:,.0f}", f"{read:,.1f}", f"{dollars:,.0f}"))
    parts = [
        table(("", "tile tasks", "core-hours", "TB read", "dollars"), rows),
        "<ul>" + "".join(f"<li>{text(line)}</li>" for line in belt.assumptions()) + "</ul>",
    ]
    return [Section("The world's mangrove belt (extrapolated from simulated scenes)", "", parts)]


def _machines(machines: list[dict[str, Any]]) -> Section:
    passing = ("date", "load_before")
    distinct = {
        json.dumps({k: v for k, v in one.items() if k not in passing}, sort_keys=True): one for one in machines if one
    }
    parts = []
    for one in distinct.values():
        told = {
            key: ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            for key, value in {**one, "flags": " ".join(one["flags"])}.items()
        }
        parts.append(table((), told.items()))
    return Section("Machines and software", "", parts)


def _range(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _chart(draw: Callable[[Axes], None], *, alt: str, height: float = 3.2) -> str:
    """Return a chart as inline SVG."""
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    drawn = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmarks"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return svg(drawn.getvalue(), alt=alt)
