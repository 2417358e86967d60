"""Sections of a report on what was mapped: clear looks, areas and change, and how true the maps are."""

from __future__ import annotations

from engine.html import Section, paragraph
from engine.legend import CHANGES
from jobs.report_parts import TABLES, Report
from jobs.report_tables import read_table, read_years


def clear_looks(report: Report) -> Section | None:
    found = report.tables["looks"]
    if found.empty:
        report.missing.append("cube")
        return None
    years = read_years(report.folder)
    poorest = years.sort_values(["mean_clear_looks", "tile", "year"], kind="stable")
    return Section(
        "Clear looks",
        "looks",
        [
            paragraph(
                "A look is one pass of a satellite over a tile, clear at a pixel where neither cloud, shadow, snow nor "
                "fill is; figures are means over the observed pixels of a tile-year. Poor is a tile-year of which less "
                "than half was seen well."
            ),
            report.figure(
                f"{TABLES}/looks.png",
                f"Histogram of {int(found['tile_years'].sum())} tile-years by mean clear looks, from "
                f"{found['clear_least'].min():g} to {found['clear_most'].max():g}; and their spread in each year.",
                "Clear looks: tile-years by sensor, and the spread of tile-years in each year.",
                f"{TABLES}/looks_histogram.csv",
                by="report RUN",
            ),
            report.table(
                found,
                {
                    "year": ("year", "d"),
                    "tile_years": ("tile-years", ",d"),
                    "looks_median": ("looks, median", "g"),
                    "clear_least": ("clear, least", ".2f"),
                    "clear_median": ("clear, median", ".2f"),
                    "clear_most": ("clear, most", ".2f"),
                    "observed_share": ("observed share", ".3f"),
                    "poor": ("poor", ",d"),
                },
                "Looks by year, over tile-years.",
                f"{TABLES}/looks.csv",
                most=80,
            ),
            report.table(
                poorest,
                {
                    "tile": ("tile", ""),
                    "year": ("year", ".0f"),
                    "sensors": ("sensors", ""),
                    "looks": ("looks", ".0f"),
                    "mean_clear_looks": ("clear looks", ".2f"),
                    "observed_share": ("observed share", ".3f"),
                    "poorly_observed_share": ("of it poorly", ".3f"),
                    "poor": ("poor", ""),
                },
                "Tile-years with the fewest clear looks.",
                "years.csv",
                most=15,
            ),
        ],
    )


def areas(report: Report) -> Section | None:
    numbers = ("year", "mangrove_ha", "loss_ha", "gain_ha", "net_ha", "estimated_ha", "low_ha", "high_ha")
    series = read_table(report.folder / "series.csv", ("by", "where", *numbers, "provisional"), numbers)
    mapped = ("year", "code", "hectares")
    maps = read_table(report.folder / "areas.csv", ("by", "where", "name", *mapped), mapped)
    if maps is None:
        report.missing += ["classify", "change"]
        return None
    parts = [
        paragraph(
            "Hectares are counts of pixels times their area on the ellipsoid, so they hold the errors of the map; "
            "where the run was assessed, estimates with 95 % intervals stand beside them and are what to quote."
        )
    ]
    if series is None:
        report.missing.append("change")
        by_year = maps[maps["by"] == ("total" if (maps["by"] == "total").any() else "region")]
        sums = by_year.groupby(["year", "name"])["hectares"].sum().unstack().reset_index()
        columns = {"year": ("year", ".0f")} | {name: (name, ",.1f") for name in sums.columns if name != "year"}
        parts.append(report.table(sums, columns, "Hectares by class and year, all regions.", "areas.csv", most=80))
        return Section("Areas", "areas", parts)
    parts.append(
        report.figure(
            "series.png",
            "Mangrove area by year, and hectares gained and lost between years, of the whole area and the places with "
            "most mangrove. Its numbers are in series.csv.",
            "Mangrove by year, and gain and loss between years. Hollow: provisional, the last years may yet turn back.",
            "series.csv",
            by="change CONFIG",
        )
    )
    columns = {
        "where": ("place", ""),
        "year": ("year", ".0f"),
        "mangrove_ha": ("mapped, ha", ",.1f"),
        "loss_ha": ("lost since the year before", ",.1f"),
        "gain_ha": ("gained", ",.1f"),
        "net_ha": ("net", ",.1f"),
        "estimated_ha": ("estimated, ha", ",.1f"),
        "low_ha": ("low", ",.1f"),
        "high_ha": ("high", ",.1f"),
        "provisional": ("provisional", ""),
    }
    whole = series["by"] == "total"
    parts.append(
        report.table(
            series[whole],
            columns,
            "Mangrove of the whole area by year: mapped, and estimated with 95 % intervals where assessed.",
            "series.csv",
            most=80,
        )
    )
    rest = series[~whole & (series["year"] == series["year"].max())].sort_values(
        ["mangrove_ha", "where"], ascending=[False, True]
    )
    parts.append(
        report.table(rest, columns, "The same of each place in the last year, most mangrove first.", "series.csv")
    )
    parts += _change(report)
    return Section("Areas and change", "areas", parts)


def _change(report: Report) -> list[str]:
    parts = []
    found = report.tables["change_matrix"]
    columns = {
        "first": ("from year", "d"),
        "last": ("to year", "d"),
        "from": ("was", ""),
        "to": ("became", ""),
        "hectares": ("hectares", ",.1f"),
        "provisional_ha": ("of them provisional", ",.1f"),
    }
    caption = "Change matrix, all regions: hectares by class before and after, of changes of every size."
    parts.append(report.table(found, columns, caption, f"{TABLES}/change_matrix.csv", "transitions.csv"))
    history = read_table(
        report.folder / "history.csv", ("by", "where", "name", "code", "hectares"), ("code", "hectares")
    )
    if history is not None:
        some = history[history["by"] == ("total" if (history["by"] == "total").any() else "region")]
        sums = some.groupby("name")["hectares"].sum().reindex([one.name for one in CHANGES]).dropna()
        table_of = sums.rename_axis("name").reset_index()
        named = {"name": ("what happened in all years", ""), "hectares": ("hectares", ",.1f")}
        parts.append(report.table(table_of, named, "What all years of a pixel tell, all regions.", "history.csv"))
    return parts


def assessment(report: Report) -> Section | None:
    folder = report.folder / "assess"
    numbers = ("mapped_ha", "estimated_ha", "low_ha", "high_ha", "points", "pct_per_year")
    found = read_table(folder / "areas.csv", ("by", "where", "period", "class", *numbers), numbers)
    if found is None:
        report.missing.append("assess")
        return None
    whole = found[found["by"] == "total"]
    limits = {"low_ha": ("low", ",.1f"), "high_ha": ("high", ",.1f"), "points": ("points", ",.0f")}
    parts = [
        paragraph(
            "From points an interpreter looked at, drawn at random in strata of the map (Olofsson and others, 2014)."
        ),
        report.table(
            whole,
            {
                "period": ("period", ""),
                "class": ("class", ""),
                "mapped_ha": ("mapped, ha", ",.1f"),
                "estimated_ha": ("estimated, ha", ",.1f"),
                **limits,
                "pct_per_year": ("% a year", ".2f"),
            },
            "Areas of the whole area, estimated with 95 % intervals.",
            "assess/areas.csv",
            most=120,
        ),
    ]
    measured = ("value", "low", "high", "points")
    figures = read_table(folder / "accuracy.csv", ("by", "period", "measure", "class", *measured), measured)
    if figures is not None:
        parts.append(
            report.table(
                figures[figures["by"] == "total"],
                {
                    "period": ("period", ""),
                    "measure": ("accuracy", ""),
                    "class": ("class", ""),
                    "value": ("value", ".4f"),
                    "low": ("low", ".4f"),
                    "high": ("high", ".4f"),
                    "points": ("points", ",.0f"),
                },
                "Accuracy of the map with 95 % intervals: overall, user's and producer's.",
                "assess/accuracy.csv",
                most=120,
            )
        )
    shares = ("points", "share")
    matrix = read_table(folder / "matrix.csv", ("by", "period", "mapped", "true", *shares), shares)
    if matrix is not None:
        parts.append(
            report.table(
                matrix[matrix["by"] == "total"],
                {
                    "period": ("period", ""),
                    "mapped": ("mapped", ""),
                    "true": ("by the interpreter", ""),
                    "points": ("points", ",.0f"),
                    "share": ("estimated share of the land", ".4f"),
                },
                "Error matrix of the assessment.",
                "assess/matrix.csv",
                most=60,
            )
        )
    return Section("Accuracy and areas as assessed", "assessment", parts)
