"""Checks, before a study starts, of everything that could stop the site later.

Each check gives a state and a sentence. ``fail`` stops the site from taking part, ``warn`` may stop it later.
A check that cannot be made is ``unknown`` and says why. Nothing is written, and the only connection is the
one to the coordinator of the given study, through the proxy of the environment, as the site itself will use
it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path

from meninx.core import machine, provenance
from meninx.core.errors import DataError, MeninxError, problem
from meninx.core.manifest import Manifest
from meninx.core.result import Result
from meninx.federated import approval, approval_page, authority, code_hash, policy, site_folder
from meninx.federated.site_folder import SiteFolder
from meninx.federated.study import Study, read_study

SKEW_WARNS, SKEW_FAILS = 30.0, 240.0  # seconds; Flower refuses signatures that are 300 seconds old
SECONDS = 10.0  # to wait for the coordinator
DISK_FAILS, DISK_WARNS = 1 << 30, 10 << 30  # bytes that are free
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_EXEMPT = ("NO_PROXY", "no_proxy")
_PACKAGES = ("meninx", "torch", "flwr", "cryptography")


class CheckState(StrEnum):
    """Outcome of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class SiteCheck:
    """One check.

    Attributes:
        name: what was looked at.
        state: outcome.
        words: what was found, and what to do.
    """

    name: str
    state: CheckState
    words: str


@dataclass(frozen=True, kw_only=True)
class SiteExamination(Result):
    """What a site was found to be.

    Attributes:
        site: name of the site; empty when its folder cannot be read.
        checks: every check, in the order in which they depend on each other.
    """

    site: str
    checks: tuple[SiteCheck, ...]

    @property
    def failed(self) -> tuple[SiteCheck, ...]:
        """Checks that stop the site from taking part."""
        return tuple(check for check in self.checks if check.state is CheckState.FAIL)

    def summary(self) -> str:
        """Return one line per check."""
        return "\n".join(f"{check.state:<8}{check.name:<13}{check.words}" for check in self.checks)

    def raise_if_failed(self) -> None:
        """Raise DataError when a check failed."""
        if self.failed:
            failed = ", ".join(check.name for check in self.failed)
            raise DataError(problem(f"the site cannot take part yet: {failed}", where=str(self.out)))


Found = tuple[CheckState, str]


def examine(root: Path, study_path: Path | None = None, data: Path | None = None) -> SiteExamination:
    """Return every check of a site.

    Args:
        root: folder of the site.
        study_path: study file; None leaves out what depends on it.
        data: prepared dataset; None leaves out what depends on it.

    Raises:
        UsageError: the folder is no site.
    """
    site = site_folder.open_folder(root)
    checks = [
        _checked("keys", lambda: _keys(site)),
        _checked("policy", lambda: _policy(site)),
        _checked("audit log", lambda: _log(site)),
        _checked("proxy", _proxy),
        _checked("disk", lambda: _disk(root)),
        _checked("GPU", _gpu),
        _checked("versions", _versions),
    ]
    study = None
    if study_path is not None:
        try:
            study = read_study(study_path)
        except MeninxError as error:
            checks.append(SiteCheck("study", CheckState.FAIL, str(error)))
    if study is not None:
        checks += list(_of_the_study(site, study))
    if data is not None:
        checks += list(_of_the_data(site, study, data))
    return SiteExamination(out=root, site=site.name, checks=tuple(checks))


def clock_skew(address: str, root_certificate: bytes) -> float:
    """Return by how many seconds the clock here is ahead of the coordinator's, within a second.

    Args:
        address: host and port of the coordinator.
        root_certificate: certificate of the study's authority, in DER.

    The connection is the one that the site itself will use: same proxy, certificates and library.

    Raises:
        Unreachable: there is no connection, or the coordinator states no time.
        NotAdmitted: its certificate is not of the authority.
    """
    import httpx  # comes with Flower, which another check reports as missing

    from meninx.federated.line import Unreachable, line_error, open_line

    with open_line(authority.pem(root_certificate), timeout=SECONDS) as line:
        before = datetime.now(UTC)
        try:
            date = line.get(f"https://{address}/").headers.get("date")  # answered with 404 and the date
        except httpx.HTTPError as error:
            raise line_error(error) from error
        after = datetime.now(UTC)
    try:
        stated = parsedate_to_datetime(date or "")
    except (TypeError, ValueError) as error:
        raise Unreachable(problem("the coordinator states no readable time", where="network")) from error
    middle = before + (after - before) / 2
    return (middle - stated.astimezone(UTC)).total_seconds() - 0.5  # the header is cut to whole seconds


def _checked(name: str, check: Callable[[], Found]) -> SiteCheck:
    try:
        state, words = check()
    except MeninxError as error:
        state, words = CheckState.FAIL, str(error)
    return SiteCheck(name, state, words)


def _keys(site: SiteFolder) -> Found:
    return CheckState.OK, f"{site.name}: {site.keys().public.in_words()}"


def _policy(site: SiteFolder) -> Found:
    found = site.policy()
    recipes = ", ".join(word[:16] for word in found.allowed_recipes) or "none"
    words = f"epsilon at most {found.max_epsilon:g} per patient and study, allowed recipes: {recipes}"
    return (CheckState.OK if found.allowed_recipes else CheckState.WARN), words


def _log(site: SiteFolder) -> Found:
    return CheckState.OK, f"{len(site.log().verify())} lines, chain and signatures hold"


def _proxy() -> Found:
    used = next((name for name in _PROXIES if os.environ.get(name)), "")
    if not used:
        return CheckState.OK, "none: the coordinator is reached directly"
    exempt = " ".join(os.environ.get(name, "") for name in _EXEMPT)
    if "127.0.0.1" not in exempt and "*" not in exempt:
        return CheckState.WARN, f"{used} is set; loopback is exempted by meninx itself for its own processes"
    return CheckState.OK, f"{used} is set, loopback is exempt"


def _disk(root: Path) -> Found:
    free = machine.free_disk(root)
    state = CheckState.OK if free >= DISK_WARNS else CheckState.WARN
    return (CheckState.FAIL if free < DISK_FAILS else state), f"{machine.shown_size(free)} free"


def _gpu() -> Found:
    from meninx.learn import runtime

    return CheckState.OK, runtime.gpus()


def _versions() -> Found:
    found = provenance.versions(_PACKAGES)
    words = ", ".join(f"{name} {version}" for name, version in found.items())
    if "flwr" not in found:
        return CheckState.FAIL, f"{words}; Flower is missing: pip install 'meninx[federated]'"
    return CheckState.OK, words


def _of_the_study(site: SiteFolder, study: Study) -> Iterator[SiteCheck]:
    sites = len(study.site_names)
    yield _checked("code", lambda: _code(study))
    yield _checked("terms", lambda: _terms(site, study, sites))
    yield _checked("enrolment", lambda: _enrolment(site, study))
    yield _checked("certificate", lambda: _certificate(site, study))
    yield _checked("clock", lambda: _clock(study))


def _code(study: Study) -> Found:
    difference = code_hash.difference(study.file.code)
    return (CheckState.FAIL, difference) if difference else (CheckState.OK, "the same as the study's")


def _terms(site: SiteFolder, study: Study, sites: int) -> Found:
    reasons = policy.refusals(site.policy(), study.config, study.file.code, sites)
    return (CheckState.FAIL, " ".join(reasons)) if reasons else (CheckState.OK, "the policy allows the study")


def _enrolment(site: SiteFolder, study: Study) -> Found:
    approval.check_standing(site, study)
    return CheckState.OK, f"revision {study.file.revision} has this site with its own keys"


def _certificate(site: SiteFolder, study: Study) -> Found:
    own = study.site(site.name)
    if own is None:
        return CheckState.UNKNOWN, "this site has none yet"
    days = authority.days_left(own.certificate)
    if days < 0:
        return CheckState.FAIL, "it has ended: the coordinator accepts the enrolment request again"
    if days <= authority.WARNING_DAYS:
        return CheckState.WARN, f"{days} days left: the coordinator accepts the enrolment request again"
    return CheckState.OK, f"{days} days left"


def _clock(study: Study) -> Found:
    address = study.config.study.address
    if "flwr" not in provenance.versions(_PACKAGES):
        return CheckState.UNKNOWN, f"{address} is not asked: Flower is missing"
    from meninx.federated.line import Unreachable

    try:
        skew = clock_skew(address, study.file.coordinator.authority)
    except Unreachable as error:
        return CheckState.UNKNOWN, f"{address} is not reachable now: {error}"
    words = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the coordinator"
    if abs(skew) >= SKEW_FAILS:
        return CheckState.FAIL, f"{words}: set the clock, e.g. by NTP"
    return (CheckState.WARN if abs(skew) >= SKEW_WARNS else CheckState.OK), words


def _of_the_data(site: SiteFolder, study: Study | None, root: Path) -> Iterator[SiteCheck]:
    try:
        data = Manifest.read(root)
    except MeninxError as error:
        yield SiteCheck("dataset", CheckState.FAIL, str(error))
        return
    yield _checked("dataset", lambda: _dataset(study, data))
    if study is not None:
        yield _checked("weight", lambda: _weight(study, data))
        yield _checked("budget", lambda: _budget(site, study, data))


def _dataset(study: Study | None, data: Manifest) -> Found:
    words = approval_page.data_words(data)
    if not len(data.split("train")):
        return CheckState.FAIL, f"{words}; the training split has no cases"
    differing = study.config.data.differences(data.info) if study is not None else ()
    if differing:
        return CheckState.FAIL, "; ".join(differing)
    return CheckState.OK, words


def _weight(study: Study, data: Manifest) -> Found:
    words, reasons = approval_page.weight_words(study.config, data)
    return (CheckState.FAIL, " ".join(reasons)) if reasons else (CheckState.OK, words)


def _budget(site: SiteFolder, study: Study, data: Manifest) -> Found:
    words, reasons = approval_page.privacy_words(site.policy(), study, site, data)
    return (CheckState.FAIL, " ".join(reasons)) if reasons else (CheckState.OK, words)
