"""The ``mangroves`` command: finds the subcommand, and ends every user's mistake in one line."""

from __future__ import annotations

import datetime as dt
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from engine import __version__
from engine.errors import EngineError
from engine.trust import redact

COMMANDS: Final = {
    "run": "Map an area, end to end: search, cube, sample, train, classify, change.",
    "plan": "Print tiles, scenes, looks, memory and hours, before anything runs.",
    "search": "Find the scenes of a run and freeze their list.",
    "cube": "Composite every tile-year into an annual zarr cube.",
    "sample": "Draw labelled pixels from the cubes and the masks.",
    "tune": "Search for a classifier: a leaderboard of candidates.",
    "explore": "Describe the sample: densities, separability, unlike regions, mask errors.",
    "train": "Fit and score the classifier.",
    "predict": "Add probability and class of mangrove to a table of pixels.",
    "serve": "Answer rows of pixels over HTTP with probability and class.",
    "evaluate": "Judge the classifier: intervals, transfer, importance, errors.",
    "classify": "Map probability and class, wall to wall.",
    "edit": "Apply polygons that people drew over the maps, kept in versions.",
    "suggest": "Propose pixels whose label would help the classifier most.",
    "change": "Compare years into change rasters and area tables.",
    "assess": "Accuracy and areas with intervals, from points an interpreter looked at.",
    "report": "Write one HTML file of all that a run saw, learnt, mapped, lost and cost.",
    "status": "Say how far a run is, and what drives it.",
    "logs": "Print what a run said.",
    "resume": "Go on with a run that stopped.",
    "cancel": "Stop a run; what is finished stays.",
    "cluster": "List profiles of cluster.yaml, show what one would start, stop one.",
    "verify": "Compare all that a run made with the hashes kept of it.",
    "why": "Explain a pixel: its scenes, what masked them, faults, map and history.",
    "page": "Make a folder to look at a run in: maps, areas, patches, downloads.",
    "reproduce": "Make an output again from its lineage, and compare hashes.",
    "view": "Show a run in full resolution in a browser of this machine.",
    "masks": "Fetch reference masks.",
    "simulate": "Write a simulated Landsat archive with known truth.",
    "doctor": "Check this machine, and the Planetary Computer.",
    "bench": "Measure a cluster on simulated scenes, and write a page of it.",
}
"""Subcommand -> what it does; each lives in ``jobs.<name>`` as ``command`` and is imported only when asked for."""

EXAMPLES: Final = {
    "run": (
        "--demo",
        "my-coast.yaml",
        "my-coast.yaml --set 'years=[2015,2020]' --cluster big",
        "my-coast.yaml --cluster slurm --detach",
    ),
    "plan": ("my-coast.yaml", "my-coast.yaml --mb-per-second 8 --json"),
    "search": ("my-coast.yaml",),
    "cube": ("my-coast.yaml --cluster big",),
    "sample": ("my-coast.yaml",),
    "tune": ("my-coast.yaml", "my-coast.yaml --trials 200 --cluster big"),
    "explore": ("runs/my-coast", "--config my-coast.yaml --rows 3000"),
    "train": ("my-coast.yaml",),
    "predict": ("runs/my-coast/model plots.csv", "runs/my-coast/model plots.parquet -o mapped.parquet --scale dn"),
    "serve": (
        "runs/my-coast/model",
        "runs/my-coast/model --host 0.0.0.0 --token-file token --certificate c.pem --key k.pem",
    ),
    "evaluate": ("my-coast.yaml --json --cluster big", "demo/config.yaml --truth demo/archive"),
    "classify": ("my-coast.yaml --as gmw",),
    "change": (
        "my-coast.yaml --zones districts.gpkg --by name",
        "GMW_N26W082_1996_v3.tif GMW_N26W082_2020_v3.tif --out florida",
    ),
    "edit": ("runs/my-coast corrections.gpkg", "runs/my-coast --list", "runs/my-coast --undo"),
    "suggest": ("runs/my-coast --count 100", "runs/my-coast --labels labels.csv"),
    "assess": (
        "design my-coast.yaml",
        "read my-coast.yaml --labels labels.csv",
        "truth demo/config.yaml --world demo/archive",
    ),
    "report": ("runs/my-coast", "--config my-coast.yaml --bench runs/bench/runs.jsonl"),
    "status": ("runs/my-coast", "--config my-coast.yaml"),
    "logs": ("runs/my-coast -n 200", "runs/my-coast --follow"),
    "resume": ("runs/my-coast", "runs/my-coast --cluster slurm --detach"),
    "cancel": ("runs/my-coast",),
    "cluster": ("ls", "show slurm", "stop address"),
    "verify": ("runs/my-coast", "runs/my-coast --cluster big --json"),
    "why": ("runs/my-coast 104.97 8.65 2019",),
    "page": ("runs/my-coast", "runs/my-coast -o for-the-ministry"),
    "reproduce": ("runs/my-coast/stac/maps/map_z48_c08_r-016_2019.json",),
    "view": ("runs/my-coast", "runs/my-coast --port 8080"),
    "simulate": (
        "world --years 2012,2016-2018 --size-px 256",
        "world --config world.yaml --set 'mask_years=[2010,2018]'",
    ),
    "doctor": ("--planetary-computer", "--planetary-computer --config my-coast.yaml --cluster big"),
    "bench": ("--cluster big --workload cube --scale 4", "report runs/bench/runs.jsonl -o bench.html"),
}
"""Subcommand -> arguments to show below its help."""


ANNOUNCED: Final = frozenset(
    [
        *("run", "plan", "search", "cube", "sample", "tune", "explore", "train", "evaluate", "classify", "change"),
        *("assess", "report", "page", "view", "verify"),
    ]
)
"""Subcommands that take seconds to load what they work with, and to find out what there is to do."""


def announce(name: str, arguments: list[str]) -> None:
    """Say what begins before anything is imported for it: a silent command looks like one that hangs."""
    if name not in ANNOUNCED or {"-h", "--help"} & set(arguments):
        return
    what = COMMANDS[name]
    line = f"{name:<9} {what[0].lower()}{what[1:].rstrip('.')}"
    in_json = "--progress=json" in " ".join(arguments).replace("--progress ", "--progress=")
    told = json.dumps({"time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "message": line})
    click.echo(told if in_json else line, err=True)


class LazyGroup(click.Group):
    """A click group that imports a subcommand when it is used, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"jobs.{cmd_name}").command
        if examples := EXAMPLES.get(cmd_name):
            lines = (f"\n  mangroves {cmd_name} {arguments}" for arguments in examples)
            command.epilog = f"\b\nExample{'s' * (len(examples) > 1)}:{''.join(lines)}"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        announce(args[0], args[1:])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mangroves")
def cli() -> None:
    """Yearly mangrove maps and change rasters from the Landsat archive, on any Dask cluster.

    \b
    mangroves run --demo                   map a simulated world: no network, no account
    mangroves doctor --planetary-computer  is this machine fit, does the archive answer
    mangroves plan my-coast.yaml           what your area will take
    mangroves run my-coast.yaml            map it; the same command goes on where it stopped
    mangroves status runs/my-coast         how far it is; logs, cancel, resume

    A configuration needs a name, an area, years and masks: docs/quick-start.md, jobs/configs.
    """


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """End by SIGTERM as by Ctrl-C: clusters are closed and the record says so. A batch scheduler sends it first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; exit 0 when done, 1 for what the world did, 2 for wrong usage, 130 when stopped."""
    # Read when XGBoost is imported, which is later: its threads would else spin while they wait for each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with _terminated_as_interrupted():
            cli.main(arguments, prog_name="mangroves", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has gone: no news for anybody. Python would complain once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped; the same command goes on from what is finished", err=True)
        sys.exit(130)
    except EngineError as error:
        click.echo(f"error: {redact(str(error))}", err=True)
        sys.exit(1)
    except OSError as error:  # of a disk or store, in the middle of something
        if error.filename is None:
            raise
        click.echo(f"error: {redact(str(error.filename))}: {error.strerror}; the same command goes on", err=True)
        sys.exit(1)
