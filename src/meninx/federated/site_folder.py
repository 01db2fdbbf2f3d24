"""The folder by which a site takes part in studies: keys, policy, audit log, and what it approved.

``meninx federate enrol north/ --site north`` makes it::

    north/
      policy.toml               what a study may ask of this site
      enrol-north.json          the request that goes to the coordinator of a study
      approval-chest-north.json the approval that goes back
      runs/chest/               run folders of a study
      private/                  keys, audit log, and the approved studies; mode 0700

>>> import tempfile
>>> site = create(Path(tempfile.mkdtemp()) / "north", "north", PolicyConfig())
>>> open_folder(site.root).name, site.keys().public.name
('north', 'north')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from meninx.core import artifacts, files, workspace
from meninx.core.errors import DataError, UsageError, problem
from meninx.federated import enrolment_keys
from meninx.federated.audit_log import AuditLog
from meninx.federated.config import NAME
from meninx.federated.enrolment_keys import EnrolmentKeys
from meninx.federated.policy import POLICY, PolicyConfig, read_policy, write_policy
from meninx.federated.study import COORDINATOR, file_name

RECORD, STUDIES, RUNS = "site.json", "studies", "runs"
_LIMIT = 1 << 16  # bytes of the record
_PLAIN = re.compile(NAME)


class SiteRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Identity of a site: ``private/site.json``.

    Attributes:
        name: name of the site.
        made: time, ISO 8601 in UTC.
    """

    name: str
    made: str


@dataclass(frozen=True)
class SiteFolder:
    """The folder of a site. Make it with :func:`create`, find it with :func:`open_folder`.

    Attributes:
        root: the folder.
        name: name of the site.
    """

    root: Path
    name: str

    @property
    def private(self) -> Path:
        """Keys, audit log and approved studies; mode 0700."""
        return self.root / workspace.PRIVATE

    @property
    def request_path(self) -> Path:
        """The enrolment request."""
        return self.root / file_name("enrol", self.name)

    def approval_path(self, study: str) -> Path:
        """Return where the approval or refusal of a study lies, for sending it back."""
        return self.root / file_name("approval", study, self.name)

    def study_folder(self, study: str) -> Path:
        """Return the private folder of one study: the approved study file and the record of the approval."""
        _check_name(study)
        return self.private / STUDIES / study

    def runs(self, study: str) -> Path:
        """Return the folder of the run folders of a study."""
        _check_name(study)
        return self.root / RUNS / study

    def keys(self) -> EnrolmentKeys:
        """Return the site's private keys; DataError when they cannot be read."""
        return enrolment_keys.load(self.root, self.name)

    def log(self) -> AuditLog:
        """Return the site's audit log; DataError when it is missing."""
        return AuditLog.open(self.root, self.keys().signing)

    def policy(self) -> PolicyConfig:
        """Return the site's policy; PrivacyRefusal when it cannot be used."""
        return read_policy(self.root / POLICY)

    def rotate(self) -> EnrolmentKeys:
        """Replace the keys by new ones and return the old ones, which then serve no more.

        The old keys stay in ``private/retired``. The site needs a new enrolment in every study. A rotation
        that was interrupted is completed by the next one.

        Raises:
            DataError: the old keys or the audit log cannot be read.
            StorageError: the disk refused.
        """
        here = (self.private / enrolment_keys.KEYS).exists()
        place = enrolment_keys.KEYS if here else enrolment_keys.retired(self.root)[-1]
        old = enrolment_keys.load(self.root, self.name, folder=place)
        new = enrolment_keys.prepare_next(self.root, self.name)
        AuditLog.open(self.root, old.signing).rotate(new.signing)
        enrolment_keys.replace(self.root)
        return old


def create(root: Path, name: str, policy: PolicyConfig) -> SiteFolder:
    """Make the folder of a site with new keys, and return it.

    Args:
        root: the folder; must not exist, or hold at most a ``policy.toml``, which then is the policy.
        name: name of the site.
        policy: written to ``policy.toml`` when there is none.

    Raises:
        UsageError: the folder holds something else, or the name cannot be that of a site.
        StorageError: the disk refused.
    """
    check_new(root, name)
    folder = SiteFolder(root, name)
    keys = enrolment_keys.generate(name)
    enrolment_keys.store(root, keys)
    write_policy(root / POLICY, policy)
    AuditLog.create(root, keys.signing).append("keys made", site=name, fingerprint=keys.public.fingerprint())
    _write_record(folder.private / RECORD, SiteRecord(name=name, made=artifacts.now()))
    return folder


def check_new(root: Path, name: str) -> None:
    """Raise UsageError unless a site of this name can be made in a folder."""
    _check_name(name)
    if root.exists() and (not root.is_dir() or {path.name for path in root.iterdir()} - {POLICY}):
        what = "the folder exists and is not empty"
        raise UsageError(problem(what, where=str(root), fix="name another, or leave out --site"))


def open_folder(root: Path) -> SiteFolder:
    """Return the folder of a site.

    Raises:
        UsageError: it is none.
        DataError: its record is damaged.
    """
    path = root / workspace.PRIVATE / RECORD
    if not path.is_file():
        what = "this folder is no site" if root.exists() else "there is no such folder"
        fix = "`meninx federate enrol FOLDER --site NAME` makes one"
        raise UsageError(problem(what, where=str(root), fix=fix))
    return SiteFolder(root, _read_record(path).name)


def _check_name(name: str) -> None:
    if _PLAIN.fullmatch(name) is None or name == COORDINATOR:
        fix = "use lower-case letters, digits and dashes, e.g. st-marys"
        raise UsageError(problem("this cannot be the name of a site or study", where="name", fix=fix))


def _read_record(path: Path) -> SiteRecord:
    try:
        record = msgspec.json.decode(files.read_bytes(path, limit=_LIMIT), type=SiteRecord)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DataError(problem("the record of the site is damaged", where=f"private/{RECORD}")) from error
    _check_name(record.name)
    return record


def _write_record(path: Path, record: SiteRecord) -> None:
    content = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    files.write_bytes(path, content, mode=files.PRIVATE_MODE)
