"""What a site has seen of its patient IDs, kept from one delivery to the next and sealed with the site key.

The pseudonym of a patient is computed, never drawn or stored
(:class:`meninx.deid.identity.pseudonyms.Resolver`). The registry records which issuer
used which PatientID, so that a later delivery that contradicts an earlier one is noticed. It refuses

- a PatientID that two unlisted issuers of one domain use (``issuer-conflict``): they may be two people,
- a new PatientID of a lookup table that an earlier table gave to somebody else (``lookup-conflict``),
- a policy that would give patients of earlier deliveries other pseudonyms.

It also notices patients whose instances contradict each other in name, birth date or sex
(:mod:`meninx.deid.identity.traits`), in whatever deliveries they come. That keeps nothing out.

One registry serves all deliveries of a site and any number of processes on a machine: the folder stage, and
every :class:`meninx.deid.Deidentifier`.

On disk, one line of text per fact, after a first line with the format and the fingerprint of key and site::

    claim <PatientID> <domain> <issuer> <new PatientID> <seal>
    conflict <PatientID> <domain> <issuer> <new PatientID> <seal>
    traits <PatientID> <domain> <name, birth date and sex> <seal>

Every value is a keyed digest (HMAC-SHA-256, 128 bits); no name, ID or issuer can be read from the file
without the site key and a list of candidates. Every seal covers its line and the seal before it. Lines are
only ever appended, under a lock beside the file, and synchronised to disk. A file of format 1 stays one and
gets no line ``traits``.

Example:
    >>> from meninx.deid.identity.keys import SiteKey
    >>> from meninx.deid.identity.issuer_policy import IssuerPolicy
    >>> from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
    >>> key = SiteKey(bytes(range(32)), "north")
    >>> people = Resolver(Pseudonyms(key), IssuerPolicy("north"))
    >>> registry = IdentityRegistry(None, key, people.policy)
    >>> for issuer in ("PACS-1", "", "PACS-2"):
    ...     patient = people.patient("7001", issuer)
    ...     print(registry.admit("7001", issuer, patient.domain, patient.pseudonym) or "admitted")
    admitted
    admitted
    issuer-conflict
"""

from __future__ import annotations

import hmac
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from meninx.core import files
from meninx.core.errors import (
    DataError,
    LayoutError,
    PrivacyRefusal,
    RunLocked,
    StorageError,
    expected,
    problem,
)
from meninx.core.result import Result
from meninx.core.summaries import number_of
from meninx.deid.identity.issuer_policy import OWN, IssuerPolicy
from meninx.deid.identity.keys import SiteKey, framed, normal, refuse_open_to_others, refuse_pickle
from meninx.deid.identity.traits import MOST_VARIANTS, Traits, contradictions
from meninx.dicomfile.refusals import Reason

FORMAT, _WITHOUT_TRAITS = "2", "1"
_TITLE = "meninx-identity-registry"
_CLAIM, _CONFLICT, _TRAITS = b"claim", b"conflict", b"traits"
_DIGEST = 16  # bytes of a digest
_SEAL = 32  # bytes of a seal
_LONGEST = 1024  # bytes of a line
_PATIENCE = 60.0  # seconds to wait for another process, which holds the lock for one line


class IdentityFact(NamedTuple):
    """One PatientID with one issuer, as digests.

    Attributes:
        patient: of the normalised PatientID.
        domain: of the name of the domain.
        issuer: of the normalised issuer.
        new: of the new PatientID.
    """

    patient: bytes
    domain: bytes
    issuer: bytes
    new: bytes


@dataclass(frozen=True, kw_only=True)
class IssuerCount:
    """What the registry holds of one issuer in one domain. Names are those that the policy lists.

    Attributes:
        issuer: its normalised name; where the policy does not list it, the first digits of its keyed digest;
            empty for files without an issuer.
        domain: likewise; ``site`` is the site's own domain.
        patients: PatientIDs that were admitted.
        kept_out: PatientIDs whose files were quarantined, because they may be somebody else's.
    """

    issuer: str
    domain: str
    patients: int
    kept_out: int


@dataclass(frozen=True, kw_only=True)
class RegistryReport(Result):
    """What a registry holds, as numbers; ``out`` is its file.

    Attributes:
        patients: distinct patients, as (domain, PatientID).
        shared_ids: PatientIDs that more than one domain uses, each for another patient.
        split_ids: those that also occur without an issuer: they may be one person, whose reports leave the
            issuer out.
        kept_out: pairs of PatientID and issuer that are kept out.
        contradicting: patients whose instances contradict each other in name, birth date or sex.
        issuers: one count per issuer and domain.
        signer: fingerprint of the key that signs the site's archives; empty where nobody asked for it.
    """

    patients: int
    shared_ids: int
    split_ids: int
    kept_out: int
    contradicting: int
    issuers: tuple[IssuerCount, ...]
    signer: str = ""

    def summary(self) -> str:
        """Return the numbers as a table."""
        rows = [("issuer", "domain", "patients", "kept out")]
        rows += [
            (one.issuer or "(none)", one.domain, f"{one.patients:,}", f"{one.kept_out:,}")
            for one in self.issuers
        ]
        wide = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [
            f"{self.out.name}: {number_of(self.patients, 'patient')}",
            number_of(self.shared_ids, "PatientID means", "PatientIDs mean")
            + " another patient in another domain, "
            + number_of(self.split_ids, "of them occurs", "of them occur")
            + " without an issuer, too",
            number_of(self.kept_out, "PatientID of an issuer is", "PatientIDs of an issuer are")
            + " kept out",
            number_of(self.contradicting, "patient has", "patients have")
            + " instances with contradicting name, birth date or sex",
            *(f"  {row[0]:<{wide[0]}}  {row[1]:<{wide[1]}}  {row[2]:>9}  {row[3]:>9}" for row in rows),
            *([f"archives are signed by {self.signer}"] if self.signer else []),
        ]
        return "\n".join(lines)


def usual_place(key: Path, site: str) -> Path:
    """Return where the registry of a site lies: beside the key, named after key and site.

    Links are followed, so all names of a key lead to one registry.

    >>> usual_place(Path("keys/north.key"), "North 1").name
    'north.key.north-1.registry'
    """
    plain = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in normal(site))
    real = key.resolve()
    return real.with_name(f"{real.name}.{plain[:40]}.registry")


class IdentityRegistry:
    """The facts of one site, in a file or (without a path) in memory.

    Guarantee: two patients of a domain are never admitted under one identity, as far as their issuers differ
        and the policy does not declare these one domain; whichever process, delivery or order they come in.
        A process that is killed at any instant leaves a registry that works. A line that was changed,
        removed from the middle, added or copied from another site makes the registry refuse to be opened.
        Lines cut from the end, or an older copy put in its place, cannot be noticed from the file alone; the
        facts of an output folder are added again when a run continues it.

    Args:
        path: the file; made with the first fact. None keeps the facts in memory.
        key: the site's key; only digests made with it are written.
        policy: which issuers number their patients together.
        frozen: write nothing, for a dry run; new facts stay in memory.

    Raises:
        PrivacyRefusal: the file belongs to another key or site, was changed, can be read or written by
            others, or records identities that the policy would change.
        LayoutError: the file is no registry, or of another version.
    """

    def __init__(
        self, path: Path | None, key: SiteKey, policy: IssuerPolicy, *, frozen: bool = False
    ) -> None:
        self.path, self.policy, self._frozen = path, policy, frozen
        self._key, self._fingerprint, self.site = key.derive("registry"), key.fingerprint(), key.site
        self._own, self._absent = self._digest("name", key.site), self._digest("name", "")
        self._listed = {
            self._digest("name", issuer): self._digest("name", name or key.site)
            for issuer, name in policy.domains.items()
        }
        self._listed[self._own] = self._own
        # About 700 bytes per patient. A person is the digests of PatientID and domain.
        self._issuers: dict[bytes, tuple[bytes, ...]] = {}  # person -> issuers
        self._owners: dict[bytes, bytes] = {}  # new PatientID -> person
        self._domains: dict[bytes, bytes] = {}  # issuer -> its domain in every fact
        self._variants: dict[bytes, tuple[bytes, ...]] = {}  # person -> traits of its instances
        self._format = FORMAT
        self._conflicts: set[tuple[bytes, bytes]] = set()  # person, issuer
        self._checked = 0  # number of domains that fit the policy
        self._end, self._seal = 0, b""  # of the lines read so far
        self._threads = threading.Lock()
        with self._threads:
            self._read_on()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a worker process that is being started; see :func:`.keys.refuse_pickle`."""
        refuse_pickle()
        return self.__dict__

    def admit(
        self, patient_id: str, issuer: str, domain: str, new_id: str, said: Traits | None = None
    ) -> Reason | None:
        """Return None and record a patient's ID and issuer; or return why its files are kept out.

        A fact that is known is admitted without touching the disk. A patient without a PatientID is never
        recorded.

        Args:
            patient_id: the original PatientID.
            issuer: the original issuer; may be empty.
            domain: the issuer's domain under the policy; empty for the site's own.
            new_id: the new PatientID.
            said: what the instance says of the patient, as keyed digests.

        Raises:
            PrivacyRefusal: the file was changed since it was opened, or another process works under a policy
                that contradicts this one.
            RunLocked: another process holds the registry for a minute.
            StorageError: the disk refused.
        """
        if not normal(patient_id):
            return None
        fact = IdentityFact(
            self._digest("patient", normal(patient_id)),
            self._digest("name", domain or self.site),
            self._digest("name", normal(issuer)),
            self._digest("new", normal(new_id)),
        )
        variant = _packed(said or {})
        if self._is_known(fact) and self._has(fact, variant):  # without waiting: facts are only ever added
            return None
        with self._threads:
            if self.path is None or self._frozen:
                return self._judged(fact, variant, None)
            with self._locked(self.path):
                self._read_on()
                return self._judged(fact, variant, self.path)

    def contradictions(self, patient_id: str, domain: str) -> tuple[str, ...]:
        """Return in which of name, birth date and sex the instances of a patient contradict each other.

        All deliveries count that the registry has seen.

        Args:
            patient_id: the original PatientID.
            domain: its domain under the policy; empty for the site's own.
        """
        person = self._digest("patient", normal(patient_id)) + self._digest("name", domain or self.site)
        return contradictions([_unpacked(variant) for variant in self._variants.get(person, ())])

    def gave(self, patient_id: str) -> bool:
        """Return whether a PatientID is a new one that the site gave a patient, in a delivery seen so far."""
        return self._digest("new", normal(patient_id)) in self._owners

    def report(self) -> RegistryReport:
        """Return numbers: of patients, per issuer, and of what is kept out."""
        with self._threads:
            self._read_on()
            return self._report()

    def _digest(self, kind: Literal["name", "patient", "new"], text: str) -> bytes:
        return hmac.digest(self._key, framed(kind, text), "sha256")[:_DIGEST]

    def _is_known(self, fact: IdentityFact) -> bool:
        person = fact.patient + fact.domain
        return fact.issuer in self._issuers.get(person, ()) and self._owners.get(fact.new) == person

    def _has(self, fact: IdentityFact, variant: bytes) -> bool:
        known = self._variants.get(fact.patient + fact.domain, ())
        return not variant or variant in known or len(known) >= MOST_VARIANTS

    def _judged(self, fact: IdentityFact, variant: bytes, path: Path | None) -> Reason | None:
        """Record what is new, as a claim or as a conflict, and return the reason of a conflict."""
        reason = None if self._is_known(fact) else self._conflict(fact)
        if reason is not None and (fact.patient + fact.domain, fact.issuer) in self._conflicts:
            return reason
        lines = []
        if not self._is_known(fact):
            lines.append((_CLAIM if reason is None else _CONFLICT, *(part.hex().encode() for part in fact)))
        if reason is None and not self._has(fact, variant):
            lines.append((_TRAITS, fact.patient.hex().encode(), fact.domain.hex().encode(), variant))
        if path is not None:
            written = [line for line in lines if line[0] != _TRAITS or self._format != _WITHOUT_TRAITS]
            self._append(path, *map(b" ".join, written))
        for word, *values in lines:
            self._take(word, values)
        return reason

    def _conflict(self, fact: IdentityFact) -> Reason | None:
        """Return why a fact contradicts the facts that are recorded."""
        person = fact.patient + fact.domain
        if len({self._group(issuer) for issuer in (*self._issuers.get(person, ()), fact.issuer)} - {b""}) > 1:
            return Reason.ISSUER_CONFLICT
        return None if self._owners.get(fact.new, person) == person else Reason.LOOKUP_CONFLICT

    def _group(self, issuer: bytes) -> bytes:
        """Return what tells issuers of one domain apart: nothing for files without an issuer."""
        if issuer == self._absent:
            return b""
        return b"listed" if issuer in self._listed else issuer

    def _take(self, word: bytes, values: Sequence[bytes]) -> None:
        """Take in the values of one line."""
        if word == _TRAITS:
            person = bytes.fromhex((values[0] + values[1]).decode("ascii"))
            self._variants[person] = (*self._variants.get(person, ()), values[2])
            return
        fact = IdentityFact(*(bytes.fromhex(value.decode("ascii")) for value in values))
        person = fact.patient + fact.domain
        if word == _CONFLICT:
            self._conflicts.add((person, fact.issuer))
            return
        known = self._issuers.get(person, ())
        if fact.issuer not in known:
            self._issuers[person] = (*known, fact.issuer)
        self._owners.setdefault(fact.new, person)
        if self._domains.setdefault(fact.issuer, fact.domain) != fact.domain:
            raise PrivacyRefusal(_other_policy(1))

    def _check_policy(self) -> None:
        """Refuse a policy under which an issuer of the registry would belong to another domain.

        Raises:
            PrivacyRefusal: with the number of issuers.
        """
        misfits = sum(self._policy_domain(issuer, was) != was for issuer, was in self._domains.items())
        if misfits:
            raise PrivacyRefusal(_other_policy(misfits))
        self._checked = len(self._domains)

    def _policy_domain(self, issuer: bytes, was: bytes) -> bytes:
        if issuer in self._listed:
            return self._listed[issuer]
        if issuer == self._absent or self.policy.rule == "site":
            return self._own
        return issuer if self.policy.rule == "separate" else was

    def _report(self) -> RegistryReport:
        patients: Counter[tuple[bytes, bytes]] = Counter()
        domains, nameless = Counter[bytes](), set[bytes]()
        for person, issuers in self._issuers.items():
            domains[person[:_DIGEST]] += 1
            if self._absent in issuers:
                nameless.add(person[:_DIGEST])
            patients.update((issuer, person[_DIGEST:]) for issuer in issuers)
        admitted = {
            (person[:_DIGEST], issuer) for person, issuers in self._issuers.items() for issuer in issuers
        }
        waiting: Counter[tuple[bytes, bytes]] = Counter(
            (issuer, person[_DIGEST:])
            for person, issuer in self._conflicts
            if (person[:_DIGEST], issuer) not in admitted
        )
        names = {self._digest("name", name): name for name in self.policy.names}
        names.update({self._own: OWN, self._absent: ""})
        counts = [
            IssuerCount(
                issuer=self.site if issuer == self._own else names.get(issuer, issuer.hex()[:8]),
                domain=names.get(domain, domain.hex()[:8]),
                patients=patients[issuer, domain],
                kept_out=waiting[issuer, domain],
            )
            for issuer, domain in patients.keys() | waiting.keys()
        ]
        return RegistryReport(
            out=self.path or Path(),
            patients=len(self._issuers),
            shared_ids=sum(number > 1 for number in domains.values()),
            split_ids=sum(domains[one] > 1 for one in nameless),
            kept_out=sum(waiting.values()),
            contradicting=sum(
                bool(contradictions([_unpacked(variant) for variant in variants]))
                for variants in self._variants.values()
            ),
            issuers=tuple(sorted(counts, key=lambda one: (one.domain != OWN, one.domain, one.issuer))),
        )

    # the file

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        lock = FileLock(path.with_name(f"{path.name}.lock"), mode=files.PRIVATE_MODE)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_PATIENCE, poll_interval=0.01)
        except Timeout as error:
            fix = "wait for it, or end it"
            raise RunLocked(
                problem("another process holds the identity registry", where=path.name, fix=fix)
            ) from error
        except OSError as error:
            raise _unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def _head(self) -> bytes:
        return f"{_TITLE} {self._format} {self._fingerprint}".encode()

    def _line(self, body: bytes) -> bytes:
        return body + b" " + self._sealed(body).hex().encode() + b"\n"

    def _sealed(self, body: bytes) -> bytes:
        return hmac.digest(self._key, framed("seal") + self._seal + body, "sha256")[:_SEAL]

    def _read_on(self) -> None:
        """Take in the lines that were added since the last look; an incomplete last line is left out.

        Raises:
            PrivacyRefusal: the file was changed, or belongs to another key or site.
            LayoutError: the file is no registry of this version.
        """
        if self.path is None or (self._end == 0 and not os.path.lexists(self.path)):
            return
        try:
            stream = files.regular(self.path)
        except DataError as error:
            fix = "restore it from a backup, or name another one with --registry"
            raise LayoutError(
                problem("the identity registry cannot be read", where=self.path.name, fix=fix)
            ) from error
        with stream:
            refuse_open_to_others(self.path, stream, "identity registry")
            if os.fstat(stream.fileno()).st_size < self._end:
                raise _changed(self.path)
            stream.seek(self._end)
            while (line := stream.readline(_LONGEST)).endswith(b"\n"):
                self._read_line(self.path, line[:-1])
                self._end += len(line)
            if self._end == 0 and not self._line(self._head()).startswith(line):
                raise self._no_registry(self.path)  # a small file of the user, which must not be cut
            if len(line) == _LONGEST:
                raise _changed(self.path)
        if len(self._domains) != self._checked:
            self._check_policy()

    def _read_line(self, path: Path, line: bytes) -> None:
        body, _, seal = line.rpartition(b" ")
        if self._end == 0:
            self._check_head(path, body)
        expected_seal = self._sealed(body)
        if not hmac.compare_digest(expected_seal.hex().encode(), seal):
            raise _changed(path)
        if self._end:
            word, *values = body.split(b" ")
            self._take(word, values)
        self._seal = expected_seal

    def _check_head(self, path: Path, head: bytes) -> None:
        title, _, rest = head.partition(b" ")
        if title != _TITLE.encode():
            raise self._no_registry(path)
        version = rest.partition(b" ")[0].decode("latin-1")
        if version not in (FORMAT, _WITHOUT_TRAITS):
            fix = "use the version of meninx that wrote it"
            got = "an unknown one" if not version.isdecimal() else version[:9]
            raise LayoutError(
                expected(f"an identity registry of format {FORMAT}", got=got, where=path.name, fix=fix)
            )
        self._format = version
        if head != self._head():
            fix = "give the key and the site that it was made with, or name another registry with --registry"
            got = "that of another key or site"
            raise PrivacyRefusal(
                expected("the identity registry of this key and site", got=got, where=path.name, fix=fix)
            )

    def _no_registry(self, path: Path) -> LayoutError:
        fix = "name another file with --registry; it is made when there is none"
        return LayoutError(problem("the file is no identity registry", where=path.name, fix=fix))

    def _append(self, path: Path, *bodies: bytes) -> None:
        """Add lines; the lock is held and every earlier line was read.

        Raises:
            StorageError: the disk refused.
        """
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            with os.fdopen(os.open(path.resolve(), flags, files.PRIVATE_MODE), "wb", buffering=0) as stream:
                new = self._end == 0
                stream.truncate(self._end)  # a line that a killed process left incomplete
                stream.seek(self._end)
                for text in (self._head(), *bodies) if new else bodies:
                    line = self._line(text)
                    if stream.write(line) != len(line):
                        raise OSError("a short write")
                    self._end, self._seal = self._end + len(line), self._sealed(text)
                os.fsync(stream.fileno())
            if new and hasattr(os, "O_DIRECTORY"):
                _synchronise(path.resolve().parent)
        except OSError as error:
            raise _unwritable(error) from error


def _packed(said: Traits) -> bytes:
    """Return traits as one word of a line; empty if there are none."""
    kinds = (f"{kind.replace(' ', '-')}:{','.join(digests)}" for kind, digests in sorted(said.items()))
    return ";".join(kinds).encode("ascii")


def _unpacked(word: bytes) -> dict[str, list[str]]:
    pairs = (one.partition(":") for one in word.decode("ascii").split(";"))
    return {kind: digests.split(",") for kind, _, digests in pairs}


def _synchronise(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _other_policy(issuers: int) -> str:
    fix = (
        "list them in --issuer-domains in the domain that they had, or begin again with another --registry "
        "and a new output folder"
    )
    got = f"one that gives the patients of {number_of(issuers, 'issuer')} other ones"
    rule = "an issuer policy under which earlier pseudonyms stay"
    return expected(rule, got=got, where="issuers", fix=fix)


def _changed(path: Path) -> PrivacyRefusal:
    fix = "restore it from a backup, or begin again with another --registry and a new output folder"
    what = "the identity registry was changed since meninx wrote it"
    return PrivacyRefusal(problem(what, where=path.name, fix=fix))


def _unwritable(error: OSError) -> StorageError:
    fix = "name a file in a folder that you can write to with --registry FILE (in Python, registry=)"
    got = error.strerror or "a write error"
    return StorageError(expected("a place for the identity registry", got=got, where="registry", fix=fix))
