"""``mangroves explore``: what a sample holds, before a model sees it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from engine import explore
from engine import explore_charts as charts
from engine.errors import SampleError, StoreError
from engine.files import cannot_read, replacing, write_text
from engine.kernels.features import RANGE_FEATURES
from engine.kernels.indices import INDICES
from engine.landsat import BANDS
from engine.places import Place
from engine.sample import read_sample
from jobs.config import ALLOW_ROOT, JSON, config_options, given_config, named_run, trust_of
from jobs.reporter import Reporter

ROWS: Final = 10_000
"""Of a region and class, looked at by default."""

TABLES: Final = 8

WALL_TO_WALL: Final = "wall to wall"
AS_DRAWN: Final = "as drawn"


@dataclass(frozen=True, kw_only=True)
class Output:
    """A table and the charts drawn from it."""

    name: str
    table: pd.DataFrame
    title: str
    population: str
    about: str
    charts: dict[str, Callable[..., None]]
    """Name of the PNG -> what draws it, given a path, title and notice."""


@click.command("explore")
@click.argument("run", required=False, type=click.Path(path_type=Path), metavar="[RUN]")
@config_options("Run configuration (YAML) that names the run, in place of RUN.")
@click.option(
    "--rows",
    type=click.IntRange(min=explore.LEAST_ROWS),
    default=ROWS,
    show_default=True,
    help="Rows of a region and class to look at, at most; a seeded choice.",
)
@ALLOW_ROOT
@JSON
def command(
    run: Path | None,
    config: Path | None,
    overrides: tuple[str, ...],
    rows: int,
    allow_root: tuple[str, ...],
    as_json: bool,
) -> None:
    """Describe a sample by region and class: densities, spectra, separability, regions unlike others, mask errors.

    RUN is the folder of a run whose sample is drawn. Figures and the tables behind them go to RUN/explore.
    """
    params, trust = given_config(config, overrides), trust_of(config, roots=allow_root)
    run, record, place = named_run(run, params, trust)
    reporter = Reporter(as_json=as_json)
    seed = record["config"].get("seed")  # untrusted as any
    seed = seed if isinstance(seed, int) and 0 <= seed < 2**63 else 0
    frame, counts = gather(place / "sample", rows=rows, seed=seed)
    reporter.say(f"explore   {len(frame):,} of {int(counts['rows'].sum()):,} rows, {frame['region'].nunique()} regions")
    folder = run / "explore"
    facts = facts_of(record, frame, counts, seed)
    outputs = []
    for output in reporter.track(describe(frame, counts, seed=seed), TABLES, "explore"):
        write_output(folder, output, facts)
        outputs.append(output)
    summary = {**facts, "regions": regions_of(outputs, counts), "files": files_of(outputs)}
    write_text(folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "README.md", page_of(summary))
    show(reporter, summary)
    reporter.result({**summary, "folder": str(folder)}, f"figures and tables in {folder}: begin with README.md")


def gather(sample: Place, *, rows: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a sample part by part; return the rows to look at, and the counts of all."""
    try:
        try:
            whole = read_sample(sample)
        except SampleError as error:
            raise SampleError(f"{sample} holds no sample", fix="run mangroves sample first") from error
        columns = explore.columns_of(whole.columns)
        parts = (whole[columns].partitions[number].compute(scheduler="sync") for number in range(whole.npartitions))
        return explore.gather_rows(parts, rows=rows, seed=seed)
    except pa.ArrowException as error:
        raise StoreError(f"{sample} holds a part that is damaged", fix="delete it and run mangroves sample") from error
    except OSError as error:
        raise cannot_read(sample, error) from error


def describe(frame: pd.DataFrame, counts: pd.DataFrame, *, seed: int) -> Iterator[Output]:
    """Compute the tables one by one, and say what each is and how it is drawn."""
    whole = explore.ALL if frame["region"].nunique() > 1 else str(frame["region"].iloc[0])
    yield Output(
        name="counts",
        table=counts,
        title="Class counts",
        population=f"{AS_DRAWN} (rows) and {WALL_TO_WALL} (pixels)",
        about="Rows of each class, and the pixel-years they stand for, by region and year; of the whole sample.",
        charts={"counts": partial(charts.draw_counts, counts=counts)},
    )
    spectra = explore.summarise_spectra(frame)
    yield Output(
        name="spectra",
        table=spectra,
        title="Spectra: median and quartiles",
        population=WALL_TO_WALL,
        about="25, 50 and 75 % quantiles of every band's reflectance.",
        charts={"spectra": partial(charts.draw_spectra, spectra=spectra)},
    )
    densities = explore.estimate_densities(frame)
    present = list(dict.fromkeys(densities["feature"]))
    sets = {"bands": BANDS, "indices": INDICES, "ranges": RANGE_FEATURES}
    shown = {name: [feature for feature in features if feature in present] for name, features in sets.items()}
    ridges: dict[str, Callable[..., None]] = {
        f"densities_{name}": partial(charts.draw_ridges, densities=densities, features=features, whole=whole)
        for name, features in shown.items()
        if features
    }
    yield Output(
        name="densities",
        table=densities,
        title="Kernel densities of bands and indices",
        population=WALL_TO_WALL,
        about="Density of every band (reflectance) and index by a Gaussian kernel of Silverman's bandwidth; "
        f"of {explore.ALL} the regions' mean, each counting by its pixels.",
        charts={"densities": partial(charts.draw_densities, densities=densities, whole=whole), **ridges},
    )
    separability = explore.measure_separability(frame, densities)
    yield Output(
        name="separability",
        table=separability,
        title="Separability of mangrove and other: Jeffries-Matusita distance",
        population=WALL_TO_WALL,
        about="Jeffries-Matusita distance, 0 (the same) to 2 (no overlap): jm of normal classes, jm_density of the "
        "kernel densities. The figure shows jm_density of single features, and jm of all bands.",
        charts={"separability": partial(charts.draw_separability, separability=separability)},
    )
    correlations = explore.correlate_features(frame)
    yield Output(
        name="correlations",
        table=correlations,
        title=f"Correlations, {whole}",
        population=WALL_TO_WALL,
        about="Pearson correlation of every pair of features, by region and class.",
        charts={"correlations": partial(charts.draw_correlations, correlations=correlations, whole=whole)},
    )
    distances = explore.compare_regions(frame)
    yield Output(
        name="region_distances",
        table=distances,
        title="How far regions lie apart",
        population=WALL_TO_WALL,
        about="Wasserstein distance of two regions' distributions of a class, in standard deviations within regions; "
        "mean over bands and indices. feature is the one that differs most.",
        charts={"region_distances": partial(charts.draw_region_distances, distances=distances)},
    )
    outliers, listed = explore.find_outliers(frame, seed=seed)
    yield Output(
        name="outliers",
        table=outliers,
        title="Rows that look like mask errors",
        population=AS_DRAWN,
        about="Rows whose bands lie, by robust Mahalanobis distance in their region, beyond the "
        f"{100 * explore.OUTLIER_SHARE:g} % quantile of chi-square from all of their own class, and within it of the "
        "other. Candidates to look at, not proven errors. GeoParquet: opens in a GIS.",
        charts={},
    )
    yield Output(
        name="outlier_counts",
        table=listed,
        title="How many rows look like mask errors",
        population=f"{AS_DRAWN} (share), {WALL_TO_WALL} (share_px)",
        about="How many rows of each region and class are listed in outliers, of how many examined.",
        charts={"outliers": partial(charts.draw_outliers, counts=listed)},
    )


def facts_of(record: dict[str, Any], frame: pd.DataFrame, counts: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Return what every output says of the sample."""
    masks = [str(mask["name"])[:60] for mask in record["masks"]]
    named = ", ".join(masks[:3]) + (f" and {len(masks) - 3} more" if len(masks) > 3 else "")
    return {
        "run": record["name"],
        "notice": record["notice"],
        "config_sha256": record["config_sha256"],
        "label": f"mask ({named})" if named else "mask",
        "rows": int(counts["rows"].sum()),
        "rows_examined": len(frame),
        "most_rows_of_a_region_and_class": int(frame.attrs["rows"]),
        "seed": seed,
        "years": sorted(int(year) for year in counts["year"].unique()),
    }


def regions_of(outputs: list[Output], counts: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the main figures of each region, None where there are too few rows for one."""
    tables = {output.name: output.table for output in outputs}
    joint = tables["separability"].query("feature == @explore.JOINT").set_index("region")["jm"]
    unlike = explore.rank_regions(tables["region_distances"]).set_index("region")["unlikeness"]
    listed = tables["outlier_counts"].set_index(["region", "class"])["listed"]
    sums = counts.groupby(["region", "class"])[["rows", "pixels"]].sum()
    found = []
    for region in sorted(counts["region"].unique()):
        pixels = {name: float(sums["pixels"].get((region, name), 0)) for name in charts.CLASSES}
        found.append(
            {
                "region": region,
                **{f"{name}_rows": int(sums["rows"].get((region, name), 0)) for name in charts.CLASSES},
                "mangrove_share": round(pixels["mangrove"] / sum(pixels.values()), 6),
                "jm_all_bands": round(float(joint[region]), 6) if region in joint else None,
                "unlikeness": round(float(unlike[region]), 6) if region in unlike else None,
                **{
                    f"{name}_like_errors": int(listed[region, name]) if (region, name) in listed else None
                    for name in charts.CLASSES
                },
            }
        )
    return found


def files_of(outputs: list[Output]) -> list[dict[str, Any]]:
    """Return what each table is, and the figures drawn from it."""
    return [
        {
            "table": f"{output.name}.parquet",
            "figures": [f"{name}.png" for name in output.charts],
            "title": output.title,
            "about": output.about,
            "population": output.population,
            "rows": len(output.table),
        }
        for output in outputs
    ]


def write_output(folder: Path, output: Output, facts: dict[str, Any]) -> None:
    """Write a table, which says itself what it is, and draw its charts."""
    about = {
        "title": output.title,
        "about": output.about,
        "population": output.population,
        "label": facts["label"],
        "notice": facts["notice"],
        "run": facts["run"],
        "config_sha256": facts["config_sha256"],
        "examined": examined(facts),
    }
    with replacing(folder / f"{output.name}.parquet") as temporary:
        if isinstance(output.table, gpd.GeoDataFrame):
            output.table.to_parquet(temporary, index=False)  # writes what makes it a GeoParquet
            table = pq.read_table(temporary)
        else:
            table = pa.Table.from_pandas(output.table, preserve_index=False)
        words = {f"mangroves.{name}": text for name, text in about.items()}
        told = table.replace_schema_metadata({**(table.schema.metadata or {}), **words})
        pq.write_table(told, temporary, compression="zstd")
    title = f"{output.title}\n{output.population} · label: {facts['label']} · run {facts['run']}"
    for name, draw in output.charts.items():
        draw(folder / f"{name}.png", title=title, notice=facts["notice"])


def examined(facts: dict[str, Any]) -> str:
    """Return in words what part of the sample was looked at."""
    return (
        f"{facts['rows_examined']:,} of {facts['rows']:,} rows: at most "
        f"{facts['most_rows_of_a_region_and_class']:,} of a region and class, chosen by seed {facts['seed']}"
    )


def page_of(summary: dict[str, Any]) -> str:
    """Return the page that shows the figures and says what each table holds."""
    lines = [f"# What the sample of {summary['run']} holds", ""]
    lines += [f"**{summary['notice']}**", ""] if summary["notice"] else []
    lines += [f"Label: {summary['label']}. Years: {', '.join(map(str, summary['years']))}.", ""]
    lines += [f"Looked at {examined(summary)}. Wall to wall: rows weighted by the pixels they stand for.", ""]
    for file in summary["files"]:
        lines += [
            f"## {file['title']}: `{file['table']}`",
            "",
            f"{file['about']} Population: {file['population']}.",
            "",
        ]
        lines += [line for figure in file["figures"] for line in (f"![{file['title']}]({figure})", "")]
    return "\n".join(lines)


def show(reporter: Reporter, summary: dict[str, Any]) -> None:
    """Print the main figures of each region."""

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    if summary["notice"]:
        reporter.say(summary["notice"])
    reporter.table(
        f"Sample by region (label: {summary['label']}; rows as drawn, all else wall to wall)",
        ("region", "mangrove rows", "other rows", "mangrove %", "JM all bands", "unlikeness", "like mask errors"),
        (
            (
                region["region"],
                f"{region['mangrove_rows']:,}",
                f"{region['other_rows']:,}",
                f"{100 * region['mangrove_share']:.1f}",
                cell(region["jm_all_bands"], ".2f"),
                cell(region["unlikeness"], ".2f"),
                f"{cell(region['mangrove_like_errors'], ',')} + {cell(region['other_like_errors'], ',')}",
            )
            for region in summary["regions"]
        ),
    )
