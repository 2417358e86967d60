"""``mangroves report``: what the page says is what the files say, whatever was run and whatever a run is called."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from engine.files import content_sha256
from engine.leaderboard import LEADERBOARD_COLUMNS
from tests.benchmarks.test_report import COMPARISON
from tests.jobs.calls import Job, mangroves

HOSTILE = '"><img src=https://evil.example/x onerror=alert(1)><script>alert(2)</script>\u202e&lt;'
ENDLESS = "x" * 100_000


@dataclass
class Page(HTMLParser):
    """A page as a reader sees it: its tables by caption, its headings, its tags."""

    text: str
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    headings: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._caption, self._into = "", ""
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "figcaption":
            self._caption = ""
        if tag == "h2":
            self.headings.append("")
        if tag == "table":
            self.tables[re.sub(r"^\w+ \d+\. ", "", self._caption)] = []
        if tag == "tr":
            list(self.tables.values())[-1].append([])
        if tag in ("td", "th"):
            list(self.tables.values())[-1][-1].append("")
        if tag in ("figcaption", "td", "th", "h2"):
            self._into = tag

    def handle_endtag(self, tag):
        if tag == self._into:
            self._into = ""

    def handle_data(self, data):
        if self._into == "figcaption":
            self._caption += data
        elif self._into == "h2":
            self.headings[-1] += data
        elif self._into:
            list(self.tables.values())[-1][-1][-1] += data

    def table(self, begin: str) -> list[dict[str, str]]:
        """Return the rows of the one table whose caption begins so."""
        (found,) = [rows for caption, rows in self.tables.items() if caption.startswith(begin)]
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]


def page_of(run: Path, *more: str | Path) -> Page:
    answer = mangroves("report", run, *more)
    assert answer.code == 0, answer.err
    return Page((run / "report.html").read_text(encoding="utf-8"))


def number(cell: str) -> float:
    return float(cell.replace(",", "").rstrip("%"))


@pytest.fixture(scope="module")
def reported(finished, tmp_path_factory) -> tuple[Path, Page]:
    """A finished run with its report."""
    run = tmp_path_factory.mktemp("reported") / "tiny"
    shutil.copytree(finished.run, run)
    return run, page_of(run)


def test_areas_looks_and_seconds_of_the_page_are_those_of_the_files(reported):
    run, page = reported
    series = pd.read_csv(run / "series.csv").query("by == 'total'")
    shown = page.table("Mangrove of the whole area by year")
    assert [number(row["mapped, ha"]) for row in shown] == series["mangrove_ha"].round(1).tolist()
    years = pd.read_csv(run / "years.csv")
    looks = page.table("Looks by year")
    assert [number(row["clear, most"]) for row in looks] == pytest.approx(
        years.groupby("year")["mean_clear_looks"].max().tolist(), abs=0.005
    )
    assert sum(number(row["tile-years"]) for row in looks) == len(years)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    steps = page.table("Elapsed seconds by step")
    assert {row["step"]: number(row["seconds"]) for row in steps} == pytest.approx(
        {name: stage["seconds"] for name, stage in record["stages"].items()}, abs=0.051
    )


def test_seconds_and_bytes_of_stages_are_the_sums_of_the_markers(reported):
    run, page = reported
    markers = [json.loads(path.read_text()) for path in run.glob("cube/*/[0-9][0-9][0-9][0-9].json")]
    of_cube = {row["stage"]: row for row in page.table("Seconds and bytes by stage") if row["step"] == "cube"}
    assert set(of_cube) == {stage for marker in markers for stage in marker["stages"]}
    for stage, row in of_cube.items():
        told = [marker["stages"][stage] for marker in markers if stage in marker["stages"]]
        assert number(row["bytes"]) == sum(one["bytes"] for one in told)
        assert number(row["seconds"]) == pytest.approx(sum(one["seconds"] for one in told), abs=0.06)
        assert number(row["tasks"]) == len(told)


def test_the_ledger_of_reads_is_added_up_by_asset(reported):
    run, page = reported
    ledgers = [json.loads(path.read_text()) for path in run.glob("cube/*/*-reads.json")]
    red = [scene["red"] for ledger in ledgers for scene in ledger["scenes"].values() if "red" in scene]
    (row,) = [row for row in page.table("The ledger of reads") if row["asset"] == "red"]
    assert (number(row["files"]), number(row["bytes"])) == (len(red), sum(file["bytes"] for file in red))


def test_the_change_matrix_adds_up_to_the_areas_of_change(reported):
    run, page = reported
    change = pd.read_csv(run / "change.csv").query("by == 'region' and least_ha == 0")
    matrix = page.table("Change matrix")
    for (first, last), of in change.groupby(["first", "last"]):
        cells = {
            (row["was"], row["became"]): number(row["hectares"])
            for row in matrix
            if (row["from year"], row["to year"]) == (str(first), str(last))
        }
        loss = of["loss_ha"].sum() + of["provisional_loss_ha"].sum()
        gain = of["gain_ha"].sum() + of["provisional_gain_ha"].sum()
        assert cells["mangrove", "other"] == pytest.approx(loss, abs=0.06)
        assert cells["other", "mangrove"] == pytest.approx(gain, abs=0.06)
        assert cells["mangrove", "mangrove"] + cells["mangrove", "other"] == pytest.approx(
            of["before_ha"].sum(), abs=0.11
        )


def test_every_table_names_files_that_are_there_and_every_figure_says_what_it_shows(reported):
    run, page = reported
    hrefs = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    for href in hrefs:
        assert href is not None
        assert (run / href).is_file() or href.removeprefix("#") in ids, href
    captions = re.findall(r"<figcaption>.*?</figcaption>", page.text, re.DOTALL)
    assert len(captions) > 12
    assert all("<a href" in caption for caption in captions)
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) >= 3
    assert all(len(image["alt"] or "") > 30 for image in images)
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in images)


def test_the_page_needs_no_script_and_loads_nothing(reported):
    _, page = reported
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form", "base"}
    assert "default-src 'none'" in page.text
    assert "http://" not in re.sub(r"http://www\.w3\.org/\S+", "", page.text)
    assert len(page.text) < 10_000_000


def test_figures_name_the_command_that_makes_them_and_masks_their_hash(reported, finished):
    _, page = reported
    captions = [one for one in re.findall(r"<figcaption>.*?</figcaption>", page.text, re.DOTALL) if "Figure" in one]
    assert captions
    assert all("Made, and made again, by <code>mangroves " in one for one in captions)
    rows = page.table("Masks that labels come from")
    assert {row["sha256"] for row in rows} == {content_sha256(path) for path in finished.archive.masks.values()}


def test_what_was_not_run_is_listed_with_its_command(reported):
    run, page = reported
    end = page.text[page.text.index('id="not-run"') :]
    for command in ("explore RUN", "tune CONFIG", "evaluate CONFIG", "assess design CONFIG", "bench --cluster PROFILE"):
        assert f"not run: <code>mangroves {command}</code>" in end
    assert "mangroves train CONFIG" not in end
    assert "How far to trust the model" not in page.headings
    said = json.loads(mangroves("report", run, "--json").out)
    assert set(said["not_run"]) == {"explore", "tune", "evaluate", "assess", "bench"}
    assert said["bytes"] == (run / "report.html").stat().st_size
    assert all((run / name).is_file() for name in said["tables"])


def test_the_same_run_gives_the_same_page(reported):
    run, page = reported
    assert page_of(run).text == page.text


def test_measurements_that_are_given_are_shown(reported, tmp_path):
    run, _ = reported
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps(COMPARISON, indent=1))
    page = page_of(run, "--bench", bench)
    assert "Benchmarks" in page.headings
    assert "composite_f32_vs_odc" in page.text
    assert "5.00-7.00" in page.text


@pytest.mark.slow
def test_after_cubes_alone_the_page_says_what_there_is(job):
    assert job.call("cube").code == 0
    page = page_of(job.run)
    assert {"Provenance", "Clear looks", "What was lost, and why", "Seconds and bytes"} <= set(page.headings)
    assert not {"Areas and change", "The model as trained", "How far to trust the model"} & set(page.headings)
    for command in ("sample CONFIG", "train CONFIG", "classify CONFIG", "change CONFIG"):
        assert f"mangroves {command}" in page.text
    assert "No finished tile-year went without a scene." in page.text


@pytest.mark.slow
def test_a_run_that_lost_scenes_lists_them(own_job):
    path = sorted(own_job.archive.items.parent.rglob("*_SR_B5.TIF"))[0]
    path.write_bytes(b"II*\0")
    assert own_job.call("cube", "--skip-bad").code == 0
    page = page_of(own_job.run)
    with (own_job.run / "lost.csv").open(newline="", encoding="utf-8") as file:
        (lost,) = csv.DictReader(file)
    (row,) = page.table("Every scene that was lost")
    assert (row["tile"], row["year"], row["item"], row["asset"]) == (
        lost["tile"],
        lost["year"],
        lost["scene"],
        lost["asset"],
    )
    assert row["cause"] == lost["cause"]
    (cause,) = page.table("What was lost, by cause")
    assert cause["asset"] == lost["asset"]
    marker = json.loads((own_job.run / "cube" / lost["tile"] / f"{lost['year']}.json").read_text())
    (place,) = page.table("Tile-years that lost most")
    assert number(place["pixels with fewer looks"]) == sum(marker["lost_px"].values())


def begun(folder: Path, **more: object) -> Path:
    """Write the record of a run that has done nothing yet."""
    folder.mkdir(parents=True)
    record = {
        "name": folder.name,
        "status": "failed",
        "config_sha256": "c0ffee",
        "stages": {},
        "sessions": [],
        "lost": [],
        "refused": [],
        "items": None,
        "config": {"name": folder.name, "years": [2019]},
        **more,
    }
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.mark.parametrize("text", [HOSTILE, ENDLESS], ids=["markup", "endless"])
def test_names_of_a_run_are_text_and_nothing_else(tmp_path, text):
    run = begun(
        tmp_path / "run",
        name=text,
        notice=text,
        status=text,
        masks=[{"name": text, "licence": text, "citation": text, "year": text}],
        refused=[{"scene": text, "reason": text}],
        lost=[{"scene": text, "tile": text, "year": 2019, "cause": text}],
        stages={text: {"seconds": 1.0, "runs": 1, "counts": {text: text}}},
        sessions=[{"versions": {"mangroves": text, text: text}, "started": text, "error": text, "status": text}],
        config={"name": "run", text: {text: text}, "area": {"file": "https://a/b?sig=SECRET"}},
    )
    header = "tile,year,sensors,looks,mean_clear_looks,observed_share,poorly_observed_share,poor\n"
    quoted = '"' + text.replace('"', '""') + '"'
    (run / "years.csv").write_text(f"{header}{quoted},2019,{quoted},9,4.5,1,0,{quoted}\n", encoding="utf-8")
    page = page_of(run)
    assert "script" not in {tag for tag, _ in page.tags}
    assert all((attrs["src"] or "").startswith("data:image/png") for tag, attrs in page.tags if tag == "img")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "\u202e" not in page.text
    assert "SECRET" not in page.text
    assert len(page.text) < 1_000_000


def test_a_run_of_ten_thousand_tile_years_gives_a_short_page(tmp_path):
    losses = [
        {"scene": f"LC08_{n}", "tile": f"z48_c08_r-{n:03d}", "year": 2019, "cause": "red: gone"} for n in range(500)
    ]
    run = begun(tmp_path / "run", lost=losses)
    rows = [
        (f"z48_c{n % 250:02d}_r+000", 1984 + n // 250, "L8", n % 40, n % 37 / 2, 0.9, 0.1, n % 2 == 0)
        for n in range(10_000)
    ]
    columns = [
        "tile",
        "year",
        "sensors",
        "looks",
        "mean_clear_looks",
        "observed_share",
        "poorly_observed_share",
        "poor",
    ]
    pd.DataFrame(rows, columns=columns).to_csv(run / "years.csv", index=False)
    page = page_of(run)
    assert len(page.text) < 1_000_000
    assert "9,985 more are in the file" in page.text
    assert "460 more are in the file" in page.text
    assert sum(number(row["tile-years"]) for row in page.table("Looks by year")) == 10_000
    assert len(pd.read_csv(run / "report" / "lost.csv")) == 500
    histogram = pd.read_csv(run / "report" / "looks_histogram.csv")
    assert histogram["tile_years"].sum() == 10_000


def test_the_leaderboard_is_the_file_of_the_search(tmp_path):
    run = begun(tmp_path / "run")
    (run / "tune").mkdir()
    rows = [{name: 0.5 + n / 10 for _, name, _ in LEADERBOARD_COLUMNS} | {"candidate": f"c{n}"} for n in (2, 1)]
    pd.DataFrame([rows[0], {**rows[1], "hold_out_auc": None}]).to_csv(run / "tune" / "leaderboard.csv", index=False)
    first, second = page_of(run).table("Candidates of the search")
    assert (first["candidate"], first["AUC"], first["trials"]) == ("c2", "0.7000", "0.7")
    assert (second["candidate"], second["hold-out AUC"]) == ("c1", "–")


DAMAGE = {
    "years.csv": "tile,year\nz48,2019\n",
    "series.csv": "by,where\n",
    "explore/summary.json": "[1]",
    "evaluate/summary.json": "{",
    "areas.csv": "\0",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_one_line_with_its_name(tmp_path, name):
    run = begun(tmp_path / "run")
    path = run / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(DAMAGE[name], encoding="utf-8")
    assert str(path) in mangroves("report", run).error


def test_a_record_whose_parts_are_other_things_is_one_line(tmp_path):
    run = begun(tmp_path / "run", refused=[1], masks=7)
    assert "damaged" in mangroves("report", run).error


def test_a_picture_that_is_none_is_named_and_not_shown(tmp_path):
    run = begun(tmp_path / "run")
    (run / "explore").mkdir()
    (run / "explore" / "summary.json").write_text('{"regions": []}', encoding="utf-8")
    (run / "explore" / "densities.png").write_bytes(b"<svg onload=alert(1)>")
    page = page_of(run)
    assert "densities.png is no picture of this software" in page.text


def test_a_long_list_of_scenes_is_read_by_what_is_wanted_of_it(tmp_path, monkeypatch):
    run = begun(tmp_path / "run")
    table = pd.DataFrame(
        {"platform": "landsat-8", "datetime": pd.Timestamp("2019-07-01", tz="UTC"), "cloud_cover": 7.0},
        index=range(1000),
    )
    table["red"] = [f"https://a/{n:0100d}.tif" for n in range(1000)]
    table.to_parquet(run / "items.parquet", index=False)
    monkeypatch.setattr("jobs.report_tables.MOST_BYTES", 50_000)  # the addresses alone take twice as much
    assert [row["scenes"] for row in page_of(run).table("Scenes of the frozen list")] == ["1,000"]
    monkeypatch.setattr("jobs.report_tables.MOST_BYTES", 100)
    error = mangroves("report", run).error
    assert "items.parquet is larger than a report reads" in error
    assert "delete" not in error


def test_markers_are_added_up_a_few_at_a_time(tmp_path, monkeypatch, reported):
    run, page = reported
    held = []

    def each(function, items, *, within):
        held.append(len(items))
        return [function(one) for one in items]

    monkeypatch.setattr("jobs.report_tables._AT_ONCE", 1)
    monkeypatch.setattr("jobs.report_tables.each", each)
    shutil.copytree(run, tmp_path / "tiny")
    assert page_of(tmp_path / "tiny").text == page.text
    assert set(held) == {1}


@pytest.mark.parametrize("name", ["report", "explore/densities.png", "series.csv"])
def test_a_link_out_of_the_run_is_not_followed(tmp_path, name):
    run, outside = begun(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(outside)
    assert "outside the allowed folders" in mangroves("report", run).error
    assert not list(outside.iterdir())


def test_a_folder_without_a_run_is_told(tmp_path):
    assert "run.json is not there" in mangroves("report", tmp_path).error


@pytest.fixture(scope="module")
def evaluated(archive, tmp_path_factory) -> tuple[Path, Page]:
    """A run of everything but the search for a classifier, with its report."""
    job = Job(tmp_path_factory.mktemp("evaluated"), archive)
    job.config["notice"] = "SIMULATED for a test"
    for command in (("evaluate",), ("run",), ("assess", "design"), ("assess", "truth")):
        first = ("--no-chips",) if command[-1] == "design" else ()
        more = ("--world", archive.folder) if command[-1] == "truth" else first
        arguments = [*command, *job.arguments(command[-1], *more)[1:]]
        answer = mangroves(*arguments)
        assert answer.code == 0, answer.err
    assert mangroves("explore", job.run, "--rows", "200").code == 0
    return job.run, page_of(job.run)


@pytest.mark.slow
def test_the_confusion_matrix_and_its_intervals_are_those_of_the_evaluation(evaluated):
    run, page = evaluated
    cells = pd.read_parquet(run / "evaluate" / "confusion.parquet").query("region == 'all regions'")
    shown = page.table("Confusion matrix, all regions")
    assert len(shown) == len(cells)
    for row, (_, cell) in zip(shown, cells.iterrows(), strict=True):
        assert (row["actual"], row["mapped"]) == (cell["actual"], cell["predicted"])
        assert number(row["share of the actual class"]) == pytest.approx(cell["share"], abs=5.1e-5)
        assert number(row["pixels or rows"]) == pytest.approx(cell["weight"], abs=0.51)
        if row["low"] != "–":
            assert number(row["low"]) == pytest.approx(cell["low"], abs=5.1e-5)


@pytest.mark.slow
def test_an_evaluated_and_assessed_run_has_every_section(evaluated):
    run, page = evaluated
    assert {"How far to trust the model", "Accuracy and areas as assessed", "Areas and change"} <= set(page.headings)
    assert "SIMULATED for a test" in page.text
    alts = " ".join(str(attrs["alt"]) for tag, attrs in page.tags if tag == "img")
    for figure in ("ROC", "reliability", "importance", "Confusion", "Cross-region", "densit"):
        assert figure in alts
    areas = pd.read_csv(run / "assess" / "areas.csv").query("by == 'total'")
    shown = page.table("Areas of the whole area")
    assert [number(row["estimated, ha"]) for row in shown] == pytest.approx(areas["estimated_ha"].tolist(), abs=0.051)
    assert [number(row["high"]) for row in shown] == pytest.approx(areas["high_ha"].tolist(), abs=0.051)
    assert len(page.text) < 10_000_000


@pytest.mark.slow
def test_an_evaluation_of_another_model_is_said_to_be(evaluated, tmp_path):
    run, _ = evaluated
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "evaluate" / "summary.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**about, "model_sha256": "0" * 64}), encoding="utf-8")
    assert "The run has another model by now" in page_of(tmp_path / "run").text
