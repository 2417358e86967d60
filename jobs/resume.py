"""``mangroves resume``: go on with a run that stopped, named by its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine.errors import ConfigError, StoreError
from engine.params import RunParams
from engine.record import read_record
from engine.trust import Trust
from jobs.config import recorded_config, run_folder
from jobs.context import Options, work_options
from jobs.detach import DETACH, detach_run
from jobs.run import map_area


@click.command("resume")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@DETACH
@work_options
def command(run: Path, detach: bool, **given: Any) -> None:
    """Go on with a run where it stopped, by the configuration that its record holds.

    RUN is the folder of the run. Its record is not trusted: what the run needs beyond the working folder is allowed
    again, by --allow-root and --allow-host.
    """
    options = Options(config=None, overrides=(), fresh=False, **given)
    params = recorded_params(run, options.trust)
    if detach:
        detach_run(options, ["resume", str(run)], params)
    else:
        map_area(options, params)


def recorded_params(run: Path, trust: Trust) -> RunParams:
    """Return the configuration in a run's record, checked as one in a file is.

    Raises
    ------
    StoreError
        If there is no record.
    ConfigError
        If what it holds is no configuration, or that of a run elsewhere.
    """
    record = read_record(run)
    if record is None:
        raise StoreError(f"{run / 'run.json'} is not there", fix="name the folder of a run that was begun")
    params = recorded_config(run, record)
    if run_folder(params, trust).resolve() != run.resolve():
        raise ConfigError(
            f"{run / 'run.json'} is the record of {run_folder(params, trust)}",
            fix="name that folder, from the working folder it was begun in",
        )
    return params
