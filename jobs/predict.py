"""``mangroves predict``: probability and class for the rows of a table."""

from __future__ import annotations

from pathlib import Path

import click

from engine.model import load_model
from engine.naming import SCALES, SENSORS, Scale
from engine.predict import (
    check_output,
    choose_model,
    further_features,
    notice_of,
    open_table,
    predict_table,
    survey_table,
)
from engine.trust import Trust
from jobs.config import JSON, allowed_place
from jobs.reporter import Reporter


@click.command("predict")
@click.argument("model")
@click.argument("table", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Table to write; default TABLE with -predicted in its name."
)
@click.option("--scale", type=click.Choice(list(SCALES)), help="Scale of the bands; default by their values.")
@click.option(
    "--sensor", type=click.Choice(list(SENSORS)), help="How numbered bands are numbered; default by platform or bands."
)
@click.option(
    "--prevalence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of mangrove in the land the rows stand for; default that of the land trained on.",
)
@click.option("--prefix", default="", help="Put before the names of the two columns.")
@JSON
def command(
    model: str,
    table: Path,
    out: Path | None,
    scale: Scale | None,
    sensor: str | None,
    prevalence: float | None,
    prefix: str,
    as_json: bool,
) -> None:
    """Add probability and class of mangrove to a table of Landsat pixels.

    MODEL is the folder that `mangroves train` wrote, TABLE a CSV or Parquet file with the six bands under any known
    name (red, B4, SR_B4, ...). Of the models in the folder the richest is taken whose features the table has.
    """
    reporter = Reporter(as_json=as_json)
    # Named on the command line, so allowed.
    folder = allowed_place(model, Trust().with_roots(model), what="MODEL")
    out = out or table.with_name(f"{table.stem}-predicted{table.suffix}")
    opened = open_table(table)
    full = load_model(folder)
    check_output(opened, out, prefix, notice=notice_of(full))
    survey = survey_table(opened, sensor=sensor, scale=scale, further=further_features(full))
    choice = choose_model(full, folder, opened, foreign=survey.foreign)
    classifier = choice.model if prevalence is None else choice.model.at_prevalence(prevalence)
    reporter.say(f"predict   model  {choice.name}, as {choice.reason}")
    reporter.say(f"predict   bands  {survey.bands.reason}")
    reporter.say(f"predict   scale  {survey.reason}")
    notice = notice_of(classifier)
    if notice:
        reporter.say(f"predict   {notice}")
    about = {
        "notice": notice,
        "model": choice.name,
        "model_reason": choice.reason,
        "model_sha256": classifier.sha256(),
        "features": list(classifier.features),
        "threshold": classifier.threshold,
        "prevalence": classifier.training_prevalence,
        "regions": list(classifier.regions),
        "bands": {name or "any": list(columns) for name, columns in survey.bands.by_sensor.items()},
        "bands_reason": survey.bands.reason,
        "scale": survey.scale,
        "scale_reason": survey.reason,
        "prefix": prefix,
    }
    found = predict_table(opened, out, classifier, survey, prefix=prefix, about=about)
    share = classifier.training_prevalence
    reporter.say(
        f"predict   class  mangrove from probability {classifier.threshold:g}, on land with {share:.1%} mangrove"
    )
    reporter.result(
        {**about, "out": str(out), "rows": found.rows, "missing": found.missing, "mangrove": found.mangrove},
        f"{found.rows:,} rows: {found.mangrove:,} mangrove, {found.rows - found.missing - found.mangrove:,} other, "
        f"{found.missing:,} without bands; in {out}",
    )
