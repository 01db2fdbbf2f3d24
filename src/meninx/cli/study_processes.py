"""Steps of ``meninx federate`` that run a study: coordinator, run, resume, site, stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from meninx.cli import early
from meninx.cli.console import Output
from meninx.core.errors import UsageError
from meninx.core.setting_types import Device
from meninx.federated.config import WAITING_MINUTES

if TYPE_CHECKING:
    from meninx.federated.coordinator_process import RunOrder, Serving

Off = Annotated[bool, Parameter(negative="")]


def coordinator(
    study: Path,
    /,
    *,
    host: str = "",
    port: int | None = None,
    flower_only: Off = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Serve a study: its sites connect, and `meninx federate run` from another terminal begins the rounds.

    It serves until it is stopped, and takes any number of runs.

    Args:
        study: Folder of the study.
        host: Address to listen on; by default all of this machine's, or loopback if the study's address is.
        port: Port to listen on, where another machine passes on that of the study's address.
        flower_only: Send all messages through Flower, also the short ones. Sites follow by themselves.
    """
    early.exists(study)
    early.extra("federated")
    from meninx.federated import coordinator_process
    from meninx.federated.study import open_folder

    serving = _serving(host, port, flower_only)
    coordinator_process.serve(
        open_folder(study), serving, progress=output.progress(), console=output.screen()
    )


def run(
    study: Path,
    /,
    *,
    again: Off = False,
    warm: Off = False,
    waiting_minutes: float = WAITING_MINUTES,
    host: str = "",
    port: int | None = None,
    flower_only: Off = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Begin the rounds of a study that every site has approved, and go through them.

    This process serves the sites itself, unless `meninx federate coordinator` does it already. While it
    conducts a run, another is refused.

    Args:
        study: Folder of the study.
        again: Begin a new run although the study was run before.
        warm: With --again: begin with the last accepted model instead of the first one.
        waiting_minutes: Minutes after which the coordinator stops waiting for sites.
        host: Address to listen on; by default all of this machine's, or loopback if the study's address is.
        port: Port to listen on, where another machine passes on that of the study's address.
        flower_only: Send all messages through Flower, also the short ones. Sites follow by themselves.
    """
    if warm and not again:
        raise UsageError("--warm belongs to --again")
    early.exists(study)
    early.extra("federated")
    from meninx.federated.coordinator_process import RunOrder

    start = RunOrder(again=again, warm=warm, waiting_seconds=60 * waiting_minutes)
    _conduct(study, start, _serving(host, port, flower_only), output)


def resume(
    study: Path,
    /,
    *,
    waiting_minutes: float = WAITING_MINUTES,
    host: str = "",
    port: int | None = None,
    flower_only: Off = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Go on with a run that was stopped or killed; at most the round at hand is repeated.

    Args:
        study: Folder of the study.
        waiting_minutes: Minutes after which the coordinator stops waiting for sites.
        host: Address to listen on; by default all of this machine's, or loopback if the study's address is.
        port: Port to listen on, where another machine passes on that of the study's address.
        flower_only: Send all messages through Flower, also the short ones. Sites follow by themselves.
    """
    early.exists(study)
    early.extra("federated")
    from meninx.federated.coordinator_process import RunOrder

    start = RunOrder(resume=True, waiting_seconds=60 * waiting_minutes)
    _conduct(study, start, _serving(host, port, flower_only), output)


def site(
    folder: Path,
    study: str,
    /,
    *,
    device: Device = "auto",
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Take part in a study that this site has approved, until its run is over.

    The site calls the coordinator by https, through the proxy that HTTPS_PROXY names; nobody calls the site.
    It may be stopped and started again at any time.

    Args:
        folder: Folder of the site.
        study: Name of the study as `meninx federate review` shows it, e.g. `chest` of study-chest.json.
        device: Where the network runs.
    """
    early.exists(folder)
    early.extra("federated")
    early.device(device)
    from meninx.federated import site_process
    from meninx.federated.site_folder import open_folder

    found = open_folder(folder)
    output.show(site_process.run(found, study, device=device, progress=output.progress()))


def stop(
    folder: Path,
    /,
    *,
    study: str = "",
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Stop the process that serves a study or a site; what it finished is saved.

    Args:
        folder: Folder of the study, or of the site.
        study: Site: name of the study; by default all studies of the site.
    """
    early.exists(folder)
    from meninx.federated.processes import stop_folder

    output.show(stop_folder(folder, study))


def _serving(host: str, port: int | None, flower_only: bool) -> Serving:
    from meninx.federated.coordinator_process import Serving

    return Serving(host=host, port=port, mailbox=not flower_only)


def _conduct(study: Path, start: RunOrder, serving: Serving, output: Output) -> None:
    from meninx.federated import coordinator_process
    from meninx.federated.study import open_folder

    output.show(
        coordinator_process.run(
            open_folder(study), start, serving, progress=output.progress(), console=output.screen()
        )
    )
