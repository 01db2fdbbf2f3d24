"""`meninx audit reconstruct`: its three steps, what leaves a hospital, resumption, refusals and verdicts."""

import csv
import json
import shutil
import stat
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from meninx import api
from meninx.audit import part_rules, verdict_lines
from meninx.audit.plan_config import AuditPlan, PlannedLimits
from meninx.audit.reconstruction import counting, steps
from meninx.audit.reconstruction.attacks import ATTACKS
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.audit.reconstruction.criteria import CLOSE, FIRST, beyond_null, each_test
from meninx.audit.reconstruction.reconstruction_verdict import (
    findings,
    verdict_of,
    verdict_words,
)
from meninx.audit.reconstruction.steps import STEPS, attacks_of, run_reconstruction
from meninx.cli.app import run as command
from meninx.core import artifacts, files
from meninx.core.artifacts import PrivacyRecord, RunRecord
from meninx.core.audit_summary import DONE, AuditedPart
from meninx.core.errors import AuditFinding, ConfigError, DataError, UsageError
from meninx.core.findings import claims_too_much
from meninx.core.manifest import Manifest
from meninx.core.origin import Origin
from meninx.core.reconstruction_records import (
    CRITERIA,
    IdentificationRecord,
    LevelRecord,
    MatchRecord,
    RankingRecord,
    ReconstructionAudit,
)
from meninx.synthetic.dataset import write_dataset

FEW = ReconstructionConfig(
    attacks=("trap",), eps_first=3, eps_last=3, batches=2, trials=100, candidates=(2, 10), deterministic=True
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset whose patients are in training or test, and a private run."""
    root = tmp_path_factory.mktemp("attacked")
    data = write_dataset(root / "data", patients=60, size=16)
    patients = {patient: number for number, patient in enumerate(data.patients)}
    cases = tuple(
        replace(case, split=("train", "test")[patients[case.patient_id] % 2]) for case in data.cases
    )
    Manifest(data.root, replace(data.info, split_rule="exact"), cases).write()
    run = api.train(
        root / "data", recipe="tiny", steps=2, batch_size=8, epsilon=4.0, delta=1e-3, attack_risk=False,
        out=root / "runs", deterministic=True,
    ).out  # fmt: skip
    return root / "data", unseeded(run)


def unseeded(run):
    """Let a reproducible run count as one whose noise nobody knows."""
    place = artifacts.write(run, replace(artifacts.read(run, PrivacyRecord), deterministic=False))
    record = replace(artifacts.read(run, RunRecord), deterministic=False, privacy=files.digest(place))
    artifacts.write(run, record)
    return run


@pytest.fixture(scope="module")
def audited(made):
    """The run after the whole audit, with its result."""
    return made[1], run_reconstruction(FEW, made[1])


@pytest.fixture
def fresh(made, tmp_path):
    """A copy of the run that nobody attacked."""
    copy = shutil.copytree(made[1], tmp_path / "run", symlinks=True)
    for place in (copy / "audit", copy / "private" / "audit"):
        shutil.rmtree(place, ignore_errors=True)
    return copy


def test_the_whole_audit_writes_record_tables_figures_and_pictures(audited):
    run, result = audited
    record = artifacts.read(run, ReconstructionAudit)
    assert result.audit == record
    assert record.own_level == "this run"
    assert {level.name for level in record.levels} == {"this run", "epsilon 1e+03", "non-private"}
    assert record.verdict in ("nothing found", "exposed")
    assert record.pictures == "synthetic patients"
    names = {path.relative_to(run).as_posix() for path in (run / "audit").rglob("*") if path.is_file()}
    drawn = ("identification.svg", "identification.png", "reconstruction.svg", "reconstruction.png")
    assert {f"audit/{name}" for name in drawn} < names
    assert "audit/reconstruction/images-trap-step.png" in names
    assert "audit/reconstruction/curves-trap-step.svg" in names
    shown = result.summary()
    assert "verdict:" in shown
    assert "1 of 10" in shown
    assert not claims_too_much(shown)


def test_rates_are_in_the_table_and_single_images_only_in_the_private_one(audited):
    run, result = audited
    with (run / "audit" / "reconstruction.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    ranked = sum(match.ranking is not None for match in result.audit.matches)
    assert len(rows) == len(result.audit.matches) + ranked + len(result.audit.identification)
    private = run / "private" / "audit" / "reconstruction" / "distances.csv"
    with private.open(newline="") as stream:
        images = list(csv.DictReader(stream))
    assert len(images) == sum(match.originals for match in result.audit.matches)
    assert {"ncc", "ssim", "psnr", "mse", "candidate"} < set(images[0])


def test_what_shows_patients_is_readable_by_the_owner_alone(audited):
    room = audited[0] / "private" / "audit" / "reconstruction"
    files = [path for path in room.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".npy", ".json", ".csv", ".png", ".svg"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (room, room / "shown")} == {0o700}


def test_pictures_outside_private_do_not_depend_on_the_patients(audited, made, tmp_path):
    """Other members, the same settings: the picture that may leave is the same to the last bit."""
    other = write_dataset(tmp_path / "other", patients=60, size=16, seed=5)
    run = audited[0]
    pools = steps.load_pools(other, _learned(run))
    mine = steps.load_pools(Manifest.read(made[0]), _learned(run))
    assert not np.array_equal(pools.members.images, mine.members.images)
    first, second = (steps.synthetic_pools(one, attacked=16) for one in (pools, mine))
    for name in ("members", "public", "heldout"):
        assert (getattr(first, name).images == getattr(second, name).images).all()
    assert first.source == "64 synthetic patients"


def _learned(run):
    from meninx.core.run import Run
    from meninx.learn import checkpoint

    return checkpoint.config_of(checkpoint.load(Run(run), "last"))


@pytest.mark.parametrize(("policy", "there"), [("none", False), ("patients-may-leave", True)])
def test_the_policy_decides_what_is_drawn_outside(audited, policy, there, tmp_path):
    run = audited[0]
    shutil.copytree(run / "audit", tmp_path / "audit")
    shutil.rmtree(tmp_path / "audit" / "reconstruction")
    config = FEW.replace(pictures=policy)
    run_reconstruction(config, run, steps=("visualise",), out=tmp_path)
    place = tmp_path / "audit" / "reconstruction"
    assert place.exists() == there
    if there:
        mine, own = (
            folder / "images-trap-step.png" for folder in (place, run / "private/audit/reconstruction/shown")
        )
        sizes = [np.asarray(Image.open(path)).shape for path in (mine, own)]
        assert sizes[0] == sizes[1]


def test_three_steps_give_what_one_command_gives(audited, fresh):
    for step in STEPS:
        run_reconstruction(FEW, fresh, steps=(step,))
    for name in ("reconstruction.json", "reconstruction.csv", "identification.svg", "reconstruction.svg"):
        assert (fresh / "audit" / name).read_bytes() == (audited[0] / "audit" / name).read_bytes()


def test_steps_out_of_order_and_a_second_audit_are_refused(audited, fresh):
    for step, word in (("match", "no candidates"), ("visualise", "no audit/reconstruction.json")):
        with pytest.raises((UsageError, DataError), match=word):
            run_reconstruction(FEW, fresh, steps=(step,))
    with pytest.raises(UsageError, match="audited before"):
        run_reconstruction(FEW, audited[0])
    assert not (fresh / "audit").exists()


def test_another_threshold_is_matched_without_attacking_again(audited, tmp_path):
    index = audited[0] / "private/audit/reconstruction/index.json"
    before = index.read_bytes()
    found = run_reconstruction(FEW.replace(threshold=-1.0), audited[0], steps=("match",), out=tmp_path)
    assert all(match.success == 1.0 for match in found.audit.matches)
    assert index.read_bytes() == before


def test_match_names_the_attacks_and_levels_that_were_created(audited, tmp_path):
    found = run_reconstruction(ReconstructionConfig(), audited[0], steps=("match",), out=tmp_path)
    assert found.attacks == ("trap",)
    assert set(found.levels) == {"this run", "epsilon 1e+03", "non-private"}


def test_a_dry_run_and_a_refusal_write_nothing(fresh, capsys):
    before = {path: path.stat().st_mtime_ns for path in fresh.rglob("*")}
    assert command(["audit", "reconstruct", str(fresh), "--dry-run"]) == 0
    assert "imprint-whitened" in capsys.readouterr().out
    assert command(["audit", "reconstruct", str(fresh), "--attacks", "magic"]) == 2
    assert "expected one of imprint-whitened" in capsys.readouterr().err
    assert command(["audit", "reconstruct", str(fresh / "nothing")]) == 2
    assert {path: path.stat().st_mtime_ns for path in fresh.rglob("*") if path.name != ".lock"} == before


def test_a_verdict_against_the_run_ends_with_code_5(audited, monkeypatch, tmp_path, capsys):
    """Planted fault: the bound is computed for four times the noise of the run."""
    real = counting.steps_of

    def quieter(levels, about):
        return tuple(
            replace(
                one,
                phases=tuple(
                    replace(phase, noise_multiplier=phase.noise_multiplier / 16) for phase in one.phases
                ),
            )
            for one in real(levels, about)
        )

    monkeypatch.setattr(counting, "steps_of", quieter)
    monkeypatch.setattr(counting.rank_one, "risk_curve", lambda phases, rates: _honest(audited, rates))
    words = ["--attacks", "trap", "--eps-first", "3", "--eps-last", "3", "--trials", "200", "--quiet"]
    code = command(["audit", "reconstruct", "match", str(audited[0]), "--out", str(tmp_path), *words])
    assert code == 5
    assert "succeeds more often than the guarantee allows" in capsys.readouterr().err


def _honest(audited, rates):
    from meninx.audit import mechanism
    from meninx.privacy.risk import risk_curve

    return risk_curve(mechanism.of_run(audited[0]).phases, rates=rates)


def test_too_few_patients_are_named(made, tmp_path):
    data, run = made
    cases = Manifest.read(data)
    train = cases.select(lambda case: case.split == "train")
    with pytest.raises(DataError, match="at least 4 patients in the test split"):
        steps.load_pools(train, _learned(run))
    few = cases.select(lambda case: case.split == "test")
    with pytest.raises(DataError, match="at least 2 patients in the training split"):
        steps.load_pools(few, _learned(run))


def test_no_patient_is_in_two_pools(made):
    data, run = made
    pools = steps.load_pools(Manifest.read(data), _learned(run))
    flat = [
        image.tobytes()
        for pool in (pools.members, pools.public, pools.heldout)
        for image in pool.images.numpy()
    ]
    assert len(set(flat)) == len(flat) == 60
    assert 0 <= float(pools.members.images.min()) <= float(pools.members.images.max()) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"eps_first": 5, "eps_last": 4},
        {"eps_last": 19},
        {"metrics": ()},
        {"metrics": ("ncc", "ncc")},
        {"sites": (3,), "colluders": 3},
        {"sites": (1,)},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        ReconstructionConfig(**wrong)


def test_quick_and_all_stand_for_attacks_and_names_are_taken_once():
    assert attacks_of(ReconstructionConfig()) == ("imprint-whitened", "cumulative", "readout")
    assert attacks_of(ReconstructionConfig(attacks=("all", "trap"))) == tuple(ATTACKS)
    assert attacks_of(ReconstructionConfig(attacks=("trap", "quick", "trap")))[0] == "trap"


# verdicts


def identified(**changes):
    known = {
        "level": "this run", "encoder": "whitened", "candidates": 10, "trials": 1000, "success": 0.15,
        "low": 0.13, "high": 0.17, "bound": 0.2,
    }  # fmt: skip
    return IdentificationRecord(**known | changes)


def ranked(**changes):
    known = {
        "pool": 61, "success": 0.02, "patients": 48.0, "low": 0.0, "high": 0.1, "noise_null": 0.015,
        "heldout_null": 0.02, "steps_null": 0.01, "control": 0.02, "bound": 0.99,
    }  # fmt: skip
    return RankingRecord(**within(known | changes))


def within(numbers):
    """An interval that holds its value."""
    low, value, high = (numbers[name] for name in ("low", "success", "high"))
    return numbers | {"low": min(low, value), "high": max(high, value)}


def matched(**changes):
    known = {
        "attack": "imprint-pca", "encoder": "pca", "view": "step", "level": "this run",
        "noise_multiplier": 1.0, "server": "malicious", "batch": 16, "participations": 1, "originals": 48,
        "patients": 48.0, "candidates": 128, "metric": "ncc", "threshold": 0.9, "nulls": 300,
        "level_of_null": 0.01, "noise_null": 0.01, "heldout_null": 0.0, "steps_null": 0.005, "success": 0.0,
        "low": 0.0, "high": 0.07, "control": 0.0, "control_patients": 40.0, "kappa": 0.02, "bound": 0.4,
        "quantiles": {"ncc": (0.9, 0.5, 0.1)}, "works": True, "self_test": 0.9, "seconds": 1.0,
    }  # fmt: skip
    return MatchRecord(**within(known | changes))


ABSENT = identified(success=0.1, low=0.08, high=0.12)


FOUND, MATCH = identified(), matched()


def audit(identification=(FOUND,), matches=(MATCH,), without=ABSENT, **changes):
    verdict, reason = verdict_of(identification, without, matches, own="this run", significance=0.05)
    known = {
        "identification": identification, "identified_without": without, "matches": matches,
        "not_attacked": {"readout": "the network has no linear layer"},
        "levels": (LevelRecord(name="this run", noise_multiplier=1.0, epsilon=4.0, own=True),),
        "sample_rate": 0.1, "steps": 100, "sampler": "poisson", "members": 100, "heldout": 50,
        "public": "50 patients", "pictures": "none", "seconds": 1.0, "significance": 0.05,
        "verdict": verdict, "reason": reason, "origin": Origin(run="0" * 32, data=""), "criteria": CRITERIA,
    }  # fmt: skip
    return ReconstructionAudit(**known | changes)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, "nothing found"),
        ({"matches": (matched(success=0.5),)}, "exposed"),
        ({"matches": (matched(success=0.5, level="epsilon 1e+09"), matched())}, "nothing found"),
        ({"identification": (identified(success=0.7, low=0.65, high=0.75, bound=0.8),)}, "exposed"),
        (
            {"identification": (identified(candidates=2, success=0.7, low=0.65, high=0.75, bound=0.8),)},
            "nothing found",
        ),
        ({"identification": (identified(excess=True),)}, "refuted"),
        ({"matches": (matched(success=0.5, excess=True),)}, "refuted"),
        ({"matches": (matched(works=False, self_test=0.1),)}, "void"),
        ({"matches": (matched(control=0.4),)}, "void"),
        ({"without": identified(success=0.3, low=0.27, high=0.33)}, "void"),
        ({"matches": ()}, "nothing found"),
        ({"matches": (matched(ranking=ranked(success=0.9)),)}, "exposed"),
        ({"matches": (matched(kappa=0.97, ranking=ranked()),)}, "nothing found"),
        ({"matches": (matched(kappa=0.97),)}, "cannot be judged"),
        (
            {"matches": (matched(patients=2.0, kappa=0.3, ranking=ranked(patients=1.0, pool=2)),)},
            "cannot be judged",
        ),
    ],
)
def test_the_verdict_follows_from_attacks_and_controls(given, verdict):
    found = audit(**given)
    assert found.verdict == verdict
    assert not claims_too_much(verdict_words(found))
    assert (found.reason != "") == (verdict in ("void", "cannot be judged"))


def test_an_attack_is_beyond_its_null_only_beyond_chance():
    assert not beyond_null(matched(success=1 / 48), 0.05)
    assert beyond_null(matched(success=10 / 48), 0.05) == (CLOSE,)
    assert not beyond_null(matched(success=0.5, patients=1.0), 0.05)
    assert not beyond_null(matched(success=10 / 48, steps_null=0.2), 0.05)
    assert not beyond_null(matched(success=0.5, kappa=0.9), 0.05)  # public images alone are as close


def test_images_that_single_out_their_patient_are_a_success_though_public_images_are_as_close():
    found = matched(success=0.4, kappa=0.99, ranking=ranked(success=0.95))
    assert beyond_null(found, 0.001) == (FIRST,)
    for without in ({"noise_null": 0.9}, {"heldout_null": 0.9}, {"steps_null": 0.9}, {"control": 0.9}):
        assert not beyond_null(matched(kappa=0.99, ranking=ranked(success=0.95, **without)), 0.001)
    assert not beyond_null(matched(kappa=0.99, ranking=ranked(success=0.95, patients=1.0)), 0.001)


def measured_line(record):
    part = AuditedPart(
        name="reconstruction",
        state=DONE,
        sha256="0",
        findings=findings(record),
        void=part_rules.RULES["reconstruction"].void(record),
    )
    return verdict_lines.lines([part], PlannedLimits(), verdict_lines.Reservations())[1]


@pytest.mark.parametrize(
    ("given", "colour", "word"),
    [
        ({}, "amber", "something found"),
        ({"identification": (ABSENT,)}, "amber", "nothing found, weak test"),
        ({"matches": (matched(success=0.5, low=0.35, high=0.65),)}, "red", "attack succeeded"),
    ],
)
def test_a_part_whose_control_failed_hides_nothing_that_another_found(given, colour, word):
    other = audit(**given)
    parts = [
        AuditedPart(name="reconstruction", state=DONE, sha256="0", findings=findings(other)),
        replace(
            AuditedPart(name="identity", state=DONE, sha256="0", void="the control failed"),
            findings=(replace(findings(audit())[0], key="identity/p@1", colour="grey", reason="a control"),),
        ),
    ]
    line = verdict_lines.lines(parts, PlannedLimits(), verdict_lines.Reservations())[1]
    assert (line.colour, line.word) == (colour, word)
    assert "identity: the control failed" in line.words


LINES = {"refuted": "red", "exposed": "red", "nothing found": "green", "void": "grey"}


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({"matches": (matched(works=False, self_test=0.1),)}, "void"),
        ({"matches": (matched(control=0.4),)}, "void"),
        ({"matches": (matched(control=0.4, success=0.9, low=0.8, high=0.95, excess=True),)}, "refuted"),
        ({"without": identified(success=0.3, low=0.27, high=0.33)}, "void"),
        # the lower limit of 2.5 %, the share of one of two controls, is below the guess, that of 5 % above it
        ({"without": identified(success=0.117, low=0.0977, high=0.14)}, "nothing found"),
        ({"without": identified(success=0.122, low=0.1, high=0.144)}, "void"),
        ({"matches": (matched(excess=True, level="epsilon 1e+09"), matched())}, "refuted"),
        ({"identification": (ABSENT, identified(level="epsilon 1e+09", excess=True))}, "refuted"),
        ({"matches": (matched(success=0.5, low=0.35, high=0.65),)}, "exposed"),
        ({}, "nothing found"),
    ],
)
def test_the_page_says_what_the_record_says(given, verdict):
    record = audit(**{"identification": (ABSENT,), **given})
    assert record.verdict == verdict
    line = measured_line(record)
    assert line.colour == LINES[verdict], line.words
    assert ("attack succeeded" in line.word) == (verdict in ("refuted", "exposed"))
    assert {one.colour for one in findings(record) if "control" in one.key} <= {"green", "grey"}


def test_several_attacks_are_judged_alike_by_record_and_page():
    """One of eight attacks is beyond its null at 5 % alone, but not among eight."""
    quiet = tuple(matched(attack=f"attack-{number}") for number in range(7))
    one = matched(attack="trap", success=6 / 48, low=0.04, high=0.25, kappa=0.04)
    assert beyond_null(one, 0.025)
    for matches, verdict in (((one,), "exposed"), ((one, *quiet), "nothing found")):
        record = audit(identification=(ABSENT,), matches=matches)
        assert record.verdict == verdict
        assert (measured_line(record).colour == "red") == (verdict == "exposed")
        assert ("EXPOSED" in verdict_words(record)) == (verdict == "exposed")


@pytest.mark.parametrize(
    ("changes", "colour", "words", "verdict"),
    [
        ({"success": 0.4, "kappa": 0.94}, "amber", "come as close in 94 %", "nothing found"),
        ({"success": 0.28, "kappa": 0.5}, "amber", "more often than the null", "nothing found"),
        ({"kappa": 1.0}, "grey", "public images alone come as close", "cannot be judged"),
        ({"kappa": 0.94, "patients": 20.0}, "grey", "cannot be judged", "cannot be judged"),
        ({"kappa": 0.3}, "green", "no more often than nulls and public", "nothing found"),
    ],
)
def test_an_attack_that_public_images_explain_is_not_green(changes, colour, words, verdict):
    record = audit(identification=(ABSENT,), matches=(matched(**changes),))
    found = next(one for one in findings(record) if one.key == "reconstruction/imprint-pca/step")
    assert (found.colour, record.verdict) == (colour, verdict)
    assert words in found.reason
    assert measured_line(record).colour == ("green" if colour == "green" else "amber")
    assert ("public images" in verdict_words(record)) == (colour == "amber")
    assert ("CANNOT BE JUDGED" in verdict_words(record)) == (colour == "grey")


def test_a_sentence_gives_the_interval_where_it_holds_the_bound():
    lucky = identified(candidates=2, trials=100, success=0.66, low=0.563, high=0.751, bound=0.648)
    one = findings(audit(identification=(lucky,)))[0]
    assert "in 66 % (56.3 % to 75.1 %, 100 trials)" in one.words
    assert "64.8 % on average, so what is above that is chance" in one.words
    free = findings(audit(identification=(replace(lucky, bound=1.0),)))[0]
    assert "nothing bounds it" in free.words
    assert free.bound is None


QUIET = (identified(success=0.1, low=0.08, high=0.12),)


@pytest.mark.parametrize(
    ("given", "verdict", "colour", "word"),
    [
        ({}, "nothing found", "green", "nothing found"),
        ({"matches": (matched(success=0.5),)}, "exposed", "red", "attack succeeded"),
        ({"matches": (matched(ranking=ranked(success=0.9)),)}, "exposed", "red", "attack succeeded"),
        ({"matches": (matched(works=False, self_test=0.1),)}, "void", "grey", "void"),
        ({"matches": (matched(control=0.4), matched(success=0.9))}, "void", "grey", "void"),
        ({"without": identified(success=0.3, low=0.27, high=0.33)}, "void", "grey", "void"),
        ({"matches": (matched(kappa=0.97),)}, "cannot be judged", "amber", "nothing found, weak test"),
    ],
)
def test_verdict_and_page_agree_and_a_failed_control_is_no_success(given, verdict, colour, word):
    found = audit(**{"identification": QUIET} | given)
    line = measured_line(found)
    assert (found.verdict, line.colour, line.word) == (verdict, colour, word)


def test_verdict_and_findings_agree_at_every_rate():
    """One significance decides, also where an attack alone would be beyond its null but not one of many."""
    for hits in range(49):
        matches = tuple(matched(success=one / 48) for one in (hits, 0, 0, 0, 0))
        found = audit(identification=QUIET, matches=matches)
        assert (found.verdict == "exposed") == (measured_line(found).colour == "red"), hits
        assert (found.verdict == "exposed") == bool(beyond_null(matches[0], each_test(0.05, 5)))


def test_rates_above_the_bound_by_chance_say_so_and_an_image_is_no_patient():
    high = identified(success=0.66, trials=100, low=0.56, high=0.75, bound=0.648)
    words = findings(audit(identification=(high,)))[0].words
    assert "a patient's image" in words
    assert "66 % (56 % to 75 %, 100 trials)" in words
    assert "so what is above that is chance" in words
    assert "chance" not in findings(audit())[0].words
    assert "narrowed an image to" in findings(audit(identification=(high,), unit="case"))[0].words


def test_a_run_with_noise_from_a_seed_has_no_bound():
    found = audit(matches=(matched(ranking=ranked()),), guaranteed=False)
    assert all(one.bound is None for one in findings(found))
    assert "nothing bounds it" in findings(found)[0].words
    assert "guarantee" not in " ".join(one.words + one.reason for one in findings(found))


def test_records_of_the_earlier_criterion_are_not_judged():
    found = audit(identification=QUIET, matches=(matched(success=0.5),), criteria=1)
    assert verdict_words(found) == "EXPOSED: imprint-pca succeeds at the noise of this run"
    assert measured_line(found).colour == "grey"
    early = audit(identification=QUIET, criteria=1)
    assert (early.verdict, early.standing) == ("nothing found", "cannot be judged")
    assert "match RUN --overwrite" in verdict_words(early)
    assert not [one for one in findings(found) if "imprint" in one.key and one.colour != "grey"]


def test_findings_have_stable_keys_colours_bounds_and_nulls():
    found = {
        one.key: one
        for one in findings(
            audit(
                identification=(
                    identified(),
                    identified(candidates=100, success=0.9, low=0.85, high=0.95, bound=0.97),
                ),
                matches=(
                    matched(),
                    matched(attack="trap", success=0.5, low=0.3, high=0.6),
                    matched(attack="cumulative", works=False, self_test=0.2),
                    matched(attack="trap", view="sum of 3 sites", success=5 / 48, low=0.03, high=0.2),
                    matched(level="epsilon 1e+09", success=1.0),
                ),
            )
        )
    }
    colours = {key: one.colour for key, one in found.items()}
    assert colours == {
        "reconstruction/rank1@n=10": "amber",
        "reconstruction/rank1@n=100": "red",
        "reconstruction/imprint-pca/step": "green",
        "reconstruction/trap/step": "red",
        "reconstruction/cumulative/step": "grey",
        "reconstruction/trap/sum-of-3-sites": "red",
        "reconstruction/readout/not-run": "grey",
        "reconstruction/negative-control": "green",
        "reconstruction/threshold-control": "green",
        "reconstruction/positive-control": "green",
    }
    first = found["reconstruction/rank1@n=10"]
    assert (first.value, first.null, first.bound, first.n, first.counted) == (0.15, 0.1, 0.2, 1000, "trials")
    assert "in the sum of 3 sites" in found["reconstruction/trap/sum-of-3-sites"].words


def test_where_nothing_is_guaranteed_no_bound_is_stated():
    """A run whose noise came from a seed."""
    held = verdict_lines.Reservations(void="the noise came from a seed")
    found = part_rules.findings_of("reconstruction", audit(), AuditPlan(), held)
    assert all(one.bound in (None, 1.0) for one in found)
    assert "nothing bounds it" in found[0].words
    assert part_rules.findings_of(
        "reconstruction", audit(), AuditPlan(), verdict_lines.Reservations()
    ) == findings(audit())


def test_findings_of_a_real_audit_are_complete(audited):
    found = {one.key for one in findings(audited[1].audit)}
    assert {"reconstruction/rank1@n=2", "reconstruction/rank1@n=10", "reconstruction/trap/step"} < found
    assert {"reconstruction/negative-control", "reconstruction/positive-control"} < found


def test_a_refuted_audit_raises(audited):
    result = replace(audited[1], audit=audit(identification=(identified(excess=True),)))
    with pytest.raises(AuditFinding, match="REFUTED"):
        result.raise_if_refuted()
    assert audited[1].raise_if_refuted() is None


def test_the_record_of_another_run_is_not_drawn(audited, fresh, tmp_path):
    place = tmp_path / "audit"
    place.mkdir()
    table = json.loads((audited[0] / "audit" / "reconstruction.json").read_text())
    table["origin"]["run"] = "f" * 32
    (place / "reconstruction.json").write_text(json.dumps(table))
    with pytest.raises(UsageError, match="another run"):
        run_reconstruction(FEW, audited[0], steps=("visualise",), out=tmp_path)
