"""The steps by which a consortium forms, as the command line takes them: new, enrol, accept, review.

    coordinator                              site
    new_study     ── study-chest.json
                     enrol-north.json     ◀── new_site
    accept        ── study-chest.json     ──▶ review, approve
    accept           approval-chest-north.json ◀──┘

Files travel by mail or on a stick; none of them is secret, and each is checked by whoever receives it.
After the last approval :func:`consortium_status` says that the study is ready.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from meninx.core import files, signed_file
from meninx.core.errors import ConfigError, DataError, UsageError, problem
from meninx.core.manifest import INFO_NAME, DatasetInfo
from meninx.core.result import Result, command
from meninx.federated import approval, authority, enrolment, site_folder, study
from meninx.federated.approval_page import StudyPage
from meninx.federated.config import DataConfig, StudyConfig
from meninx.federated.policy import POLICY, PolicyConfig
from meninx.federated.site_folder import SiteFolder
from meninx.federated.study import StudyFolder


@dataclass(frozen=True, kw_only=True)
class ConsortiumStatus(Result):
    """A study as its coordinator sees it.

    Attributes:
        study: name of the study.
        revision: number of the revision.
        digest: SHA-256 of the study file.
        in_words: the digest in words.
        coordinator: fingerprint of the coordinator in words.
        sites: name of each site -> fingerprint in words.
        answers: name of each site -> what it answered, in words.
        ready: every site approved this revision.
        file: the study file, which goes to every site.
        notes: what happened, and what a person should know.
        dry_run: nothing was written.
    """

    study: str
    revision: int = 0
    digest: str = ""
    in_words: str = ""
    coordinator: str = ""
    sites: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    ready: bool = False
    file: Path | None = None
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    def summary(self) -> str:
        """Return the status in a few lines for people."""
        lines = [f"study: {self.study}, revision {self.revision}"]
        if self.in_words:
            lines += [f"this revision: {self.in_words}", f"coordinator: {self.coordinator}"]
        lines += [f"{name}: {self.answers.get(name, '')}\n  {text}" for name, text in self.sites.items()]
        lines += [f"note: {note}" for note in self.notes]
        if self.dry_run:
            lines.append("dry run: nothing was written")
        elif self.ready:
            lines.append("ready: every site approved this revision")
        elif self.sites:
            lines.append(f"send to every site, which reviews it: {self.file}")
        else:
            taken = command("federate", "enrol", self.out, "--accept", "FILE...")
            lines.append(f"next: {taken} takes the sites' requests")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class SiteEnrolment(Result):
    """A site that asks to take part.

    Attributes:
        site: name of the site.
        in_words: fingerprint of its keys in words.
        request: the file that goes to the coordinator; None of a dry run.
        policy: file of the site's policy.
        rotated: the keys are new ones in the place of others.
        dry_run: nothing was written.
    """

    site: str
    in_words: str = ""
    request: Path | None = None
    policy: Path | None = None
    rotated: bool = False
    dry_run: bool = False

    def summary(self) -> str:
        """Return the result in a few lines for people."""
        lines = [f"site: {self.site}", f"policy: {self.policy}"]
        if self.dry_run:
            return "\n".join([*lines, "dry run: nothing was written"])
        lines.append(f"fingerprint: {self.in_words}")
        lines.append(f"send to the coordinator: {self.request}")
        lines.append("tell the coordinator the fingerprint by telephone; private/ never leaves this machine")
        return "\n".join(lines)


def new_study(
    root: Path,
    config: StudyConfig,
    *,
    like: Path | None = None,
    dry_run: bool = False,
) -> ConsortiumStatus:
    """Make the coordinator's folder of a study and return its status.

    Args:
        root: the folder.
        config: the settings.
        like: prepared dataset, or its ``dataset.toml``, that says what every site's dataset must be like.
        dry_run: check everything and write nothing.

    Raises:
        UsageError, ConfigError: the folder is not empty, or the settings are refused or incomplete.
        DataError: a file cannot be read.
    """
    complete = study.named(_complete(config, like), root)
    complete.data.info()
    if dry_run:
        study.check_new(root)
        return ConsortiumStatus(out=root, study=complete.name, dry_run=True, notes=_notes(complete))
    folder = study.create(root, complete)
    return consortium_status(folder, notes=_notes(complete))


def consortium_status(folder: StudyFolder, *, notes: Iterable[str] = ()) -> ConsortiumStatus:
    """Return where a study stands.

    Raises:
        UsageError: ``study.toml`` was changed since it was published.
        DataError, PrivacyRefusal: the study file or an answer is damaged.
    """
    found, answers = folder.study(), approval.answers(folder)
    ends = [
        f"the certificate of {site.name} ends in {days} days: accept its enrolment again"
        for site in found.file.sites
        if (days := authority.days_left(site.certificate)) <= authority.WARNING_DAYS
    ]
    return ConsortiumStatus(
        out=folder.root,
        study=found.name,
        revision=found.file.revision,
        digest=found.digest,
        in_words=found.in_words(),
        coordinator=found.file.coordinator.in_words(),
        sites={site.name: site.keys.in_words() for site in found.file.sites},
        answers={name: "approves" if item.approved else item.reason for name, item in answers.items()},
        ready=bool(answers) and all(item.approved for item in answers.values()),
        file=folder.study_path,
        notes=(*notes, *ends),
    )


def accept(folder: StudyFolder, paths: Iterable[Path]) -> ConsortiumStatus:
    """Take enrolment requests and answers of sites into a study and return its status.

    Requests make a new revision, so they are taken before answers; answers to the revision before are
    refused.

    Raises:
        MeninxError: a file is refused; requests are taken all or none.
    """
    by_kind: dict[str, list[Path]] = {"enrolment": [], "approval": [], "refusal": []}
    for path in paths:
        kind = signed_file.kind_of(files.read_bytes(path, limit=signed_file.LIMIT), where=path.name)
        if kind not in by_kind:
            what = "the file is no enrolment request and no answer of a site"
            raise DataError(problem(what, where=path.name))
        by_kind[kind].append(path)
    notes: list[str] = []
    if by_kind["enrolment"]:
        _, accepted = enrolment.accept(folder, by_kind["enrolment"])
        notes += [f"{item.site.name}: {item.change}" for item in accepted]
    notes += [approval.receive(folder, path) for kind in ("approval", "refusal") for path in by_kind[kind]]
    return consortium_status(folder, notes=notes)


def publish(folder: StudyFolder) -> ConsortiumStatus:
    """Publish ``study.toml`` as it is now, with the sites that are enrolled, and return the status.

    An unchanged study keeps its revision and its approvals.
    """
    before = folder.published()
    folder.publish(before.file.sites, before.file.revoked)
    return consortium_status(folder)


def revoke(folder: StudyFolder, sites: Iterable[str]) -> ConsortiumStatus:
    """Remove sites from a study, refuse their keys for ever, and return the status."""
    gone = tuple(sites)
    enrolment.revoke(folder, gone)
    return consortium_status(folder, notes=[f"{name}: revoked" for name in gone])


def new_site(root: Path, name: str, policy: PolicyConfig, *, dry_run: bool = False) -> SiteEnrolment:
    """Make the folder of a site with keys and policy, write its request, and return what was made.

    Raises:
        UsageError: the folder is not empty, or the name cannot be that of a site.
    """
    if dry_run:
        site_folder.check_new(root, name)
        return SiteEnrolment(out=root, site=name, policy=root / POLICY, dry_run=True)
    return _requested(site_folder.create(root, name, policy))


def rotate(site: SiteFolder) -> SiteEnrolment:
    """Replace the keys of a site, write a new request, and return what was made."""
    before = site.rotate()
    enrolment.request(site, before=before)
    return _enrolment(site, rotated=True)


def request_again(site: SiteFolder) -> SiteEnrolment:
    """Write the request of a site again, e.g. for another study, and return it."""
    return _requested(site)


def review(
    path: Path,
    root: Path,
    data: Path,
    *,
    approve: bool = False,
    refuse: str = "",
    expect: str = "",
) -> StudyPage:
    """Return the page of a study for a site, and approve or refuse it if that is asked for.

    Args:
        path: the study file.
        root: folder of the site.
        data: the dataset that would take part.
        approve: sign the study, if no check speaks against it.
        refuse: sign a refusal with this reason.
        expect: digest, or its beginning, of the study that was read before.

    Raises:
        UsageError: both an approval and a refusal, or a digest without an approval.
        PrivacyRefusal: a check speaks against the approval; everything else of ``approval.approve``.
    """
    if approve and refuse:
        raise UsageError("a study is approved or refused: leave out --approve or --refuse")
    if expect and not approve:
        raise UsageError("--expect belongs to --approve")
    site, found = site_folder.open_folder(root), study.read_study(path)
    if approve:
        return approval.approve(site, found, data, expect=expect)
    answer = approval.refuse(site, found, refuse) if refuse else None
    return replace(approval.review(site, found, data), answer=answer)


def _requested(site: SiteFolder) -> SiteEnrolment:
    enrolment.request(site)
    return _enrolment(site)


def _enrolment(site: SiteFolder, *, rotated: bool = False) -> SiteEnrolment:
    return SiteEnrolment(
        out=site.root,
        site=site.name,
        in_words=site.keys().public.in_words(),
        request=site.request_path,
        policy=site.root / POLICY,
        rotated=rotated,
    )


def _complete(config: StudyConfig, like: Path | None) -> StudyConfig:
    """Return the settings with the facts of a dataset."""
    if like is not None:
        if config.data != DataConfig():
            fix = "leave out --like, or the settings of [data]"
            raise ConfigError(problem("the facts of the data are given twice", where="--like", fix=fix))
        path = like / INFO_NAME if like.is_dir() else like
        info = DatasetInfo.from_toml(files.read_text(path, limit=1 << 20), path.name)
        config = config.replace(data=DataConfig.of_dataset(info))
    return config


def _notes(config: StudyConfig) -> tuple[str, ...]:
    found = []
    if not config.aggregation.secure:
        found.append("no secure aggregation; sites with the default policy refuse this study")
    if config.training.privacy is None:
        found.append("no differential privacy; sites with the default policy refuse this study")
    return tuple(found)
