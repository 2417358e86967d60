"""``mangroves search``: find the scenes of a run and freeze their list."""

from __future__ import annotations

from collections import Counter, defaultdict

import click

from engine.catalog import search_scenes
from engine.errors import CatalogError
from engine.plan import make_plan
from engine.scenes import Scene, keep_clearest, read_scenes, write_scenes
from engine.tasks import clear_task
from jobs.context import Options, Run, open_run, run_options


def find_scenes(run: Run) -> list[Scene]:
    """Return the frozen scenes of a run, searching the catalogs the first time."""
    frozen = run.folder / "items.parquet"
    if frozen.is_file():
        scenes = read_scenes(frozen)
        run.reporter.say(f"search    {len(scenes)} scenes, frozen by an earlier command")
        return scenes
    with run.record.stage("search") as counts:
        result = search_scenes(
            run.params.search,
            run.area,
            run.periods,
            trust=run.trust,
            progress=lambda seen: run.reporter.say(f"search    {seen} items seen"),
        )
        scenes = result.scenes
        if result.missing_years:
            raise CatalogError(
                f"no scene in {', '.join(map(str, result.missing_years))}",
                fix="take these out of years, or widen search.platforms or search.tiers (T2 is off by default)",
            )
        if run.params.search.least_cloudy is not None:
            scenes = keep_least_cloudy(run, scenes, run.params.search.least_cloudy)
        write_scenes(scenes, frozen)
        run.record.note_items(frozen, [(refusal.id, refusal.reason) for refusal in result.refused])
        counts.update(scenes=len(scenes), refused=len(result.refused))
    if run.params.notice:
        run.reporter.say(f"search    {run.params.notice}")
    reasons = Counter(refusal.reason for refusal in result.refused)
    run.reporter.say(f"search    {len(scenes)} scenes")
    for reason, count in reasons.most_common(5):
        run.reporter.say(f"          refused {count}: {reason}")
    return scenes


def keep_least_cloudy(run: Run, scenes: list[Scene], count: int) -> list[Scene]:
    """Keep the observations of each year that are clearest inside each region, by their QA."""
    parts = make_plan(run.area, run.periods, scenes).tile_years
    clear: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    calls = [(part, run.area, run.access, run.params.skip_bad) for part in parts if part.scenes]
    for (part, *_), (looks, lost) in run.tasks(clear_task, calls, len(calls), "clearest"):
        run.note_lost(part, lost)
        for look, regions in looks.items():
            for region, pixels in regions.items():
                clear[part.year, region][look] += pixels
    kept: set[str] = set()
    for (year, _), pixels_of in clear.items():
        start, end = run.periods[year]
        of_year = [scene for scene in scenes if start <= scene.datetime < end]
        kept |= {scene.id for scene in keep_clearest(of_year, pixels_of, count)}
    return [scene for scene in scenes if scene.id in kept]


@click.command("search")
@run_options
def command(options: Options) -> None:
    """Find the scenes of a run and freeze their list as items.parquet, with unsigned addresses."""
    with open_run(options) as run:
        scenes = find_scenes(run)
        by_platform = Counter(scene.platform for scene in scenes)
        run.reporter.result(
            {"scenes": len(scenes), "platforms": by_platform, "items": str(run.folder / "items.parquet")},
            f"{len(scenes)} scenes: {', '.join(f'{n} {p}' for p, n in sorted(by_platform.items()))}\n"
            f"frozen in {run.folder / 'items.parquet'}",
        )
