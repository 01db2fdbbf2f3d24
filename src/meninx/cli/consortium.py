"""Steps of ``meninx federate`` by which a consortium forms: new, enrol, review, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.core.errors import PrivacyRefusal, UsageError, problem
from meninx.federated.config import StudyConfig
from meninx.federated.policy import PolicyConfig

if TYPE_CHECKING:
    from meninx.core.result import Result

Off = Annotated[bool, Parameter(negative="")]


@with_settings(
    "name", "rounds", "local_epochs", "algorithm", "aggregation", "sites", "address", "round_minutes"
)
def new(
    folder: Path,
    /,
    *,
    config: StudyConfig,
    recipe: str | None = None,
    like: Path | None = None,
    dry_run: Off = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Make a study at the coordinator: settings, keys, certificates, and the study file for the sites.

    Args:
        folder: New folder of the study.
        recipe: Recipe of `meninx train`, whose length the rounds replace, or the TOML file of a study.
        like: Prepared dataset, or its dataset.toml, that says what every site's dataset must be like.
        dry_run: Check the settings and write nothing.
    """
    early.exists(like)
    early.extra("train")
    from meninx.federated.consortium import new_study

    output.show(new_study(folder, config, like=like, dry_run=dry_run))


@with_settings("max_epsilon", "max_delta", "allowed_recipes", "require_secure_aggregation", "min_quorum")
def enrol(
    folder: Path,
    /,
    *,
    config: PolicyConfig,
    site: str | None = None,
    rotate: Off = False,
    accept: tuple[Path, ...] = (),
    revoke: tuple[str, ...] = (),
    dry_run: Off = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Enrol a site, or take requests and answers of sites into a study.

    At a site: `--site NAME` makes a new folder with keys, a strict policy and a request for the
    coordinator; the settings below go into its policy.toml. At the coordinator: `--accept FILE...` takes
    requests, approvals and refusals. Without a flag it publishes the study as study.toml is now.

    The coordinator publishes a new revision when study.toml or the sites have changed: with --accept of a
    request, with --revoke, and without a flag. Every site must approve a new revision again. An unchanged
    study keeps its revision and its approvals.

    Args:
        folder: Folder of the site, or of the study.
        site: Site: name of the new site.
        rotate: Site: replace the keys by new ones that the old ones sign.
        accept: Coordinator: files that sites sent.
        revoke: Coordinator: names of sites that leave; their keys never take part again.
        dry_run: Check the new site and write nothing.
    """
    early.extra("train")
    early.exists(*accept)
    given = [site is not None, rotate, bool(accept), bool(revoke)]
    if sum(given) > 1:
        raise UsageError("give one of --site, --rotate, --accept and --revoke")
    if site is None and config != PolicyConfig():
        raise UsageError("settings of the policy belong to --site; later they are edited in policy.toml")
    if dry_run and site is None:
        raise UsageError("--dry-run belongs to --site")
    output.show(_enrolled(folder, config, site, rotate, accept, revoke, dry_run=dry_run))


def _enrolled(
    folder: Path,
    config: PolicyConfig,
    site: str | None,
    rotate: bool,
    accept: tuple[Path, ...],
    revoke: tuple[str, ...],
    *,
    dry_run: bool,
) -> Result:
    from meninx.federated import consortium, site_folder, study

    if site is not None:
        return consortium.new_site(folder, site, config, dry_run=dry_run)
    if rotate:
        return consortium.rotate(site_folder.open_folder(folder))
    if accept:
        return consortium.accept(study.open_folder(folder), accept)
    if revoke:
        return consortium.revoke(study.open_folder(folder), revoke)
    if (folder / study.CONFIG).is_file():
        return consortium.publish(study.open_folder(folder))
    return consortium.request_again(site_folder.open_folder(folder))


def review(
    study: Path,
    site: Path,
    /,
    *,
    data: Path,
    approve: Off = False,
    refuse: str = "",
    expect: str = "",
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Show what a study asks of a site, on one page; approve or refuse it.

    Nothing is approved without --approve. After any change the site must approve the study again. The answer
    is signed, recorded in the audit log of the site, and written to a file for the coordinator. Exit code 4:
    this site refuses the study.

    Args:
        study: Study file of the coordinator.
        site: Folder of the site.
        data: Prepared dataset that would take part.
        approve: Sign the study, unless the policy or another check refuses it.
        refuse: Sign a refusal, with this reason.
        expect: With --approve: the digest of the study that was read before, or its beginning.
    """
    early.exists(study, site)
    early.dataset(data)
    early.extra("train")
    from meninx.federated import consortium

    page = consortium.review(study, site, data, approve=approve, refuse=refuse, expect=expect)
    output.show(page)
    if page.reasons and not refuse:
        fix = "see the reasons above; --refuse REASON answers the coordinator"
        raise PrivacyRefusal(problem("this site refuses the study", where=page.study, fix=fix))


def doctor(
    site: Path,
    /,
    *,
    study: Path | None = None,
    data: Path | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Check that a site can take part: keys, policy, log, clock, proxy, certificate, disk, GPU, dataset.

    Nothing is written. Exit code 0: nothing fails; 3: something does.

    Args:
        site: Folder of the site.
        study: Study file; adds its terms, the address of the coordinator and its clock.
        data: Prepared dataset; adds its facts.
    """
    early.exists(site, study)
    early.dataset(data)
    early.extra("train")
    from meninx.federated import site_doctor

    found = site_doctor.examine(site, study, data)
    output.show(found)
    found.raise_if_failed()
