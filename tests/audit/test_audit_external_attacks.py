"""Reconstruction attacks of other packages: what is asked of them, and how their results are marked."""

from __future__ import annotations

import csv
import shutil
import sys
from dataclasses import replace
from importlib import invalidate_caches

import pytest
import torch

from meninx import api
from meninx.audit.reconstruction import drawing, steps
from meninx.audit.reconstruction.attack_registry import attack_kind, package_of
from meninx.audit.reconstruction.attacks import ATTACKS, HONEST, Victim
from meninx.audit.reconstruction.candidates import read_index
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.reconstruction_verdict import findings
from meninx.audit.reconstruction.steps import attacks_of, run_reconstruction
from meninx.core.errors import ConfigError, UsageError
from meninx.core.manifest import Manifest
from meninx.metrics.null_threshold import public_threshold
from meninx.synthetic.dataset import write_dataset

PLUGIN = '''
import torch
from torch import nn

from meninx.audit.reconstruction.attacks import HONEST, AttackKind


class Mirror:
    """Shows the attacker's own images, whatever it sees."""

    words = "one linear layer"
    watched = ("1.weight",)

    def __init__(self, knowledge, victim):
        self.public = knowledge.public
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(self.public[0].numel(), victim.outputs))

    def decode(self, steps, targets, noise):
        return torch.stack([self.public[:3]] * len(steps))


class Wrong(Mirror):
    def decode(self, steps, targets, noise):
        return self.wrong(super().decode(steps, targets, noise))


def kind(prepare, **changed):
    given = {"words": "the attacker's own images", "server": HONEST, "single": True} | changed
    return AttackKind(prepare=prepare, **given)


def wrong(name, code):
    return kind(type(name, (Wrong,), {"wrong": code}))


def failing(self, found):
    raise KeyError("patient 7")


def leaving(self, found):
    raise SystemExit(0)


MIRROR = kind(Mirror)
NAN = wrong("Nan", lambda self, found: found * float("nan"))
SHAPE = wrong("Shape", lambda self, found: found[:, :, :, :-1])
TEXT = wrong("Text", lambda self, found: "images")
FAILING = wrong("Failing", failing)
LEAVING = wrong("Leaving", leaving)
UNWATCHED = kind(type("Unwatched", (Mirror,), {"watched": ("2.weight",)}))
NO_KIND = Mirror
HTML = kind(Mirror, words="a line\\nand another")
SERVER = kind(Mirror, server="friendly")
'''
ENTRIES = """[meninx.reconstruction_attacks]
mirror = mirror_attacks:MIRROR
nan = mirror_attacks:NAN
shape = mirror_attacks:SHAPE
text = mirror_attacks:TEXT
failing = mirror_attacks:FAILING
leaving = mirror_attacks:LEAVING
unwatched = mirror_attacks:UNWATCHED
no-kind = mirror_attacks:NO_KIND
html = mirror_attacks:HTML
server = mirror_attacks:SERVER
Upper/../name = mirror_attacks:MIRROR
absent = mirror_attacks:ABSENT
"""
FEW = ReconstructionConfig(
    attacks=("mirror",), eps_first=3, eps_last=3, batches=2, trials=50, candidates=(2, 10), deterministic=True
)


def offered(place, version, entries, monkeypatch):
    info = place / f"other_package-{version}.dist-info"
    info.mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "mirror_attacks", raising=False)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: other-package\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entries)
    (place / "mirror_attacks.py").write_text(PLUGIN)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    invalidate_caches()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that offers attacks."""
    offered(tmp_path / "site", "1.0", ENTRIES, monkeypatch)
    return tmp_path / "site"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A private run on a dataset whose patients are in training or test."""
    root = tmp_path_factory.mktemp("attacked")
    data = write_dataset(root / "data", patients=60, size=16)
    patients = {patient: number for number, patient in enumerate(data.patients)}
    cases = tuple(
        replace(case, split=("train", "test")[patients[case.patient_id] % 2]) for case in data.cases
    )
    Manifest(data.root, replace(data.info, split_rule="exact"), cases).write()
    return api.train(
        root / "data", recipe="tiny", steps=2, batch_size=8, epsilon=4.0, delta=1e-3, attack_risk=False,
        out=root / "runs", deterministic=True,
    ).out  # fmt: skip


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run", symlinks=True)


def prepared(name):
    shape = (1, 8, 8)
    known = Knowledge(public=torch.rand(5, *shape), network=torch.nn.Identity())
    made = attack_kind(name).prepare(known, Victim(loss=None, outputs=2, images=1))
    return made, [{"1.weight": torch.zeros(2, 64)}] * 4, torch.zeros(4, 1)


# the registry


def test_an_attack_of_a_package_is_found_and_checked(package):
    kind = attack_kind("mirror")
    assert (kind.package, kind.server) == ("other-package 1.0", HONEST)
    assert (package_of("mirror"), package_of("trap")) == ("other-package 1.0", "")
    made, seen, targets = prepared("mirror")
    assert made.decode(seen, targets, 0.5).shape == (4, 3, 1, 8, 8)
    assert made.watched == ("1.weight",)


def test_all_means_the_attacks_of_meninx_whatever_is_installed(package):
    assert attacks_of(ReconstructionConfig(attacks=("all",))) == tuple(ATTACKS)
    assert attacks_of(ReconstructionConfig(attacks=("quick", "mirror")))[-1] == "mirror"


def test_an_unknown_attack_is_refused_with_the_names_that_are_there(package):
    with pytest.raises(UsageError, match=r"one of imprint-whitened, .*, mirror, .* got 'magic'"):
        attack_kind("magic")


@pytest.mark.parametrize(
    ("name", "words"),
    [("no-kind", "an AttackKind, got type"), ("html", "are not printable"), ("server", "got friendly"),
     ("Upper/../name", "lower-case letters"), ("absent", "cannot be imported")],
)  # fmt: skip
def test_what_is_no_attack_is_refused_by_the_name_of_its_package(package, name, words):
    with pytest.raises(ConfigError, match=words) as caught:
        attack_kind(name)
    assert "other-package" in str(caught.value) or "mirror_attacks" in str(caught.value)


def test_a_name_of_meninx_is_not_taken_over(tmp_path, monkeypatch):
    entries = "[meninx.reconstruction_attacks]\ntrap = mirror_attacks:MIRROR\n"
    offered(tmp_path / "site", "1.0", entries, monkeypatch)
    with pytest.raises(ConfigError, match="other-package offers trap"):
        attack_kind("trap")


@pytest.mark.parametrize(
    ("name", "words"),
    [("nan", "finite candidates"), ("shape", r"4 x candidates x 1 x 8 x 8, got 4 x 3 x 1 x 7 x 8"),
     ("text", "a tensor of floating-point numbers, got str"), ("failing", "failed with KeyError"),
     ("leaving", "failed with SystemExit")],
)  # fmt: skip
def test_candidates_that_cannot_be_judged_are_refused(package, name, words):
    made, seen, targets = prepared(name)
    with pytest.raises(UsageError, match=words) as caught:
        made.decode(seen, targets, 0.5)
    assert name in str(caught.value)
    assert "patient 7" not in str(caught.value)


def test_parameters_that_the_network_does_not_have_are_refused(package):
    with pytest.raises(UsageError, match="names of parameters of its network"):
        _ = prepared("unwatched")[0].watched


# an audit with an attack of a package


@pytest.fixture(scope="module")
def audited(made, tmp_path_factory):
    """A run that was audited with two attacks of a package, one of which fails."""
    run = shutil.copytree(made, tmp_path_factory.mktemp("audited") / "run", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        offered(tmp_path_factory.mktemp("site"), "1.0", ENTRIES, patch)
        result = run_reconstruction(FEW.replace(attacks=("mirror", "failing")), run)
    invalidate_caches()
    return run, result


def test_its_results_stand_under_its_own_name_as_external_code(audited):
    run, result = audited
    words = "mirror (external code of other-package 1.0)"
    assert {match.attack for match in result.audit.matches} == {"mirror"}
    assert {match.package for match in result.audit.matches} == {"other-package 1.0"}
    found = [item for item in findings(result.audit) if item.key == "reconstruction/mirror/step"]
    assert [f"the attack {words} of a" in item.words for item in found] == [True], found
    assert f"attack {words}:" in result.summary()
    with (run / "audit" / "reconstruction.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["attack"] == "mirror"]
    assert {row["package"] for row in rows} == {"other-package 1.0"}
    assert words in (run / "audit" / "reconstruction.svg").read_text()


@pytest.mark.slow
def test_the_page_marks_it(package, run):
    result = api.audit(
        run, parts=["reconstruction"], reconstruction_attacks=["mirror"], trials=50,
        reconstruction_eps_last=0, deterministic=True,
    )  # fmt: skip
    page = result.page.read_text()
    assert "mirror (external code of other-package 1.0)" in page


def test_a_newer_version_of_the_package_attacks_again(audited, tmp_path, monkeypatch):
    run = shutil.copytree(audited[0], tmp_path / "run", symlinks=True)
    room = run / "private" / "audit" / "reconstruction"
    assert {record.package for record in read_index(room).sets} == {"other-package 1.0"}
    offered(tmp_path / "site", "2.0", ENTRIES, monkeypatch)
    run_reconstruction(FEW, run, steps=("create",))
    assert {record.package for record in read_index(room).sets} == {"other-package 2.0"}


def test_an_attack_that_fails_is_not_run_and_says_why(audited):
    run, result = audited
    why = result.audit.not_attacked["failing"]
    assert why == "the external attack failing failed with KeyError (other-package 1.0)"
    assert "patient 7" not in (run / "audit" / "reconstruction.json").read_text()


# the threshold of pictures and step curves


def test_curves_and_pictures_use_the_threshold_of_the_verdict(made, tmp_path, monkeypatch):
    run = shutil.copytree(made, tmp_path / "run", symlinks=True)
    drawn = {}

    def curves(values, null, thresholds, paths, *, title, metric):
        drawn[title] = thresholds, null
        for path in paths:
            path.touch()

    pictures = []
    monkeypatch.setattr(drawing.attack_figures, "draw_curves", curves)
    monkeypatch.setattr(
        drawing, "draw_pictures",
        lambda sets, metric, count, path, *, thresholds, **rest: (pictures.append(thresholds), path.touch()),
    )  # fmt: skip
    result = run_reconstruction(FEW.replace(attacks=("trap",)), run)
    used, null = drawn["trap, step: PRIVATE, patients of this run"]
    assert used == {match.level: match.threshold for match in result.audit.matches}
    assert len(null) == sum(match.nulls for match in result.audit.matches)
    assert pictures[0] == used
    synthetic, _ = drawn["trap, step: synthetic patients"]
    attacked = 2 * result.audit.matches[0].batch
    pools = steps.synthetic_pools(_pools(run), attacked=attacked, seed=0)
    least = public_threshold("ncc", pools.public.images.numpy(), pools.heldout.images.numpy())[0]
    assert min(synthetic.values()) >= least


def _pools(run):
    from meninx.audit.audited_run import dataset_of
    from meninx.core.run import Run
    from meninx.learn import checkpoint

    config = checkpoint.config_of(checkpoint.load(Run(run), "last"))
    return steps.load_pools(dataset_of(Run(run)), config)
