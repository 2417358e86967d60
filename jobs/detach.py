"""``--detach``: the driver of a run on its own, so that the terminal may close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from engine.cluster import wait_minutes
from engine.files import cannot_write, locked
from engine.params import RunParams
from engine.profiles import PbsProfile, SlurmProfile, pick_profile
from engine.record import LOGS, set_aside
from jobs.context import Options, asked_run
from jobs.driver import check_free, check_words, log_name, start_process, submit_job
from jobs.reporter import Reporter

DETACH: Final = click.option(
    "--detach",
    is_flag=True,
    help="Work on its own, as a process or, with a profile of kind slurm or pbs, a batch job; the terminal may close.",
)


def detach_run(options: Options, command: Sequence[str], params: RunParams | None = None) -> None:
    """Start the driver of a run on its own, and say how to watch it.

    Parameters
    ----------
    options : Options
        Of which ``--fresh`` is done at once, so that a job that is queued again does not begin anew.
    command : sequence of str
        What the driver is to do, without options.
    params : RunParams, optional
        Instead of ``options.config``.

    Raises
    ------
    StoreError
        If the run is driven already.
    ClusterError
        If the driver ends at once, or no batch scheduler takes it.
    """
    place = asked_run(options, params)
    profile = pick_profile(options.cluster, options.cluster_file)
    words = [*command, *options.words()]
    check_words(words)
    with locked(place.folder):
        check_free(place.folder)
        if options.fresh:
            set_aside(place.folder, place.outputs)
        try:
            (place.folder / LOGS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(place.folder / LOGS, error) from error
    log = log_name()
    if isinstance(profile, SlurmProfile | PbsProfile):
        driver = submit_job(profile, place.folder, words, log, cluster=options.cluster)
    else:
        driver = start_process(place.folder, words, log, worker_minutes=wait_minutes(profile))
    run = place.folder
    Reporter(as_json=options.as_json).result(
        {"run": str(run), "driver": driver.model_dump(mode="json")},
        f"{run} is driven by {driver.name}\n"
        f"  mangroves status {run}   how far it is\n"
        f"  mangroves logs {run}     what it says\n"
        f"  mangroves cancel {run}   stop it; what is finished stays",
    )
