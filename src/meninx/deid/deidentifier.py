"""De-identification of one instance in memory, for services and scripts that have no folder."""

from __future__ import annotations

import copy
import inspect
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from meninx.core import value_caches
from meninx.core.errors import ConfigError, DataError, expected
from meninx.deid import selfcheck, writer
from meninx.deid.cleaner import Cleaner, CleanInstance, reason_of
from meninx.deid.config import Defacing, DeidConfig, MissingLookup, Pixels, ProfileName
from meninx.deid.identity.identity_registry import IdentityRegistry, usual_place
from meninx.deid.identity.issuer_policy import IssuerRule, MissingIssuer
from meninx.deid.identity.keys import KeyFile, SiteKey
from meninx.deid.identity.lookup import read_lookup
from meninx.deid.options import Option, parse
from meninx.deid.profile import Action
from meninx.dicomfile.instance import MOST_BYTES
from meninx.dicomfile.refusals import Reason, Refused
from meninx.imaging.decode import quiet

_PIECE = 16 << 20  # bytes of a stream that are read at a time


class Quarantined(DataError):
    """An instance in memory cannot be de-identified; the folder stage would quarantine it.

    The message holds the reason code and no value of the file. The exception has no cause and no context,
    because the errors of a parser quote values.

    Attributes:
        reason: the code, as ``private/quarantine.csv`` of the folder stage names it.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"expected an instance that can be de-identified, got {reason}")
        self.reason = reason

    def __reduce__(self) -> tuple[type[Quarantined], tuple[Reason]]:
        return Quarantined, (self.reason,)


class Readable(Protocol):
    """A binary stream."""

    def read(self, size: int = ..., /) -> bytes:
        """Return at most ``size`` bytes."""
        ...


Source = Dataset | bytes | bytearray | memoryview | Readable


@dataclass(frozen=True, kw_only=True)
class DeidentifiedInstance:
    """A clean instance and what was done to it. Beside what the settings keep, it holds no original value.

    Attributes:
        content: the bytes of the clean DICOM file.
        path: a relative path made of the new identifiers, as the folder stage names the file below
            ``images``.
        patient_id: the new PatientID.
        study_uid: the new StudyInstanceUID.
        series_uid: the new SeriesInstanceUID.
        sop_instance_uid: the new SOPInstanceUID.
        sop_class_uid: the class of the instance.
        transfer_syntax_uid: the transfer syntax: that of the original, or Explicit VR Little Endian where
            text was redacted in lossy pixels.
        review: reasons why text may stand in the pixels, in fixed words; empty when nothing suggests it, and
            when the pixels were searched. With a reason the file states ``PatientIdentityRemoved NO``,
            and a person must look at the image before it is passed on.
        contradictions: in which of name, birth date and sex the instances of this patient contradict each
            other so far, by the registry: two people may share the PatientID.
        actions: keyword -> action letter (DICOM PS3.15 Annex E) -> number of elements. Private and unknown
            attributes share the keywords ``PrivateElement`` and ``UnknownElement``.
    """

    content: bytes = field(repr=False)
    path: str
    patient_id: str
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    review: tuple[str, ...]
    contradictions: tuple[str, ...] = ()
    actions: Mapping[str, Mapping[str, int]] = field(repr=False)

    @property
    def dataset(self) -> FileDataset:
        """The clean file, read by pydicom; each access returns a new data set."""
        return pydicom.dcmread(io.BytesIO(self.content))

    @property
    def removed(self) -> dict[str, int]:
        """Keyword -> number of elements that are not in the output (action X)."""
        return {name: letters["X"] for name, letters in self.actions.items() if "X" in letters}


class Deidentifier:
    """De-identifies instances in memory with the engine, the tables and the self-check of ``meninx deid``.

    The result has the bytes that the folder stage writes for the same file, key, site and settings. The
    folder stage differs: a second file of the same instance is kept out, zip archives are opened, files may
    have up to 5 GiB (here 2 GiB), series of single slices are defaced, and
    crosswalk, audit log, list of layouts and list of contradicting patients are written.

    Identities are registered as by the folder stage (:mod:`meninx.deid.identity.identity_registry`): a
    PatientID that two unlisted issuers use is refused for the second. An object whose key is a file takes the
    registry beside the key, which the folder stage and all other processes share. An object made from the
    bytes of a key remembers identities as long as it lives, unless ``registry`` names a file. A clean
    instance whose PatientID the site gave, as the registry knows, is refused (``already-deidentified``).

    One object may be used by several threads at once. While a call runs, pydicom's warnings and log lines are
    silenced in the whole process, because they quote values. Python code runs in one thread at a time, so use
    processes to work faster: an object whose key is a file can be sent to another process, where the key is
    read again. An object made from the bytes of a key refuses to be pickled. No representation shows the key.

    To work faster, the process remembers names and texts of the last instances. Use the object in a ``with``
    statement, or call :meth:`close`, where the process goes on after the last instance.

    Guarantee: as of :func:`meninx.deid.stage.run`. Nothing of the input is copied to the output except by an
        action of the profile, and the output is returned only after the self-check has searched every byte of
        it for the original's own identifiers. Text in the pixels is searched and redacted as ``pixels`` says;
        some is missed.

    Args:
        key: the site's key: a file (a path or :class:`KeyFile`), or the bytes that such a file holds, 32 or
            more. A ``str`` is refused, because it could be either.
        site: name of the hospital; part of a patient's identity. Give each hospital its own name and key.
        profile: ``research`` or ``basic``.
        options: options of DICOM PS3.15 Annex E to add to the profile.
        overrides: keyword or tag -> action letter, before the profile.
        lookup: CSV file with the hospital's own new PatientIDs (and accession numbers).
        missing_lookup: what to do with a patient whom ``lookup`` does not list.
        issuers: what an issuer means that ``issuer_domains`` does not list; see
            :mod:`meninx.deid.identity.issuer_policy`.
        issuer_domains: TOML file with the issuers that number their patients together.
        missing_issuer: what to do with an instance without an issuer.
        registry: file of the site's identities; beside a key file by default.
        max_age: highest age that stays exact, in years.
        pixels: ``redact`` searches and redacts the pixels of an instance that may hold text, ``quarantine``
            refuses such an instance, ``keep`` cleans its header only.
        search_all: search the pixels of every instance.
        keep_measurements: keep lines of text that show a measurement.
        decisions: CSV file with decisions of reviewers about layouts of text.
        defacing: ``head`` removes a mask of the face from a multi-frame CT or MR of a head. One slice is no
            series, so CT and MR images of one frame are refused with ``face-geometry``; use the folder stage
            for them.

    Raises:
        ConfigError: a setting has another type, is out of its range or contradicts another one; or the key is
            neither bytes nor a file.
        PrivacyRefusal: no usable key, an override would keep the patient's identity, or the registry is not
            this site's, was changed, or records identities that the policy on issuers would change.
        DataError: the lookup table or the registry cannot be used.

    Example:
        >>> ds = Dataset()
        >>> ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66"  # raw data: no class that can be de-identified
        >>> ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.4", "1.2.5"
        >>> try:
        ...     Deidentifier(key=bytes(range(32)), site="north").deidentify(ds)
        ... except Quarantined as refusal:
        ...     print(refusal.reason)
        unsupported-sop-class
    """

    def __init__(
        self,
        *,
        key: bytes | os.PathLike[str] | KeyFile,
        site: str,
        profile: ProfileName = "research",
        options: Iterable[Option | str] = (),
        overrides: Mapping[str, Action | str] | None = None,
        lookup: os.PathLike[str] | None = None,
        missing_lookup: MissingLookup = "pseudonym",
        issuers: IssuerRule = "site",
        issuer_domains: os.PathLike[str] | None = None,
        missing_issuer: MissingIssuer = "site",
        registry: os.PathLike[str] | None = None,
        max_age: int = 89,
        pixels: Pixels = "redact",
        search_all: bool = False,
        keep_measurements: bool = False,
        decisions: os.PathLike[str] | None = None,
        defacing: Defacing = "off",
    ) -> None:
        _refuse_other_types(options, overrides)
        config = DeidConfig(
            site=site,
            profile=profile,
            options=tuple(sorted(parse(options))),
            lookup=_place("lookup", lookup),
            missing_lookup=missing_lookup,
            issuers=issuers,
            issuer_domains=_place("issuer_domains", issuer_domains),
            missing_issuer=missing_issuer,
            registry=_place("registry", registry),
            max_age=max_age,
            pixels=pixels,
            search_all=search_all,
            keep_measurements=keep_measurements,
            decisions=_place("decisions", decisions),
            defacing=defacing,
        )
        letters = {name: str(action) for name, action in (overrides or {}).items()}
        policy, site_key = config.issuer_policy(), _site_key(key, site)
        table = None if config.lookup is None else read_lookup(config.lookup, policy)
        compiled = config.compiled_with(letters)
        self._cleaner = Cleaner.from_config(config, site_key, policy, table, compiled)
        beside = None if isinstance(key, bytes) else usual_place(_key_file(key).path, site)
        self._registry = IdentityRegistry(config.registry or beside, site_key, policy)
        self._site = site
        # What another process needs to build the same object: a key file by its path, never the key.
        self._settings: dict[str, Any] | None = None
        if not isinstance(key, bytes):
            shared = inspect.signature(Deidentifier).parameters.keys() - {"key", "overrides"}
            self._settings = {name: getattr(config, name) for name in shared}
            self._settings |= {"key": _key_file(key), "overrides": letters}

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Call :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Forget the names and texts of patients that the process remembers from earlier instances.

        The object still works afterwards, and then remembers again. Results do not change. Another object or
        a run in the same process only loses speed.
        """
        value_caches.clear()

    def __repr__(self) -> str:
        """Return the site and the settings, never the key; a refused object has neither."""
        if not hasattr(self, "_settings"):
            return f"{type(self).__name__}(unusable)"
        options = sorted(self._cleaner.profile.options)
        return f"{type(self).__name__}(site={self._site!r}, options={list(map(str, options))})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process builds the same object, which reads the key file again.

        Raises:
            TypeError: the key was given as bytes, which must not travel, or was refused.
        """
        if getattr(self, "_settings", None) is None:
            raise TypeError("a Deidentifier without a key file cannot be pickled; name a key file")
        return _rebuilt, (self._settings,)

    def deidentify(self, source: Source) -> DeidentifiedInstance:
        """Return the clean instance.

        Args:
            source: the bytes of a DICOM file, a binary stream of them (read from where it stands, up to 2
                GiB), or a pydicom data set, which is not modified. A data set is written to bytes first, in
                its own transfer syntax (Explicit VR Little Endian when it names none), so what pydicom cannot
                write is refused.

        Raises:
            Quarantined: the instance cannot be de-identified; with the reason code, without a value.
            PrivacyRefusal: the registry was changed since this object was made.
            StorageError: the registry cannot be written.
            RunLocked: another process holds the registry for a minute.
            TypeError: ``source`` is something else, e.g. a path or a text stream.
            OSError: the stream cannot be read.
        """
        data = source if isinstance(source, Dataset) else _read(source)
        outcome = self._outcome(data)
        if isinstance(outcome, Reason):
            # Raised here and not where it was caught: the exception of a parser, which may quote a value,
            # would otherwise travel along as the context of this one.
            raise Quarantined(outcome)
        clean, result = outcome
        if writer.is_own_output(clean.original) and self._registry.gave(clean.patient_id):
            raise Quarantined(Reason.ALREADY_DEIDENTIFIED)
        domain = clean.context.patient.domain
        refused = self._registry.admit(
            clean.patient_id, clean.issuer, domain, result.patient_id, clean.traits()
        )
        if refused is not None:
            raise Quarantined(refused)
        return replace(result, contradictions=self._registry.contradictions(clean.patient_id, domain))

    def _outcome(self, data: bytes | Dataset) -> tuple[CleanInstance, DeidentifiedInstance] | Reason:
        try:
            with quiet():
                clean = self._cleaner.clean(_written(data) if isinstance(data, Dataset) else data)
                selfcheck.check_public_texts(clean.public_texts(clean.path()), clean.context)
                return clean, _result(clean, clean.checked_content())
        except Exception as error:
            return reason_of(error)


def _result(clean: CleanInstance, content: bytes) -> DeidentifiedInstance:
    return DeidentifiedInstance(
        content=content,
        path=clean.path(),
        patient_id=clean.context.patient.pseudonym,
        study_uid=clean.study,
        series_uid=clean.series,
        sop_instance_uid=clean.instance,
        sop_class_uid=clean.context.sop_class_uid,
        transfer_syntax_uid=clean.original.transfer_syntax,
        review=clean.context.review,
        actions=clean.actions,
    )


def _rebuilt(settings: dict[str, Any]) -> Deidentifier:
    return Deidentifier(**settings)


def _refuse_other_types(options: Any, overrides: object) -> None:
    """Refuse arguments of a type that the settings of the folder stage would not name."""
    several = isinstance(options, Iterable) and not isinstance(options, str | bytes | Mapping)
    if not several or not all(isinstance(item, str) for item in options if several):
        fix = f"write [{options!r}]" if isinstance(options, str) else ""
        rule = "a list of options"
        raise ConfigError(expected(rule, got=type(options).__name__, where="Deidentifier: options", fix=fix))
    if overrides is not None and not isinstance(overrides, Mapping):
        fix = 'give a dictionary, e.g. {"StudyDate": "K"}; only `meninx deid` reads a file of them'
        rule = "keyword or tag -> action letter"
        raise ConfigError(
            expected(rule, got=type(overrides).__name__, where="Deidentifier: overrides", fix=fix)
        )


def _place(name: str, path: object) -> Path | None:
    if path is None or isinstance(path, str | os.PathLike):
        return None if path is None else Path(path)
    got = type(path).__name__
    raise ConfigError(expected("the path of a file", got=got, where=f"Deidentifier: {name}"))


def _key_file(key: object) -> KeyFile:
    if isinstance(key, KeyFile):
        return key
    if isinstance(key, os.PathLike):
        return KeyFile(Path(key))
    fix = "give Path(...) for a file, or the bytes that it holds" if isinstance(key, str) else ""
    rule = "the bytes of a key, a path or a KeyFile"
    raise ConfigError(expected(rule, got=type(key).__name__, where="Deidentifier: key", fix=fix))


def _site_key(key: bytes | os.PathLike[str] | KeyFile, site: str) -> SiteKey:
    return SiteKey(key, site) if isinstance(key, bytes) else _key_file(key).read(site)


def _read(source: bytes | bytearray | memoryview | Readable) -> bytes:
    """Return the bytes of a source; a source that is too large gives one byte more than is accepted."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if not callable(getattr(source, "read", None)):
        kinds = "a pydicom Dataset, bytes or a binary stream"
        raise TypeError(f"expected {kinds}, got {type(source).__name__}; open a file in binary mode")
    pieces: list[bytes] = []
    size = 0
    while size <= MOST_BYTES:
        piece = source.read(min(_PIECE, MOST_BYTES + 1 - size))
        if not isinstance(piece, bytes):
            raise TypeError(f"expected a stream of bytes, got one of {type(piece).__name__}")
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _written(dataset: Dataset) -> bytes:
    """Return a data set as the bytes of a DICOM file; the data set itself stays as it is.

    Raises:
        Refused: ``unreadable``, pydicom cannot write it.
    """
    try:
        # A copy, because writing resolves ambiguous VRs in place. Values that are bytes are shared with it,
        # and the buffer that the data set was read from is left out.
        clone = copy.deepcopy(dataset, {id(buffer): None for buffer in [getattr(dataset, "buffer", None)]})
        clone.file_meta = getattr(clone, "file_meta", None) or FileMetaDataset()
        if "TransferSyntaxUID" not in clone.file_meta:
            clone.file_meta.TransferSyntaxUID = _plain_syntax(dataset)
        clone.preamble = bytes(128)
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, clone)
        return stream.getvalue()
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(Reason.UNREADABLE) from error


def _plain_syntax(dataset: Dataset) -> str:
    """Return the transfer syntax in which a data set was read, if it is known, else the usual one."""
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian
