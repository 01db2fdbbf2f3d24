"""The steps from the bytes of one instance to its clean bytes: read, clean, build the file, check the file.

The folder stage (:mod:`meninx.deid.worker`) and :class:`meninx.deid.Deidentifier` both use a
:class:`Cleaner`, so the same bytes, key and settings give the same clean bytes in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from meninx.deid import selfcheck, stated_ages, structured_content, tabulated_ages, walker, writer
from meninx.deid.actions import ACCESSION, BIRTH_DATE, FileContext
from meninx.deid.burned_in.pixel_cleaner import PixelCleaner, PixelReport
from meninx.deid.config import DeidConfig
from meninx.deid.faces import face_removal
from meninx.deid.faces.face_plans import SingleFilePlans
from meninx.deid.faces.face_removal import FaceReport, Plans
from meninx.deid.identifiers import collect
from meninx.deid.identity.issuer_policy import IssuerPolicy
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.lookup import Lookup
from meninx.deid.identity.pseudonyms import Pseudonyms, Resolver
from meninx.deid.identity.traits import traits
from meninx.deid.options import Option
from meninx.deid.profile import Action, Profile
from meninx.deid.raw_search import ByteKind
from meninx.deid.review import layouts
from meninx.dicomfile import compressed_bits, instance, pixels
from meninx.dicomfile.charset import UNDECODED
from meninx.dicomfile.elements import Element
from meninx.dicomfile.file_part import FilePart, Piece, windows_of
from meninx.dicomfile.high_bits import unused_bits
from meninx.dicomfile.instance import Instance
from meninx.dicomfile.refusals import Reason, Refused

_PATIENT_NAME, _SEX = 0x00100010, 0x00100040
_MOST_UIDS = 50_000  # in one file: its line of the journal stays below the longest one that is read
_NEW_UID = re.compile(r"2\.25\.[1-9]\d{0,38}")
_KEPT_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class CleanInstance:
    """A cleaned instance before its bytes are checked.

    It holds original identifiers (``original`` and ``context``), so it stays in the process that made it.

    Attributes:
        original: the instance as it was read, without the text and the face in its pixels that were removed.
        elements: the cleaned data set.
        context: identifiers, counts and replaced values of this file.
        pixels: what was found and done in the pixels.
        face: what was done about a face.
        study: new StudyInstanceUID.
        series: new SeriesInstanceUID.
        instance: new SOPInstanceUID.
    """

    original: Instance
    elements: list[Element]
    context: FileContext
    pixels: PixelReport
    face: FaceReport
    study: str
    series: str
    instance: str

    @property
    def actions(self) -> dict[str, dict[str, int]]:
        """Keyword -> action letter -> number of elements; sorted."""
        actions: dict[str, dict[str, int]] = {}
        for (keyword, letter), count in sorted(self.context.counts.items()):
            actions.setdefault(keyword, {})[letter] = count
        return actions

    @property
    def patient_id(self) -> str:
        """The original PatientID."""
        return self.original.patient_id

    @property
    def issuer(self) -> str:
        """The original issuer of the PatientID; empty when the file has neither."""
        return self.original.issuer if self.patient_id else ""

    @property
    def accessions(self) -> Mapping[str, str]:
        """The original accession number -> the new one; empty when the file has none."""
        number = self.original.distinct_text(ACCESSION)
        return {number: self.context.accessions[number]} if number in self.context.accessions else {}

    def traits(self) -> dict[str, list[str]]:
        """Return what the file says of its patient, as keyed digests; nothing without a PatientID."""
        if not self.patient_id:
            return {}
        digest = partial(self.context.resolver.pseudonyms.trait, self.context.patient.identity)
        name, birth_date, sex = (self.original.text(tag) for tag in (_PATIENT_NAME, BIRTH_DATE, _SEX))
        if UNDECODED in name:
            name = self.original.distinct_text(_PATIENT_NAME)
        return traits(digest, name=name, birth_date=birth_date, sex=sex)

    def path(self) -> str:
        """Return the path that new identifiers give the file: patient, study, series and instance."""
        context = self.context
        patient = context.patient.pseudonym
        if not _SAFE_NAME.fullmatch(patient):  # a hospital's own pseudonym may hold any printable character
            patient = context.resolver.pseudonyms.path_part(patient)
        return f"{patient}/{self.study}/{self.series}/{self.instance}.dcm"

    def public_texts(self, path: str) -> tuple[str, ...]:
        """Return the texts about the file that become public: its path, its line of the audit log."""
        return path, self.context.sop_class_uid, self.original.transfer_syntax

    def chunks(self) -> list[Piece]:
        """Return the bytes of the clean file in pieces, before the self-check."""
        return writer.file_chunks(self.elements, self.original)

    def checked_content(self) -> bytes:
        """Return the bytes of the clean file after the self-check.

        Raises:
            Refused: ``residual-identifier``, ``pixels-changed`` or ``processing-failed``.
        """
        content = b"".join(window for piece in self.chunks() for window in windows_of(piece))
        selfcheck.check(content, self.original, self.context)
        return content


@dataclass(frozen=True, kw_only=True)
class Cleaner:
    """Everything that decides the clean bytes of a file, besides the file.

    It keeps no state between files and may be shared by threads.

    Attributes:
        profile: action of every attribute.
        resolver: pseudonyms of the site.
        max_age: highest age that stays exact, in years.
        pixels: what is done about text in the pixels.
        faces: the plans by which faces are removed; None leaves them.
    """

    profile: Profile
    resolver: Resolver
    max_age: int = 89
    pixels: PixelCleaner = field(default_factory=PixelCleaner)
    faces: Plans | None = None

    @classmethod
    def from_config(
        cls, config: DeidConfig, key: SiteKey, policy: IssuerPolicy, lookup: Lookup | None, profile: Profile
    ) -> Cleaner:
        """Return the cleaner for these settings.

        Args:
            config: settings; its key and its files are not read here.
            key: the site's key.
            policy: which issuers number their patients together.
            lookup: the hospital's own pseudonyms, or None.
            profile: the compiled profile.
        """
        resolver = Resolver(Pseudonyms(key), policy, lookup, strict=config.missing_lookup == "quarantine")
        decisions = layouts.read_decisions(config.decisions) if config.decisions else ()
        reader = PixelCleaner(config.pixels, config.search_all, config.keep_measurements, decisions)
        faces = SingleFilePlans() if config.defacing == "head" else None
        return cls(profile=profile, resolver=resolver, max_age=config.max_age, pixels=reader, faces=faces)

    def clean(self, data: bytes | FilePart) -> CleanInstance:
        """Return the cleaned instance in the bytes of a file, or in a large file, which has to stay open.

        pydicom's warnings and log lines quote values: call this inside
        :func:`meninx.imaging.decode.quiet`.

        Raises:
            Refused: the file cannot be de-identified; with the reason code.
        """
        if len(data) > (instance.MOST_BYTES if isinstance(data, bytes) else instance.MOST_FILE):
            raise Refused(Reason.TOO_LARGE)
        original = instance.read(data)
        context = self._context(original)
        if original.pixels and _is_left_aligned(original):
            raise Refused(Reason.UNUSED_BITS)  # viewers and the search would not see the same picture
        original, report = self.pixels.clean(original, context.found)
        context.review, context.searched = report.unread, report.searched
        context.text_kept = report.kept_by_reviewer > 0
        original, syntax = _without_unused_bits(original, context), original.transfer_syntax
        report = replace(report, recoded=report.recoded or original.transfer_syntax != syntax)
        face = FaceReport()
        if self.faces is not None:
            original, face = face_removal.remove(original, self.faces)
            context.face = face.outcome
        elements = walker.clean(original.elements, original.encodings, context)
        elements = writer.finish(elements, original, context)
        if len(context.uids) > _MOST_UIDS:
            raise Refused(Reason.TOO_LARGE)
        named = (instance.STUDY, instance.SERIES, instance.SOP_INSTANCE)
        values = {e.tag: bytes(e.value) for e in elements if e.tag in named and e.items is None}
        study, series, sop = (self._written_uid(tag, values.get(tag, b"")) for tag in named)
        return CleanInstance(original, elements, context, report, face, study, series, sop)

    def _context(self, original: Instance) -> FileContext:
        study, sop_class = original.text(instance.STUDY), original.text(instance.SOP_CLASS)

        def keeps(tag: int, vr: str) -> bool:
            return self.profile.action(tag, vr, sop_class_uid=sop_class) == Action.K

        # What is read wrongly may be somebody else's ID in another file.
        if original.patient_id and not original.names_its_patient:
            raise Refused(Reason.IDENTITY_UNDECODABLE)
        found, kept = collect(original.elements, original.encodings, keeps)
        patient = self.resolver.patient(original.patient_id, original.issuer, study)
        stated = max(
            of_kind.highest(original.elements, original.encodings, little=original.encoding.little)
            for of_kind in (stated_ages, tabulated_ages)
        )
        births = writer.birth_days(original) if not keeps(BIRTH_DATE, "DA") else frozenset()
        return FileContext(
            profile=self.profile,
            resolver=self.resolver,
            patient=patient,
            sop_class_uid=sop_class,
            encoding=original.encoding,
            found=found,
            kept=kept,
            max_age=self.max_age,
            over_age=writer.is_over_age(original, self.max_age) or stated >= self.max_age + 1,
            birth_days=births,
            positions_matter=structured_content.refers_to_positions(original.elements),
        )

    def _written_uid(self, tag: int, value: bytes) -> str:
        """Return a UID of the cleaned data set, in the form in which it may become a path or a table row.

        Raises:
            Refused: ``invalid-uid``; the original value never takes its place.
        """
        uid = value.decode("latin-1").removesuffix("\0")
        kept = Option.RETAIN_UIDS in self.profile.options or self.profile.overrides_tag(tag)
        if not (_NEW_UID.fullmatch(uid) or (kept and len(uid) <= 64 and _KEPT_UID.fullmatch(uid))):
            raise Refused(Reason.INVALID_UID)
        return uid


def _is_left_aligned(original: Instance) -> bool:
    """Return whether the stored values do not end in the lowest bit, so that readers disagree about them."""
    bits = unused_bits(original.elements, little=original.encoding.little)
    return bits is not None and bits.low > 0


def _without_unused_bits(original: Instance, context: FileContext) -> Instance:
    """Return the instance without what stands in the unused bits of its pixels, and note the change.

    Raises:
        Refused: ``residual-identifier``; clearing some bits of a readable text would leave the others.
            ``unused-bits``; those of a compressed frame cannot be read or cleared.
    """
    before = [element.value for element in original.pixels]
    compressed = compressed_bits.of(original)
    if compressed is not None:
        clearing = compressed.clearing()
        context.bits_cleared = clearing is not None
        original = original if clearing is None else compressed.cleared(clearing)
    else:
        context.bits_cleared = pixels.clear_unused_bits(
            original.elements, original.transfer_syntax, little=original.encoding.little
        )
    searched = context.found.without(context.kept)
    if context.bits_cleared and any(searched.found_in_bytes(value, ByteKind.SAMPLES) for value in before):
        raise Refused(Reason.RESIDUAL_IDENTIFIER)
    return original


def reason_of(error: Exception) -> Reason:
    """Return the reason code of whatever went wrong with a file.

    A broken file may provoke any exception. Its text may quote a value, so only the code is passed on.
    """
    if isinstance(error, Refused):
        return error.reason
    return Reason.TOO_LARGE if isinstance(error, MemoryError) else Reason.PROCESSING_FAILED
