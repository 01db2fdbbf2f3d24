"""Approvals: what a site signs, what it checks again at each start, and when a study may begin.

A site approves one revision of a study with one signature over its digest and one over the roster. Nothing
is approved by default, and nothing stays approved when anything changes: settings, sites, code, the policy
of the site, or its dataset. Every approval and every refusal is in the audit log of the site and of the
coordinator.

Order of the checks in :func:`approve`: the study file itself, this site's own entry in it, continuity with
the revision that the site approved before, certificates, then the page with the policy, dataset and budget.
The log is written before the approval leaves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from meninx.core import artifacts, files, names, plain, signed_file
from meninx.core.artifacts import DataRecord
from meninx.core.errors import DataError, MeninxError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.manifest import Manifest
from meninx.core.result import command
from meninx.core.signed_file import Statement
from meninx.federated import approval_page, code_hash, policy
from meninx.federated.approval_page import StudyPage
from meninx.federated.site_folder import SiteFolder
from meninx.federated.study import Study, StudyFolder, check_dates, file_name, study_of
from meninx.secagg.roster import Member, Roster
from meninx.train.identity import data_record, same_data

STUDY_FILE, APPROVAL_FILE, DATA_FILE = "study.json", "approval.json", "data.json"
APPROVED = "site approved"  # event of the coordinator's log
_ANCHOR = re.compile(r"[0-9]{1,9}:[0-9a-f]{64}")
REASON_LIMIT = 500  # characters of a refusal
_AGAIN = "look at it with `meninx federate review STUDY SITE --data DATASET` and approve it again"


class Approval(Statement, frozen=True, kw_only=True, tag="approval"):
    """What a site signs when it approves a study.

    Attributes:
        study: name of the study.
        site: name of the site.
        digest: SHA-256 of the study file.
        roster: the site's signature over the roster of secure aggregation, whose terms are the digest.
        audit: number of lines and hash of the last line of the site's audit log.
        made: time, ISO 8601 in UTC.
    """

    study: str
    site: str
    digest: str
    roster: bytes
    audit: str
    made: str


class StudyRefusal(Statement, frozen=True, kw_only=True, tag="refusal"):
    """What a site signs when it refuses a study.

    Attributes:
        study: name of the study.
        site: name of the site.
        digest: SHA-256 of the study file.
        reason: in words.
        made: time, ISO 8601 in UTC.
    """

    study: str
    site: str
    digest: str
    reason: str
    made: str


@dataclass(frozen=True)
class ApprovedStudy:
    """A study that a site may take part in now.

    Attributes:
        study: the study.
        data: folder of the dataset that was approved with it.
        roster: the roster, not yet with the signatures of the other sites.
    """

    study: Study
    data: Path
    roster: Roster


@dataclass(frozen=True)
class SiteAnswer:
    """What a site of a study has answered, as the coordinator knows it.

    Attributes:
        approved: the site's approval of the current revision is here.
        reason: why not, in words; empty when it is.
        signature: the site's signature over the roster; empty without approval.
    """

    approved: bool
    reason: str = ""
    signature: bytes = b""


def roster_of(study: Study) -> Roster:
    """Return the roster of a study, without signatures; its terms are the digest of the study file.

    Raises:
        DataError: fewer than two sites are enrolled.
    """
    members = tuple(Member(name=site.name, key=site.signing) for site in study.file.sites)
    return Roster(study=study.name, members=members, terms=bytes.fromhex(study.digest))


def review(site: SiteFolder, study: Study, data: Path) -> StudyPage:
    """Return the page of a study for a site, after the checks of :func:`approve`; nothing is written.

    What would refuse an approval stands among the reasons of the page.

    Raises:
        PrivacyRefusal: the policy cannot be used, or the account of earlier runs is incomplete.
        DataError: the dataset or the audit log cannot be read.
    """
    reasons: tuple[str, ...] = ()
    try:
        check_standing(site, study)
    except MeninxError as error:
        reasons = (f"{error}.",)
    found = approval_page.page(study, site, Manifest.read(data), approved=_has_approved(site, study, data))
    return replace(found, reasons=(*reasons, *found.reasons))


def approve(site: SiteFolder, study: Study, data: Path, *, expect: str = "") -> StudyPage:
    """Sign a study for a site, record the approval, and write the file that goes to the coordinator.

    Args:
        site: the site.
        study: the study, as it was read from its file.
        data: the dataset that takes part.
        expect: digest that the study must have, or its beginning; empty for any.

    Raises:
        PrivacyRefusal: a check failed; names every reason. The refusal is in the audit log.
        UsageError: the study is not the expected one.
        DataError: an artefact cannot be read.
        StorageError: the disk refused.
    """
    if not study.digest.startswith(expect.lower()):
        fix = "read the page of this revision first"
        raise UsageError(problem("the study is not the one that was reviewed", where="--expect", fix=fix))
    try:
        found = review(site, study, data)
        if found.reasons:
            what = " ".join(found.reasons).rstrip(".")
            raise PrivacyRefusal(problem(what, where=study.name, fix="nothing was signed"))
    except MeninxError as error:
        site.log().append("study refused", study=study.name, digest=study.digest, reason=str(error))
        raise
    keys, log = site.keys(), site.log()
    log.append(
        "study approved",
        study=study.name,
        digest=study.digest,
        revision=study.file.revision,
        code=study.file.code.digest,
        words=study.in_words(),
    )
    statement = Approval(
        study=study.name,
        site=site.name,
        digest=study.digest,
        roster=roster_of(study).signature(keys.signing),
        audit=log.anchor(),
        made=artifacts.now(),
    )
    content = signed_file.seal(statement, keys.signing)
    folder = site.study_folder(study.name)
    record = plain.to_json(data_record(data)).encode()
    for name, value in ((DATA_FILE, record), (STUDY_FILE, study.content), (APPROVAL_FILE, content)):
        files.write_bytes(folder / name, value, mode=files.PRIVATE_MODE)
    files.write_bytes(site.approval_path(study.name), content)
    return replace(found, approved=True, answer=site.approval_path(study.name))


def refuse(site: SiteFolder, study: Study, reason: str) -> Path:
    """Sign and record a refusal, and return the file that goes to the coordinator.

    An earlier approval of the study by this site ends.

    Raises:
        UsageError: there is no reason, or it is too long.
        StorageError: the disk refused.
    """
    words = names.printable(reason.strip())
    if not words or len(words) > REASON_LIMIT:
        raise UsageError(
            expected(f"a reason of 1 to {REASON_LIMIT} characters", got=len(words), where="--refuse")
        )
    site.log().append("study refused", study=study.name, digest=study.digest, reason=words)
    statement = StudyRefusal(
        study=study.name, site=site.name, digest=study.digest, reason=words, made=artifacts.now()
    )
    (site.study_folder(study.name) / APPROVAL_FILE).unlink(missing_ok=True)
    path = site.approval_path(study.name)
    files.write_bytes(path, signed_file.seal(statement, site.keys().signing))
    return path


def approved(site: SiteFolder, name: str) -> ApprovedStudy:
    """Return the study that a site approved, after checking everything again that may have changed.

    Call it at each start of the site. A refusal is in the audit log.

    Raises:
        PrivacyRefusal: the site has not approved it, or the policy, the code, the keys or the dataset have
            changed since, or a certificate is not valid now.
        DataError: an artefact cannot be read.
    """
    try:
        return _approved(site, name)
    except MeninxError as error:
        site.log().append("study refused", study=name, reason=str(error))
        raise


def check_roster(data: bytes, found: ApprovedStudy) -> Roster:
    """Return the roster that the coordinator sent, after comparing it with the approved study.

    Args:
        data: as ``Roster.to_bytes`` made it.
        found: the study that this site approved.

    Guarantee: every site of the approved study signed exactly this study, with all its terms.

    Raises:
        PrivacyRefusal: it is another roster, or a site did not sign it.
        DataError: it is none.
    """
    roster = Roster.from_bytes(data)
    if roster.hash != found.roster.hash:
        raise PrivacyRefusal(
            problem("the coordinator sent another roster than the approved one", where="roster")
        )
    roster.require_signatures()
    return roster


def receive(folder: StudyFolder, path: Path) -> str:
    """Take an approval or refusal into the coordinator's folder and return in words what it says.

    Raises:
        DataError: it is damaged, or of a site or study that is not here.
        PrivacyRefusal: it is not signed by the site that it names, or the audit log of the site is shorter
            than at an earlier approval.
        UsageError: it is for another revision of the study.
        StorageError: the disk refused.
    """
    content = files.read_bytes(path, limit=signed_file.LIMIT)
    study, where = folder.study(), path.name
    statement = _statement(content, study, where)
    if statement.digest != study.digest:
        fix = "send the current study file to the site, which reviews it again"
        what = f"{statement.site} answered about another revision of the study"
        raise UsageError(problem(what, where=where, fix=fix))
    if isinstance(statement, Approval):
        _check_anchor(folder, statement, where)
    files.write_bytes(folder.approvals / file_name("approval", study.name, statement.site), content)
    if isinstance(statement, StudyRefusal):
        folder.log().append("site refused", site=statement.site, reason=statement.reason)
        return f"{statement.site} refuses: {statement.reason}"
    folder.log().append(APPROVED, site=statement.site, digest=study.digest, audit=statement.audit)
    return f"{statement.site} approves"


def answers(folder: StudyFolder) -> dict[str, SiteAnswer]:
    """Return what each enrolled site has answered, by its name.

    Raises:
        UsageError, DataError, PrivacyRefusal: the study file itself cannot be used.
    """
    study = folder.study()
    return {name: _answer(folder, study, name) for name in study.site_names}


def agreed(folder: StudyFolder) -> tuple[Study, Roster]:
    """Return the study and the roster that every site signed; without it no round begins.

    Raises:
        PrivacyRefusal: a site has not approved or has refused, a certificate is not valid now, or other
            code is installed here.
        UsageError: ``study.toml`` was changed since it was published.
        DataError: an artefact cannot be read.
    """
    study, found = folder.study(), answers(folder)
    check_dates(study)
    difference = code_hash.difference(study.file.code)
    if difference:
        fix = f"publish the study again with {command('federate', 'enrol', folder.root)}"
        raise PrivacyRefusal(problem(difference.rstrip("."), where="code", fix=fix))
    waiting = [f"{name} {item.reason}" for name, item in found.items() if not item.approved]
    if waiting or not found:
        what = "; ".join(waiting) or "no site is enrolled"
        raise PrivacyRefusal(problem(what, where="approvals", fix="every site of the study must approve it"))
    signatures = {name: item.signature for name, item in found.items()}
    return study, roster_of(study).signed(signatures)


# the parts


def check_standing(site: SiteFolder, study: Study) -> None:
    """Refuse a study that does not name this site with its own keys, or goes back behind an earlier one."""
    own = study.site(site.name)
    if own is None:
        fix = f"send {site.request_path.name} to the coordinator"
        raise PrivacyRefusal(problem(f"{site.name} is not enrolled in this study", where=study.name, fix=fix))
    if own.keys != site.keys().public:
        fix = "telephone the coordinator; somebody may have enrolled under this name"
        what = "the study has other keys for this site than its own"
        raise PrivacyRefusal(problem(what, where=study.name, fix=fix))
    before = stored_study(site, study.name)
    if before is not None:
        _check_succession(before, study)
    check_dates(study)


def _check_succession(before: Study, study: Study) -> None:
    """Refuse another study under a known name, another coordinator, an older revision, and a key's return."""
    old, new = before.file, study.file
    if new.id != old.id or new.coordinator != old.coordinator:
        fix = "telephone the coordinator and compare the words; a new study takes a new name"
        what = "this is not the study, or not the coordinator, that this site approved under this name"
        raise PrivacyRefusal(problem(what, where=study.name, fix=fix))
    if new.revision < old.revision or (new.revision == old.revision and study.digest != before.digest):
        what = f"this site approved revision {old.revision} already, this is another of number {new.revision}"
        raise PrivacyRefusal(problem(what, where=study.name, fix="ask the coordinator for the current file"))
    if not set(old.revoked) <= set(new.revoked):
        raise PrivacyRefusal(problem("keys that were revoked are no longer revoked", where=study.name))


def _approved(site: SiteFolder, name: str) -> ApprovedStudy:
    study = stored_study(site, name)
    path = site.study_folder(name) / APPROVAL_FILE
    if study is None or not path.is_file():
        raise PrivacyRefusal(problem("this site has not approved the study", where=name, fix=_AGAIN))
    where = f"{name}/{APPROVAL_FILE}"
    content = files.read_bytes(path, limit=signed_file.LIMIT)
    statement = signed_file.read(content, Approval, where=where)
    signed_file.check_signature(content, site.keys().public.signing, where=where)
    if (statement.digest, statement.site, statement.study) != (study.digest, site.name, name):
        raise PrivacyRefusal(problem("the approval is of another study", where=where, fix=_AGAIN))
    check_standing(site, study)
    sites = len(study.site_names)
    reasons = policy.refusals(site.policy(), study.config, study.file.code, sites)
    if reasons:
        what = f"the policy refuses the study now: {' '.join(reasons)}"
        raise PrivacyRefusal(problem(what.rstrip("."), where=name))
    data = _data(site, name)
    if not same_data(data, Path(data.dataset)):
        what = "the dataset is not the one that was approved with the study"
        raise PrivacyRefusal(problem(what, where=name, fix=_AGAIN))
    return ApprovedStudy(study, Path(data.dataset), roster_of(study))


def _has_approved(site: SiteFolder, study: Study, data: Path) -> bool:
    try:
        found = _approved(site, study.name)
    except MeninxError:
        return False
    return found.study.digest == study.digest and found.data.resolve() == data.resolve()


def stored_study(site: SiteFolder, name: str) -> Study | None:
    """Return the study that lies at a site, without any check of the approval; None when there is none.

    Raises:
        DataError: it is damaged, or has another name.
    """
    path = site.study_folder(name) / STUDY_FILE
    if not path.is_file():
        return None
    found = study_of(files.read_bytes(path, limit=signed_file.LIMIT), where=f"{name}/{STUDY_FILE}")
    if found.name != name:
        raise DataError(problem("the stored study has another name", where=f"{name}/{STUDY_FILE}"))
    return found


def _data(site: SiteFolder, name: str) -> DataRecord:
    content = files.read_bytes(site.study_folder(name) / DATA_FILE, limit=signed_file.LIMIT)
    return plain.from_json(content, DataRecord, where=f"{name}/{DATA_FILE}")


def _unchecked(content: bytes, where: str) -> Approval | StudyRefusal:
    """Return an approval or refusal whose signature was not looked at."""
    if signed_file.kind_of(content, where=where) == "approval":
        return signed_file.read(content, Approval, where=where)
    return signed_file.read(content, StudyRefusal, where=where)


def _statement(content: bytes, study: Study, where: str) -> Approval | StudyRefusal:
    """Return an approval or refusal, after checking that a site of the study signed it."""
    statement = _unchecked(content, where)
    site = study.site(statement.site)
    if site is None or statement.study != study.name:
        raise DataError(problem("the answer is of a site or study that is not here", where=where))
    signed_file.check_signature(content, site.signing, where=where)
    names.check([statement.made], what="time", where=where)
    if isinstance(statement, StudyRefusal):
        reason = names.printable(statement.reason)[:REASON_LIMIT]
        return msgspec.structs.replace(statement, reason=reason)
    return statement


def _check_anchor(folder: StudyFolder, statement: Approval, where: str) -> None:
    """Refuse an approval that states an audit log behind the one of an earlier approval by the same site."""
    if _ANCHOR.fullmatch(statement.audit) is None:
        raise DataError(problem("the state of the audit log has another form", where=where))
    before = [
        str(entry.details.get("audit"))
        for entry in folder.log().verify()
        if entry.event == APPROVED and entry.details.get("site") == statement.site
    ]
    count = int(statement.audit.partition(":")[0])
    if any(count <= int(old.partition(":")[0]) and old != statement.audit for old in before):
        what = (
            f"this approval of {statement.site} is older than one that was taken before, or the audit log of "
            "the site was put back"
        )
        raise PrivacyRefusal(problem(what, where=where, fix="telephone the site"))


def _answer(folder: StudyFolder, study: Study, name: str) -> SiteAnswer:
    path = folder.approvals / file_name("approval", study.name, name)
    if not path.is_file():
        return SiteAnswer(False, "has not answered")
    content = files.read_bytes(path, limit=signed_file.LIMIT)
    if _unchecked(content, path.name).digest != study.digest:  # perhaps signed with keys that were replaced
        return SiteAnswer(False, "answered about another revision")
    statement = _statement(content, study, path.name)
    if statement.site != name:
        raise DataError(problem("the answer is of another site", where=path.name))
    if isinstance(statement, StudyRefusal):
        return SiteAnswer(False, f"refuses: {statement.reason}")
    return SiteAnswer(True, "", statement.roster)
