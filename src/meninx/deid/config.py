"""Settings of ``meninx deid``, and the profile that they compile to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from meninx.core.cluster_pool import ClusterAddress
from meninx.core.errors import ConfigError, PrivacyRefusal, expected, problem
from meninx.core.setting_types import CountOrZero
from meninx.core.settings import Settings
from meninx.deid import options as known
from meninx.deid.identifiers import names_somebody
from meninx.deid.identity.issuer_policy import IssuerPolicy, IssuerRule, MissingIssuer, read_policy
from meninx.deid.options import Option
from meninx.deid.profile import Action, Profile

ProfileName = Literal["research", "basic"]  # the keys of options.PRESETS
MissingLookup = Literal["pseudonym", "quarantine"]
Pixels = Literal["redact", "quarantine", "keep"]
Defacing = Literal["off", "head"]


@dataclass(frozen=True, kw_only=True)
class DeidConfig(Settings):
    """Settings of the ``deid`` stage.

    Attributes:
        key: file with the site key, 32 bytes or more; required.
        site: name of the hospital; part of a patient's identity and of the key derivation. Use a different
            name for each hospital.
        profile: preset of options: ``research`` (dates shifted, descriptors and structured content cleaned,
            patient characteristics and safe private elements kept) or ``basic`` (the Basic Profile alone).
        options: options of the profile to add to the preset, e.g. ``retain-device``.
        overrides: TOML file of ``Keyword = "action letter"`` lines that take precedence over the profile.
        lookup: CSV file with the hospital's own new patient IDs (and accession numbers); a column ``issuer``
            says whose patient a row means.
        missing_lookup: action for a patient who is not in the lookup file: ``pseudonym`` or ``quarantine``.
        issuers: meaning of an IssuerOfPatientID that ``issuer_domains`` does not list: ``site`` (the site
            numbers its patients together; an ID that two such issuers use is quarantined for the second),
            ``separate`` (every issuer numbers its own patients), or ``listed`` (its files are quarantined).
        issuer_domains: TOML file with the issuers that number their patients together, e.g.
            ``site = ["NORTH-PACS"]`` and ``east = ["EAST", "EAST LAB"]``.
        missing_issuer: action for a file without an issuer: ``site`` (it is the site's own) or
            ``quarantine``.
        registry: file in which the site's identities are registered, shared by all deliveries; beside the
            key by default.
        lookup_out: write ``private/lookup.csv`` in the format that ``lookup`` reads.
        escrow: write ``private/escrow.meninx``, which `meninx reidentify` opens: ``key`` for the holder of
            the site key, or the file of a broker's public key for that broker alone.
        escrow_only: once the escrow is complete, remove everything else that holds originals from
            ``private/``. A later run reads every file again, and must seal the folder again.
        rename: name output files after their new UIDs; otherwise keep the folder structure and replace each
            name by a keyed one.
        workers: processes; 0 chooses by the number of cores and files, 1 uses this process only.
        scheduler: address of a Dask scheduler whose workers take the files, ``tls://host:port``; all machines
            share the file system of source and output (extra ``cluster``).
        scheduler_ca: PEM file of the authority of the cluster's certificates; by default Dask's configuration
            names the files.
        scheduler_cert: PEM file of this client's certificate.
        scheduler_key: PEM file of the key of that certificate.
        max_age: highest age that is kept, in years; older patients get ``max_age + 1`` and no birth date.
        pixels: action for an image that may hold text in its pixels, e.g. an ultrasound, a secondary capture
            or a localizer. ``redact`` searches it, fills every line that is not technical and searches the
            result (needs the extra ``ocr``; without it such images are quarantined). ``quarantine`` keeps
            such images out. ``keep`` writes them unread, marks them PatientIdentityRemoved NO and reports a
            departure.
        search_all: search the pixels of every image, not only of those that may hold text.
        keep_measurements: keep lines that show a measurement, e.g. ``Dist 3.4 cm``; otherwise only settings
            of the device, scales and side markers stay.
        decisions: CSV file with decisions of reviewers, a row per layout of ``private/layouts.jsonl``, as
            ``meninx review`` writes it. Text in the boxes that a row keeps stays in all images of the layout,
            unless it resembles an identifier of the header or cannot be read.
        defacing: ``head`` removes a mask of the face from CT and MR series of the head. A series that may
            show a head and cannot be defaced is quarantined. One that shows none, by its header and its
            pixels, stays as it is. The rest of a head, or the brain itself, may still identify a person.
        dry_run: read and check everything, write nothing.
        resume: continue an interrupted run in the output folder, or add what is new in its source.
        overwrite: replace an earlier result in the output folder, once the new one is complete.
    """

    key: Path | None = None
    site: str = "site"
    profile: ProfileName = "research"
    options: tuple[Option, ...] = ()
    overrides: Path | None = None
    lookup: Path | None = None
    missing_lookup: MissingLookup = "pseudonym"
    issuers: IssuerRule = "site"
    issuer_domains: Path | None = None
    missing_issuer: MissingIssuer = "site"
    registry: Path | None = None
    lookup_out: bool = False
    escrow: str = ""
    escrow_only: bool = False
    rename: bool = True
    workers: CountOrZero = 0
    scheduler: str = ""
    scheduler_ca: Path | None = None
    scheduler_cert: Path | None = None
    scheduler_key: Path | None = None
    max_age: Annotated[int, Meta(ge=1, le=89)] = 89
    pixels: Pixels = "redact"
    search_all: bool = False
    keep_measurements: bool = False
    decisions: Path | None = None
    defacing: Defacing = "off"
    dry_run: bool = False
    resume: bool = True
    overwrite: bool = False

    def check_rules(self) -> None:
        """Refuse options that contradict each other; keep them sorted."""
        if not self.site.strip():
            raise ConfigError(expected("the name of the hospital", got="an empty one", where="site"))
        names = ("search_all", "keep_measurements", "decisions")
        name = next((one for one in names if getattr(self, one)), "")
        if self.pixels != "redact" and name:
            fix = "set pixels to redact, or leave it out"
            raise ConfigError(problem(f"it has no effect with pixels = {self.pixels}", where=name, fix=fix))
        self._check_scheduler()
        if self.missing_lookup != "pseudonym" and self.lookup is None:
            fix = "name the table with --lookup, or leave it out"
            raise ConfigError(problem("it has no effect without lookup", where="missing_lookup", fix=fix))
        if self.escrow_only and not self.escrow:
            fix = "give --escrow key or --escrow BROKER.pub, too"
            raise ConfigError(problem("it has no effect without escrow", where="escrow_only", fix=fix))
        if self.escrow_only and self.lookup_out:
            fix = "leave one of them out"
            raise ConfigError(problem("escrow_only removes what it writes", where="lookup_out", fix=fix))
        object.__setattr__(self, "options", tuple(sorted(known.parse(self.options))))
        known.check(self.all_options)

    def _check_scheduler(self) -> None:
        """Refuse settings of a cluster that have no effect, and an address that is not encrypted."""
        if self.scheduler:
            self.cluster().check()
            if self.workers:
                fix = "leave it out; the cluster has its own workers"
                raise ConfigError(problem("it has no effect with scheduler", where="workers", fix=fix))
            if self.defacing != "off":
                fix = "run this archive on one machine, or leave defacing out"
                raise ConfigError(problem("it is not built for a cluster", where="defacing", fix=fix))
        names = ("scheduler_ca", "scheduler_cert", "scheduler_key")
        name = next((one for one in names if getattr(self, one) and not self.scheduler), "")
        if name:
            raise ConfigError(
                problem("it has no effect without scheduler", where=name, fix="give scheduler, too")
            )

    def cluster(self) -> ClusterAddress:
        """Return where the scheduler listens."""
        return ClusterAddress(
            address=self.scheduler, ca=self.scheduler_ca, cert=self.scheduler_cert, key=self.scheduler_key
        )

    @property
    def all_options(self) -> frozenset[Option]:
        """Options of the preset and the added ones.

        Retain-full-dates takes the place of the preset's shifted dates.
        """
        preset = known.preset(self.profile)
        if Option.RETAIN_FULL_DATES in self.options and Option.RETAIN_MODIFIED_DATES not in self.options:
            preset -= {Option.RETAIN_MODIFIED_DATES}
        return preset | set(self.options)

    def issuer_policy(self) -> IssuerPolicy:
        """Return which issuers number their patients together.

        Raises:
            ConfigError: the file of domains cannot be used.
        """
        return read_policy(self.issuer_domains, self.site, self.issuers, self.missing_issuer)

    def compiled(self) -> Profile:
        """Return the profile with the overrides of the file.

        Raises:
            ConfigError: the overrides cannot be read or name an unknown attribute or action, or
                ``max_age`` has no effect with them.
            PrivacyRefusal: an override would keep the patient's identity.
        """
        return self.compiled_with(_read_overrides(self.overrides))

    def compiled_with(self, overrides: Mapping[str, str]) -> Profile:
        """Return the profile with these overrides (keyword or tag -> action letter); see :meth:`compiled`."""
        profile = profile_with(self.all_options, overrides)
        if self.max_age != 89 and not profile.may_keep_ages:
            fix = "leave it out, or keep ages with the option retain-patient-characteristics or an override"
            raise ConfigError(problem("it has no effect where ages are removed", where="max_age", fix=fix))
        return profile


def profile_with(options: frozenset[Option], overrides: Mapping[str, str]) -> Profile:
    """Return the profile of these options and overrides.

    Args:
        options: see :mod:`meninx.deid.options`.
        overrides: keyword or tag -> action letter.

    Raises:
        ConfigError: an override names an unknown attribute or action.
        PrivacyRefusal: an override would keep the patient's identity, or a date beside shifted ones.
    """
    profile = Profile.compile(options, overrides)
    for tag, action in profile.overrides:
        # An output states PatientIdentityRemoved = YES, which would be false.
        if action == Action.K and names_somebody(tag):
            fix = "every output states that the identity was removed; choose another action"
            raise PrivacyRefusal(
                expected(
                    "no K on a name, an ID or an address", got=f"{tag:08X} = K", where="overrides", fix=fix
                )
            )
    if Option.RETAIN_FULL_DATES not in options and Option.RETAIN_MODIFIED_DATES in options:
        for _, keyword, vr, action in profile.override_table():
            if vr in ("DA", "DT") and action == Action.K:
                fix = "a kept date beside a shifted one tells the shift of the patient; use retain-full-dates"
                got = f"{keyword} = K"
                raise PrivacyRefusal(expected("no K on a date", got=got, where="overrides", fix=fix))
    return profile


def _read_overrides(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(expected("a TOML file", got=type(error).__name__, where="overrides")) from error
    wrong = [name for name, value in table.items() if not isinstance(value, str)]
    if wrong:
        raise ConfigError(
            problem(
                "the action is not in quotes", where=f"overrides, {wrong[0]}", fix='write PatientSex = "X"'
            )
        )
    return table
