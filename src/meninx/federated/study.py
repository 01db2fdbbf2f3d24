"""A study: the coordinator's folder, and the study file that every site reads before it says yes.

``meninx federate new chest/`` makes the folder::

    chest/
      study.toml            settings of the study; edit them until the first site has approved
      study-chest.json      the signed study file: settings, code hash, enrolled sites, certificates
      approvals/            what the sites sent back
      private/              the coordinator's keys and audit log

The study file is the one thing that all sites sign. Its digest is part of the roster of secure aggregation,
so two sites that were shown different terms cannot even exchange a mask. Every change (settings, a new
site, a revoked key) gives a new revision with another digest, which needs every site's approval again.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tomli_w

from meninx.core import artifacts, files, names, settings, signed_file, signing_key, workspace
from meninx.core.errors import ConfigError, DataError, UsageError, expected, problem
from meninx.core.result import command
from meninx.core.signed_file import Statement
from meninx.federated import authority, code_hash, enrolment_keys
from meninx.federated.audit_log import AuditLog
from meninx.federated.code_hash import CodeVersion
from meninx.federated.config import MOST_SITES, NAME, StudyConfig, without_length
from meninx.federated.enrolment_keys import EnrolmentKeys, PublicKeys, words

CONFIG, APPROVALS, AUTHORITY_KEY, SERVER = "study.toml", "approvals", "authority.key", "server.pem"
COORDINATOR = "coordinator"
_TEXT_LIMIT = 1 << 18  # bytes of a study's settings
_HEX = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(NAME)


class CoordinatorKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What sites know of the coordinator.

    Attributes:
        signing: raw Ed25519 public key.
        authority: certificate of the study's authority, in DER.
    """

    signing: bytes
    authority: bytes

    def in_words(self) -> str:
        """Return the fingerprint of both as twelve words."""
        framed = len(self.signing).to_bytes(4, "big") + self.signing + self.authority
        return words(hashlib.sha256(b"meninx coordinator 1\0" + framed).digest())


class EnrolledSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site in the study file.

    Attributes:
        name: name of the site.
        signing: raw Ed25519 public key.
        node: ECDSA P-384 public key of its node, as SubjectPublicKeyInfo in DER.
        certificate: its TLS certificate from the study's authority, in DER.
    """

    name: str
    signing: bytes
    node: bytes
    certificate: bytes

    @property
    def keys(self) -> PublicKeys:
        """The public keys of the site.

        Raises:
            DataError: the certificate cannot be read.
        """
        tls = enrolment_keys.spki(authority.public_key(self.certificate, where=self.name))
        return PublicKeys(self.name, self.signing, self.node, tls)


class StudyFile(Statement, frozen=True, kw_only=True, tag="study"):
    """What is signed in ``study-NAME.json``.

    Attributes:
        id: identity of the study, 32 hexadecimal digits.
        revision: number of the revision, from 0.
        made: time, ISO 8601 in UTC.
        config: content of ``study.toml``.
        code: the code that every site must have installed.
        coordinator: keys of the coordinator.
        sites: enrolled sites, sorted by name.
        revoked: fingerprints of keys that may never take part again.
    """

    id: str
    revision: int
    made: str
    config: str
    code: CodeVersion
    coordinator: CoordinatorKeys
    sites: tuple[EnrolledSite, ...] = ()
    revoked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study file that was read and checked.

    Attributes:
        file: what is signed in it.
        config: its settings.
        digest: SHA-256 of what is signed; names this revision.
        content: the bytes of the file.
    """

    file: StudyFile
    config: StudyConfig
    digest: str
    content: bytes

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.name

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of the enrolled sites, sorted."""
        return tuple(site.name for site in self.file.sites)

    def site(self, name: str) -> EnrolledSite | None:
        """Return an enrolled site by its name; None when it is not in the study."""
        return next((site for site in self.file.sites if site.name == name), None)

    def in_words(self) -> str:
        """Return the digest as twelve words."""
        return words(bytes.fromhex(self.digest))


def read_study(path: Path) -> Study:
    """Return the study in a file that may come from anybody.

    Raises:
        DataError: it is too large, damaged, or contradicts itself.
        ConfigError: its settings are refused.
        PrivacyRefusal: it is not signed by the coordinator that it names, or a certificate is not from its
            authority. Whether certificates are valid now is another question (:func:`check_dates`).
    """
    return study_of(files.read_bytes(path, limit=signed_file.LIMIT), where=path.name)


def study_of(content: bytes, *, where: str) -> Study:
    """Return the study in the bytes of a study file; raises as :func:`read_study`."""
    file = signed_file.read(content, StudyFile, where=where)
    enrolment_keys.ed25519(file.coordinator.signing, where=where)
    signed_file.check_signature(content, file.coordinator.signing, where=where)
    _check_form(file, where)
    config = config_of(file.config, where=f"{where}, settings")
    config.data.info()
    if not is_name(config.name):
        raise DataError(problem("the study has no usable name", where=where))
    _check_sites(file, config, where)
    return Study(file, config, signed_file.digest(content, where=where), content)


def check_dates(study: Study) -> None:
    """Refuse a study with a certificate that is not valid now.

    Raises:
        PrivacyRefusal: names the site.
    """
    for site in study.file.sites:
        authority.check_dates(site.certificate, site.name, where="certificates")


def config_of(text: str, *, where: str) -> StudyConfig:
    """Return a study's settings from TOML.

    Raises:
        ConfigError: it is no TOML, or a setting is refused.
        DataError: it is too large.
    """
    if len(text.encode()) > _TEXT_LIMIT:
        raise DataError(expected(f"settings of at most {_TEXT_LIMIT:,} bytes", got="more", where=where))
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(problem("the settings are not valid TOML", where=where)) from error
    config = settings.build(StudyConfig, table, where)
    names.check([config.name], what="study", where=where)
    return config


@dataclass(frozen=True)
class StudyFolder:
    """The coordinator's folder of a study. Make it with :func:`create`, find it with :func:`open_folder`.

    Attributes:
        root: the folder.
        name: name of the study.
    """

    root: Path
    name: str

    @property
    def study_path(self) -> Path:
        """The study file."""
        return self.root / file_name("study", self.name)

    @property
    def approvals(self) -> Path:
        """Folder of what the sites sent back."""
        return self.root / APPROVALS

    @property
    def private(self) -> Path:
        """Keys, audit log and the state of runs; mode 0700."""
        return self.root / workspace.PRIVATE

    @property
    def server_certificate_path(self) -> Path:
        """TLS certificate of the coordinator's address, followed by that of the authority, in PEM."""
        return self.root / SERVER

    @property
    def server_key_path(self) -> Path:
        """Private key of the TLS certificate, in PEM."""
        return enrolment_keys.tls_key_path(self.root)

    def keys(self) -> EnrolmentKeys:
        """Return the coordinator's private keys; DataError when they cannot be read."""
        return enrolment_keys.load(self.root, COORDINATOR)

    def log(self) -> AuditLog:
        """Return the coordinator's audit log; DataError when it is missing."""
        return AuditLog.open(self.root, self.keys().signing)

    def config(self) -> StudyConfig:
        """Return the settings as ``study.toml`` has them now; raises as :func:`config_of`."""
        text = files.read_text(self.root / CONFIG, limit=_TEXT_LIMIT)
        return config_of(text, where=CONFIG)

    def study(self) -> Study:
        """Return the study as it was last published.

        Raises:
            UsageError: ``study.toml`` was changed since.
            DataError, PrivacyRefusal: the study file is damaged, or not signed by this coordinator.
        """
        study = self.published()
        if self.config().resolved() != study.config.resolved():
            publish = command("federate", "enrol", self.root)
            fix = f"publish it with {publish}; every site must approve the study again"
            raise UsageError(problem("study.toml was changed since it was published", where=CONFIG, fix=fix))
        return study

    def published(self) -> Study:
        """Return the study file, whatever ``study.toml`` says now; raises as :meth:`study`."""
        study = read_study(self.study_path)
        own = self.keys().public.signing
        signed_file.check_signature(study.content, own, where=self.study_path.name)
        return study

    def publish(self, sites: Iterable[EnrolledSite], revoked: Iterable[str] = ()) -> Study:
        """Write the next revision of the study file and return it; an unchanged study keeps its revision.

        Args:
            sites: all sites that are enrolled now.
            revoked: fingerprints of all keys that are revoked now.

        Raises:
            ConfigError: the settings are refused.
            DataError, PrivacyRefusal: the result would be refused by a site.
            StorageError: the disk refused.
        """
        before = self.published()
        changed = msgspec.structs.replace(
            before.file,
            config=settings.to_toml(self.config().resolved()),
            code=code_hash.installed(),
            sites=tuple(sorted(sites, key=lambda site: site.name)),
            revoked=tuple(sorted(revoked)),
        )
        if changed == before.file:
            return before
        changed = msgspec.structs.replace(changed, revision=before.file.revision + 1, made=artifacts.now())
        study = study_of(signed_file.seal(changed, self.keys().signing), where=self.study_path.name)
        if study.config.study.host != before.config.study.host:
            self._certify(study)
        files.write_bytes(self.study_path, study.content)
        self.log().append("study published", revision=changed.revision, digest=study.digest)
        return study

    def issue(self, keys: PublicKeys, *, hosts: Iterable[str] = ()) -> bytes:
        """Return a certificate of the study's authority for somebody's TLS key, in DER."""
        key = enrolment_keys.read_ec_key(self.private / AUTHORITY_KEY)
        root = self.published().file.coordinator.authority
        public = enrolment_keys.p384(keys.tls, where=keys.name)
        return authority.issue(root, key, public, keys.name, hosts=hosts)

    def _certify(self, study: Study) -> None:
        root = study.file.coordinator.authority
        key = enrolment_keys.read_ec_key(self.private / AUTHORITY_KEY)
        public = enrolment_keys.p384(self.keys().public.tls, where=COORDINATOR)
        server = authority.issue(root, key, public, COORDINATOR, hosts=[study.config.study.host])
        files.write_bytes(self.server_certificate_path, authority.pem(server) + authority.pem(root))


def create(root: Path, config: StudyConfig) -> StudyFolder:
    """Make a study folder with the coordinator's keys, and return it.

    Args:
        root: the folder; must not exist, or be empty.
        config: settings of the study; without a name it is called like the folder.

    Raises:
        UsageError: the folder holds something, or its name cannot be that of a study.
        ConfigError: the settings are incomplete.
        StorageError: the disk refused.
    """
    config = named(config, root)
    config.data.info()
    check_new(root)
    folder = StudyFolder(root, config.name)
    keys = enrolment_keys.generate(COORDINATOR)
    certifier = enrolment_keys.generate("authority").tls
    certificate = authority.self_signed(certifier, config.name)
    enrolment_keys.store(root, keys)
    files.write_bytes(folder.private / AUTHORITY_KEY, signing_key.pem(certifier), mode=files.PRIVATE_MODE)
    text = settings.to_toml(config.resolved())
    editable = settings.to_table(config.resolved())  # people edit it; its length follows from the rounds
    editable["train"] = without_length(editable["train"])
    files.write_text(root / CONFIG, tomli_w.dumps(editable))
    file = StudyFile(
        id=secrets.token_hex(16),
        revision=0,
        made=artifacts.now(),
        config=text,
        code=code_hash.installed(),
        coordinator=CoordinatorKeys(signing=keys.public.signing, authority=certificate),
    )
    study = study_of(signed_file.seal(file, keys.signing), where=folder.study_path.name)
    log = AuditLog.create(root, keys.signing)
    folder._certify(study)
    files.write_bytes(folder.study_path, study.content)
    log.append("study made", study=config.name, id=file.id, digest=study.digest)
    return folder


def check_new(root: Path) -> None:
    """Raise UsageError unless a study can be made in a folder."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(problem("the folder exists and is not empty", where=str(root), fix="name another"))


def open_folder(root: Path) -> StudyFolder:
    """Return the coordinator's folder of a study.

    Raises:
        UsageError: it is none.
        ConfigError, DataError: its settings cannot be read.
    """
    if not (root / CONFIG).is_file() or not (root / workspace.PRIVATE).is_dir():
        what = "this folder is no study of a coordinator" if root.exists() else "there is no such folder"
        fix = "`meninx federate new STUDY` makes one"
        raise UsageError(problem(what, where=str(root), fix=fix))
    text = files.read_text(root / CONFIG, limit=_TEXT_LIMIT)
    return StudyFolder(root, config_of(text, where=CONFIG).name)


def named(config: StudyConfig, root: Path) -> StudyConfig:
    """Return the settings with a name: their own, or that of the folder.

    Raises:
        UsageError: the folder's name cannot be that of a study.
    """
    if config.study.name is not None:
        return config
    name = root.resolve().name
    if not is_name(name):
        fix = "give --name with lower-case letters, digits and dashes"
        raise UsageError(
            problem("the name of the folder cannot be that of a study", where=str(root), fix=fix)
        )
    return config.replace(name=name)


def is_name(word: str) -> bool:
    """Return whether a word can be the name of a study or a site."""
    return _NAME.fullmatch(word) is not None


def file_name(kind: str, *parts: str) -> str:
    """Return the name of a file that is exchanged, e.g. ``study-chest.json``.

    Raises:
        DataError: a part is no name of a study or site.
    """
    if not all(is_name(part) for part in parts):
        raise DataError(problem("a name of a study or site cannot name a file", where=kind))
    return f"{'-'.join((kind, *parts))}.json"


def _check_form(file: StudyFile, where: str) -> None:
    """Refuse a study file with values out of their form, before anything is made of them."""
    digests = (file.code.digest, *file.revoked)
    if _ID.fullmatch(file.id) is None or not all(_HEX.fullmatch(value) for value in digests):
        raise DataError(problem("an identity or a digest has another form", where=where))
    if file.revision < 0 or len(file.sites) > MOST_SITES or len(file.revoked) > 1000:
        raise DataError(problem("a number is out of its range", where=where))
    names.check([file.made, file.code.version], what="text", where=where)
    authority.public_key(file.coordinator.authority, where=where)


def _check_sites(file: StudyFile, config: StudyConfig, where: str) -> None:
    """Refuse unsorted, uninvited and revoked sites, shared names or keys, and foreign certificates."""
    own = [site.name for site in file.sites]
    if own != sorted(set(own)) or not all(is_name(name) for name in own) or COORDINATOR in own:
        raise DataError(problem("the names of the sites are not sorted names of sites", where=where))
    if config.sites.names and not set(own) <= set(config.sites.names):
        raise DataError(problem("a site takes part that is not invited", where=where))
    used: set[bytes] = {file.coordinator.signing}
    for site in file.sites:
        enrolment_keys.ed25519(site.signing, where=where)
        enrolment_keys.p384(site.node, where=where)
        authority.check_issued(site.certificate, file.coordinator.authority, site.name, where=where)
        keys = site.keys
        if used & {keys.signing, keys.node, keys.tls} or keys.node == keys.tls:
            raise DataError(problem(f"{site.name} has a key of somebody else", where=where))
        used |= {keys.signing, keys.node, keys.tls}
        if keys.fingerprint() in file.revoked:
            raise DataError(problem(f"the keys of {site.name} are revoked", where=where))
