"""A consortium of three hospitals with invented patients, for the tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hospital_processes import Hospitals

from meninx.core.manifest import Manifest
from meninx.federated import approval, enrolment, site_folder, study
from meninx.federated.config import DataConfig, StudyConfig
from meninx.federated.policy import PolicyConfig
from meninx.federated.site_folder import SiteFolder
from meninx.federated.study import Study, StudyFolder
from meninx.synthetic import write_dataset

SITES = ("east", "north", "west")
POLICY = PolicyConfig(max_epsilon=8.0, max_delta=1e-3, allowed_recipes=("tiny",))


@dataclass(frozen=True)
class Consortium:
    """The folders of a coordinator and of three sites."""

    folder: StudyFolder
    sites: dict[str, SiteFolder]
    data: Path

    @property
    def study(self) -> Study:
        return self.folder.study()

    def approve_all(self) -> None:
        for site in self.sites.values():
            approval.approve(site, self.study, self.data)
            approval.receive(self.folder, site.approval_path("chest"))


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of invented patients."""
    root = tmp_path_factory.mktemp("patients") / "data"
    write_dataset(root, patients=40, size=32)
    return root


@pytest.fixture(scope="session")
def enrolled_sites(tmp_path_factory: pytest.TempPathFactory, patients: Path) -> Path:
    """The folders of a study at revision 1 and of its three sites, which tests take a copy of."""
    root = tmp_path_factory.mktemp("enrolled")
    facts = DataConfig.of_dataset(Manifest.read(patients).info)
    settings = {"model": "resnet9-small", "lr": 3e-3, "batch_size": 16, "physical_batch": 16}
    config = StudyConfig.of(rounds=2, data=facts, train=settings | {"epsilon": 8.0, "delta": 1e-3})
    folder = study.create(root / "chest", config)
    sites = [site_folder.create(root / name, name, POLICY) for name in SITES]
    for site in sites:
        enrolment.request(site)
    enrolment.accept(folder, [site.request_path for site in sites])
    return root


@pytest.fixture
def consortium(tmp_path: Path, enrolled_sites: Path, patients: Path) -> Consortium:
    """A study at revision 1 in which three sites are enrolled and none has answered."""
    shutil.copytree(enrolled_sites, tmp_path, dirs_exist_ok=True)
    sites = {name: SiteFolder(tmp_path / name, name) for name in SITES}
    return Consortium(StudyFolder(tmp_path / "chest", "chest"), sites, patients)


@pytest.fixture
def hospitals(tmp_path: Path, patients: Path) -> Iterator[Callable[..., Hospitals]]:
    """Makes studies whose processes end with the test."""
    with ExitStack() as stack:

        def make(name: str, sites: tuple[str, ...], **settings: object) -> Hospitals:
            found = Hospitals(tmp_path / name, patients, sites, **settings)
            stack.callback(found.stop_all)
            return found

        yield make
