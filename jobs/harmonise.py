"""How the looks of a run become comparable between sensors, and how far off they stay."""

from __future__ import annotations

from typing import Any

from engine.files import write_text
from engine.overlap import Pair, find_overlaps, fit_lines, needed, residual_table
from engine.params import CubeParams, HarmonisedCubeParams
from engine.plan import Plan
from engine.store import fingerprint_of
from engine.tasks import overlap_task
from jobs.context import Run


def cube_params(run: Run, plan: Plan) -> CubeParams:
    """Return how a run's looks are composited, with the lines of ``harmonise: local`` fitted to pairs of its own looks.

    What differs between sensors before and after goes to ``harmonisation.csv`` and the record, for ``roy`` too.

    Raises
    ------
    CatalogError
        If it is local and there are too few looks to fit to.
    """
    params = run.params.cube
    if params.harmonise == "none":
        return params
    known = _known(run, plan)
    if params.harmonise == "roy":
        return params
    return HarmonisedCubeParams(**params.model_dump(), lines=known["lines"])


def _known(run: Run, plan: Plan) -> dict[str, Any]:
    """Return lines and residuals, of an earlier command where it compared the same looks."""
    params, seed = run.params.cube, run.params.seed
    overlaps = find_overlaps(plan.tile_years, seed)
    fingerprint = fingerprint_of(
        "harmonisation-1",
        [overlap.fingerprint() for overlap in overlaps],
        seed,
        params.harmonise,
        params.reject_cloud_confidence,
    )
    known = run.record.data.get("harmonisation") or {}
    if known.get("fingerprint") == fingerprint:
        return known
    with run.record.stage("harmonise") as counts:
        pairs: dict[tuple[str, str], list[Pair]] = {}
        calls = [(overlap, params, run.access, seed, run.params.skip_bad) for overlap in overlaps]
        for (overlap, *_), (drawn, lost) in run.tasks(overlap_task, calls, len(calls), "harmonise"):
            pairs[overlap.sensor, overlap.part.key] = drawn
            run.note_lost(overlap.part, lost)
        in_order = [pair for key in sorted(pairs) for pair in pairs[key]]
        sensors = needed(scene.sensor.name for part in plan.tile_years for scene in part.scenes)
        local = params.harmonise == "local"
        lines = fit_lines(in_order, sensors) if local else {}
        table = residual_table(in_order, local=local)
        known = {"fingerprint": fingerprint, "lines": lines, "residuals": table.to_dict("records")}
        counts.update(pairs=len(in_order))
    run.record.note_harmonisation(known)
    if table.empty:
        run.reporter.say("harmonise no two sensors saw the same within days: what is left between them is not known")
        return known
    noted = table.assign(notice=run.params.notice) if run.params.notice else table
    write_text(run.folder / "harmonisation.csv", noted.to_csv(index=False, lineterminator="\n"))
    run.reporter.table(
        "Sensors over the same dry pixels a few days apart, reflectance: median absolute difference (mean)",
        ("sensors", "band", *table["method"].unique()),
        (
            (
                f"{sensor} - {target}",
                band,
                *(f"{a:.4f} ({m:+.4f})" for a, m in of[["median_absolute", "mean_bias"]].values),
            )
            for (sensor, target, band), of in table.groupby(["sensor", "target", "band"], sort=False)
        ),
    )
    return known
