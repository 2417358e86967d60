"""What every job on a run shares: options, configuration, trust, record, cluster and progress."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from distributed import Client

import engine
from engine.area import Area, read_area
from engine.catalog import periods_of
from engine.cluster import check_visible, open_cluster, run_bounded
from engine.copies import share
from engine.errors import ConfigError
from engine.files import bytes_sha256, content_sha256
from engine.habitat import HabitatSources, find_habitat_sources
from engine.params import RunParams
from engine.places import Place, each, modified
from engine.plan import TileYear
from engine.ranges import Access
from engine.record import LOGS, RunRecord, check_record, open_record, vouches_for
from engine.sign import Signer
from engine.store import fingerprint_of, marker_path
from engine.tasks import Habitat
from engine.trust import Trust
from jobs.config import (
    ALLOW_HOST,
    ALLOW_ROOT,
    JSON,
    cluster_options,
    config_options,
    load_config,
    run_folder,
    run_outputs,
    trust_of,
)
from jobs.driver import check_free, note_driver
from jobs.journal import keep_journal
from jobs.performance import check_performance, keep_performance
from jobs.reporter import Reporter


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of a job on a run."""

    config: Path | None
    overrides: tuple[str, ...]
    cluster: str
    cluster_file: Path | None
    as_json: bool
    skip_bad: bool
    fresh: bool
    progress: str
    performance_report: bool
    allow_plain_collective: bool
    allow_host: tuple[str, ...]
    allow_root: tuple[str, ...]

    def with_overrides(self, *overrides: str) -> Options:
        """Return a copy with more ``--set`` values."""
        return replace(self, overrides=(*self.overrides, *overrides))

    @property
    def trust(self) -> Trust:
        """What this command may read: only the command line widens it, never a configuration."""
        return trust_of(self.config, hosts=self.allow_host, roots=self.allow_root)

    def words(self) -> list[str]:
        """Return what was given but the configuration, as typed; ``--fresh`` and ``--json`` are of one command."""
        flags = {
            "--skip-bad": self.skip_bad,
            "--performance-report": self.performance_report,
            "--allow-plain-collective": self.allow_plain_collective,
        }
        values: list[tuple[str, object]] = [("--set", text) for text in self.overrides]
        values += [("--cluster", self.cluster), ("--progress", self.progress)]
        values += [("--cluster-file", self.cluster_file)] if self.cluster_file else []
        values += [("--allow-host", host) for host in self.allow_host]
        values += [("--allow-root", root) for root in self.allow_root]
        # Joined: a value that begins with a dash is no option.
        return [*(f"{name}={value}" for name, value in values), *(name for name, given in flags.items() if given)]


def work_options(job: Callable[..., None]) -> Callable[..., None]:
    """Add the options of whatever works on a run, however that is named."""
    options = (
        cluster_options,
        JSON,
        click.option("--skip-bad", is_flag=True, help="Go on without scenes that cannot be read, and list them."),
        click.option(
            "--progress",
            type=click.Choice(["display", "json"]),
            default="display",
            show_default=True,
            help="How to tell on standard error what goes on: for a person, or one JSON object a line.",
        ),
        click.option(
            "--performance-report",
            is_flag=True,
            help="Save Dask's report of where time went as logs/performance-TIME.html; needs bokeh.",
        ),
        click.option(
            "--allow-plain-collective",
            is_flag=True,
            help="Allow to spread training over workers: XGBoost then listens on their every interface, without TLS.",
        ),
        ALLOW_HOST,
        ALLOW_ROOT,
    )
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), job)


def run_options(job: Callable[..., None]) -> Callable[..., None]:
    """Add the options every job on a run has, and hand them over as one ``Options``."""

    @click.argument("config_file", required=False, type=click.Path(path_type=Path), metavar="[CONFIG]")
    @config_options("Run configuration (YAML); the same as CONFIG.")
    @click.option("--fresh", is_flag=True, help="Set aside what an earlier run of this name left.")
    @work_options
    @functools.wraps(job)
    def wrapped(config_file: Path | None, config: Path | None, **rest: Any) -> None:
        if config_file and config and config_file != config:
            raise click.UsageError("give CONFIG once, as an argument or with --config")
        names = Options.__dataclass_fields__
        options = Options(config=config or config_file, **{k: rest.pop(k) for k in list(rest) if k in names})
        job(options, **rest)

    return wrapped


@dataclass(frozen=True, kw_only=True)
class Run:
    """An open run."""

    configured: RunParams
    area: Area
    folder: Path
    """Of record, list of scenes and tables, on this machine."""

    outputs: Place
    """Of what workers write and read: the folder too, unless the run has a ``store``."""

    access: Access
    record: RunRecord
    reporter: Reporter
    client: Client

    plain_collective: bool = False
    """The command line allows XGBoost's plain sockets."""

    @property
    def params(self) -> RunParams:
        """As configured, with the notice that its scenes brought: nobody has to type that they are simulated."""
        said = self.record.notice
        return (
            self.configured if said == self.configured.notice else self.configured.model_copy(update={"notice": said})
        )

    @property
    def trust(self) -> Trust:
        return self.access.trust

    @cached_property
    def periods(self) -> dict[int, tuple[dt.datetime, dt.datetime]]:
        return periods_of(self.params.years, self.params.season, self.params.dates)

    def open_habitat(self) -> None:
        """Find the rasters of the habitat limit now: a wrong path is told at once and not hours later."""
        _ = self.habitat

    @cached_property
    def habitat(self) -> Habitat | None:
        """The habitat limit and its rasters, found once."""
        params = self.params.habitat
        return None if params is None else (params, find_habitat_sources(params, self.area, trust=self.trust))

    @cached_property
    def habitat_of_tasks(self) -> Habitat | None:
        """The same, its files where workers read them."""
        if self.habitat is None:
            return None
        params, sources = self.habitat
        shared = {
            kind: tuple(raster._replace(href=self.share(raster.href)) for raster in getattr(sources, kind))
            for kind in ("dem", "water")
        }
        return params, HabitatSources(**shared)

    def share(self, href: str) -> str:
        """Return an href as workers reach it: a file of this machine perhaps by its copy in the run's store."""
        return href if "://" in href else share(href, self.outputs)

    @cached_property
    def habitat_fingerprint(self) -> list[Any] | None:
        """What of the habitat limit decides a map; of files their content, as another may take a name."""
        if self.habitat is None:
            return None
        params, sources = self.habitat
        hrefs = [raster.href for raster in (*sources.dem, *sources.water)]
        return [params.model_dump(), [href if "://" in href else content_sha256(href) for href in hrefs]]

    @property
    def tags(self) -> dict[str, str]:
        """What every output says of itself; by the hashes, which configuration and items of ``run.json`` made it."""
        tags = {
            "run": self.params.name,
            "software": f"mangroves {engine.__version__}",
            "config_sha256": self.record.config_sha256,
            "items_sha256": self.record.items_sha256,
        }
        return {**tags, "notice": self.params.notice} if self.params.notice else tags

    @contextmanager
    def inner(self, params: RunParams) -> Iterator[Run]:
        """Open another run on the same cluster, inside this one's folder."""
        with begin_run(place_run(params, self.trust), self.client, self.reporter, fresh=False) as run:
            yield replace(run, plain_collective=self.plain_collective)

    def note_lost(self, part: TileYear, losses: Iterable[dict[str, Any]]) -> None:
        """Record the scenes a tile-year went without."""
        for loss in losses:
            cause = f"{loss['asset']}: {loss['cause']}"
            self.record.note_scene_lost(loss["scene"], cause, tile=part.tile.id, year=part.year)

    def describe(self, output: Place, stores: Iterable[Place]) -> None:
        """Write beside an output what made it, unless that was done since the stores it joins were written."""
        beside = output.with_name(output.name + ".json")
        latest = max(self.each(lambda store: modified(marker_path(store)), stores), default=0.0)
        if not beside.is_file() or modified(beside) < latest or not vouches_for(beside, output):
            self.record.write_beside(output, sha256=bytes_sha256(output))

    def each[T, R](self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Apply a function that asks for outputs to many items, in their order."""
        return each(function, items, within=self.outputs)

    def say_skipped(self, stage: str, total: int, todo: int) -> None:
        """Say how much of a stage an earlier command finished."""
        self.reporter.progress.note_earlier(stage, total - todo, total)
        if todo < total:
            self.reporter.say(f"{stage:<9} {total - todo} of {total} tile-years finished earlier, skipped")

    def tasks(
        self,
        function: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        total: int,
        label: str,
        shared: Iterable[Any] = (),
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Run tasks on the cluster, a bounded number at a time, with progress; yield (arguments, result).

        The area, and what else is ``shared`` among their arguments, goes to each worker once.
        """
        if total == 0:
            return
        answers = run_bounded(self.client, function, calls, shared=(self.area, *shared))
        for call, result in self.reporter.track(answers, total, label):
            self.reporter.progress.note_result(result)
            yield call, result


@contextmanager
def open_run(options: Options, *, params: RunParams | None = None, beside: bool = False) -> Iterator[Run]:
    """Open a run: validate, open its record, start its cluster, check that workers see its folder.

    Parameters
    ----------
    options : Options
    params : RunParams, optional
        Instead of ``options.config``.
    beside : bool
        As ``open_record`` has it.
    """
    place = asked_run(options, params, beside=beside)
    check_free(place.folder)
    reporter = Reporter(as_json=options.as_json, json_lines=options.progress == "json")
    with (
        open_cluster(options.cluster, options.cluster_file, say=reporter.say) as client,
        begin_run(place, client, reporter, fresh=options.fresh, beside=beside) as run,
    ):
        context = click.get_current_context(silent=True)
        command = context.command_path.split() if context else []
        note_driver(run.folder, options.cluster, [*command, *([str(options.config)] if options.config else [])])
        with keep_journal(run.record, reporter, client), ExitStack() as stack:
            if options.performance_report:
                stack.enter_context(keep_performance(client, run.folder / LOGS))
            yield replace(run, plain_collective=options.allow_plain_collective)


def asked_run(options: Options, params: RunParams | None = None, *, beside: bool = False) -> PlacedRun:
    """Return the run that a command line asks for; a mistake is told before a cluster is started for it."""
    if params is None:
        if options.config is None:
            raise ConfigError("no configuration given", fix="name a YAML file, e.g. jobs/configs/first-look.yaml")
        params = load_config(options.config, options.overrides)
    if options.skip_bad:
        params = params.model_copy(update={"skip_bad": True})
    if options.performance_report:
        check_performance()
    place = place_run(params, options.trust)
    if not options.fresh:
        check_record(place.folder, place.config, outputs=place.outputs, beside=beside)
    return place


@dataclass(frozen=True, kw_only=True)
class PlacedRun:
    """A run that is not opened yet: where it is, and what it is asked to do."""

    params: RunParams
    trust: Trust
    folder: Path
    outputs: Place
    area: Area
    config: dict[str, Any]
    """As recorded."""


def place_run(params: RunParams, trust: Trust) -> PlacedRun:
    """Read the area of a run and find its folder and store; nothing is written."""
    folder = run_folder(params, trust)
    outputs = run_outputs(folder, params.store, params.name, trust)
    area = read_area(params.area, trust)
    config = params.model_dump(mode="json", by_alias=True)
    # The list of scenes is frozen for this area: another one in a file of the same name is another run.
    config["area"]["sha256"] = fingerprint_of([(region.name, region.geometry.wkb_hex) for region in area.regions])
    return PlacedRun(params=params, trust=trust, folder=folder, outputs=outputs, area=area, config=config)


@contextmanager
def begin_run(
    place: PlacedRun, client: Client, reporter: Reporter, *, fresh: bool, beside: bool = False
) -> Iterator[Run]:
    """Open the folder and record of a run."""
    check_visible(client, place.outputs)
    with open_record(place.folder, place.config, outputs=place.outputs, fresh=fresh, beside=beside) as record:
        access = Access(place.trust.with_roots(place.folder), Signer(place.trust), place.params.cube.requests)
        yield Run(
            configured=place.params,
            area=place.area,
            folder=place.folder,
            outputs=place.outputs,
            access=access,
            record=record,
            reporter=reporter,
            client=client,
        )
