"""Checks before a run is resumed: everything that determines its gradients must be unchanged.

A resumed private run repeats the steps after its last checkpoint with the same noise as before. This
costs nothing only if the gradients are the same as well: the difference of two sums with equal noise would
show the gradients without noise. So settings, data, starting weights, keys, ledger and versions are compared.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core import artifacts, belonging, files, integrity, provenance
from meninx.core import run as runs
from meninx.core.artifacts import Ancestry, DataRecord, PrivacyRecord, RunRecord, RunState
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.manifest import MANIFEST_NAME, Manifest
from meninx.core.run import Run, read_key
from meninx.learn import checkpoint, ledger_file, pretrained
from meninx.learn.dp_step import Keys
from meninx.privacy.plan import Plan
from meninx.train import identity, lineage
from meninx.train.config import TrainConfig


def opened(path: Path) -> tuple[Run, bool]:
    """Return the run in a folder that is to be continued, and whether it was released.

    Raises:
        UsageError: the folder is not a run, or an earlier version made it.
        PrivacyRefusal: an earlier version made it, and it is private.
    """
    folder = runs.open_run(path)
    record = folder.record
    if record is None:
        private = folder.ledger_path.is_file()
        kind: type[Exception] = PrivacyRefusal if private else UsageError
        why = f"one of an earlier version{', whose guarantee does not hold' if private else ''}"
        fix = "start a new run; this one can still be evaluated"
        raise kind(expected("a run of this version to resume", got=why, where=folder.name, fix=fix))
    return folder, record.state is RunState.RELEASED


def refuse_changed_run(run: Run, plan: Plan | None) -> None:
    """Refuse to continue an unfinished run that was changed. The caller holds its lock.

    Args:
        run: the run folder.
        plan: the privacy plan of its settings; None without privacy.

    Raises:
        PrivacyRefusal, UsageError, DataError: the run ended earlier, or its keys, ledger, private records or
            the versions that took its last steps differ.
    """
    _refuse_reopening(run, plan)
    if plan is not None:
        _refuse_other_keys(run)
        _refuse_other_software(run)
    identity.refuse_changed_secrets(run)


def refuse_changed_release(folder: Run, source: Path) -> None:
    """Refuse to resume a finished run that was changed, because its noise would be added to other gradients.

    Raises:
        PrivacyRefusal: a private run was changed; the message names the part.
        UsageError: of another run.
    """
    known = artifacts.require(folder.root, RunRecord, fix="start a new run")
    problem = ""
    if not (artifacts.read(folder.root, DataRecord) and identity.own_data(folder, source)):
        problem = "another dataset"
    elif known.config != folder.config_digest:
        problem = "an edited config.toml"
    elif any(belonging.secrets_changed(folder.root, known)):
        problem = "a changed record in private/"
    elif not all(checkpoint.path_of(folder, name).is_file() for name in {"last", known.selected}):
        problem = "no checkpoints"
    elif known.private and not all(
        (folder.private / "keys" / f"{name}.key").is_file() for name in ("noise", "sampling")
    ):
        problem = "no secret keys"
    if known.private:
        written = artifacts.require(folder.root, PrivacyRecord, fix="start a new run")
        # The ledger must end exactly where the release says: a shorter one would hide steps, a pending line
        # is a step that was begun and may have been taken.
        ledger = ledger_file.read(folder, anchor=written.ledger)
        problem = problem or ("another ledger" if ledger.anchor != written.ledger or ledger.pending else "")
    if problem:
        kind = PrivacyRefusal if known.private else UsageError
        fix = "start a new run; --pretrained begins with the weights of this one"
        raise kind(expected("the finished run as it was released", got=problem, where=folder.name, fix=fix))


def own_inputs(run: Run, source: Path) -> str:
    """Return the keyed digest of a run's dataset.

    Raises:
        DataError: the dataset is not the one that the run was created with.
    """
    keyed = identity.own_data(run, source) if artifacts.read(run.root, DataRecord) else ""
    if not keyed:
        fix = "give the dataset the run was started with, or start a new run"
        raise DataError(
            problem("the cases differ from those that the run was started with", where=MANIFEST_NAME, fix=fix)
        )
    return keyed


def bound_inputs(data: Manifest, run: Run) -> str:
    """Return a keyed digest of a run's inputs other than its settings, computed from the files themselves.

    It is keyed, because the ledger, which contains it, is released with the lineage.

    Raises:
        PrivacyRefusal, DataError: the dataset is not the one that the run was created with.
    """
    keyed = own_inputs(run, data.root)
    key = read_key(run.key_path(identity.KEY))
    start = run.root / artifacts.place(Ancestry)
    images = (
        identity.contents(data)
        if artifacts.require(run.root, RunRecord, fix="start a new run").private
        else ""
    )
    return artifacts.keyed(key, "run", keyed, images, files.digest(start) if start.is_file() else "")


def recorded_start(config: TrainConfig, run: Run) -> Ancestry | None:
    """Return the run's record of its starting weights; refuse a file that was exchanged since then."""
    known = artifacts.read(run.root, Ancestry)
    if not config.model.pretrained:
        return known
    if known is None:  # without it, the cost of the runs behind the weights would be lost
        kind = PrivacyRefusal if config.privacy else DataError
        fix = f"restore {artifacts.place(Ancestry)}, or start a new run"
        raise kind(problem("the record of the starting weights is missing", where=run.name, fix=fix))
    path = pretrained.path_of(config.model.pretrained)
    if path.is_file() and files.digest(path) != known.sha256:
        fix = "restore the file, or start a new run"
        raise PrivacyRefusal(
            problem("the starting weights were changed since the run began", where="pretrained", fix=fix)
        )
    if bool(config.model.standardize) != (known.features is not None):
        fix = f"restore {artifacts.place(Ancestry)}, or start a new run"
        raise DataError(
            expected(
                "the statistics of the features", got="none, or some not asked for", where=run.name, fix=fix
            )
        )
    return known


def _refuse_reopening(folder: Run, plan: Plan | None) -> None:
    """Refuse to continue a run that has ended, whatever state ``run.json`` states.

    A release, or a ledger with all planned steps, ends a run. Only the release may still have to be written
    once
    more: a run that was killed at that moment has its last checkpoint, which is bound to the last line of the
    ledger.

    Raises:
        PrivacyRefusal: of a private run.
        UsageError: of another one.
    """
    known = artifacts.require(folder.root, RunRecord, fix="start a new run")
    published = any(
        (folder.release / name).exists() for name in (lineage.LINEAGE, integrity.CHECKSUMS, "bundle")
    )
    ledger = ledger_file.read(folder)
    whole = plan is not None and sum(account.steps for account in ledger.accounts) >= plan.steps
    last = checkpoint.path_of(folder, "last")
    if not last.is_file() and (published or whole):
        problem = "no checkpoints"
    elif published and known.config != folder.config_digest:
        problem = "an edited config.toml"
    # An older checkpoint would repeat steps whose noise is already part of the released weights.
    elif published and plan is not None and tuple(checkpoint.load(folder, "last")["anchor"]) != ledger.anchor:
        problem = "a checkpoint of an earlier step"
    elif known.ended:
        problem = f"the state {known.state} in run.json, which names a release"
    else:
        return
    kind = PrivacyRefusal if plan is not None else UsageError
    fix = "start a new run; --pretrained begins with the weights of this one"
    raise kind(expected("the finished run as it was", got=problem, where=folder.name, fix=fix))


def _refuse_other_keys(folder: Run) -> None:
    """Refuse a private run whose keys were exchanged since its first step, or whose ledger is missing.

    With new keys the run would start anew under the same identity, and the earlier cost would be lost.
    """
    known = artifacts.require(folder.root, RunRecord, fix="start a new run")
    if not known.keys:
        return
    fix = "restore private/ from a backup, or start a new run"
    ledger = ledger_file.read(folder)
    if not ledger.accounts:
        raise PrivacyRefusal(
            problem("the ledger of the interrupted run is missing", where=folder.name, fix=fix)
        )
    there = all(folder.key_path(name).is_file() for name in ("sampling", "noise"))
    if there and Keys.of(folder, resumed=True).stream != known.keys:
        raise PrivacyRefusal(
            problem(
                "the secret keys differ from those that the run began with", where="private/keys", fix=fix
            )
        )


def _refuse_other_software(folder: Run) -> None:
    """Refuse to repeat steps of a private run with software versions other than those that took them first.

    A repeated step has the same noise and counts once, so its gradients must be the same as well, but
    another version may compute other gradients. New steps have new noise and are allowed with any version,
    which is recorded with the first of them.
    """
    known, last = (
        artifacts.require(folder.root, RunRecord, fix="start a new run"),
        checkpoint.path_of(folder, "last"),
    )
    begin = int(checkpoint.load(folder, "last")["step"]) if last.is_file() else 0
    end, here = ledger_file.read(folder).next_step, provenance.software()
    # software lists (first step, versions); an entry ends where the next begins. Only entries that took steps
    # after the last checkpoint matter, because only these steps are repeated.
    ends = [*(step for step, _ in known.software[1:]), max(begin, end)]
    before = {text for (_, text), stop in zip(known.software, ends, strict=False) if stop > begin}
    if begin < end and before != {here}:
        other = " and ".join(sorted(before - {here})) or "unrecorded ones"
        fix = f"the same noise would cover other gradients; install {other} to resume, or start a new run"
        if not before:
            fix = "the same noise would cover other gradients; start a new run"
        rule = f"the versions that took steps {begin + 1} to {end} before ({other})"
        raise PrivacyRefusal(expected(rule, got=here, where="resume", fix=fix))
    if not known.software or known.software[-1][1] != here:
        kept = tuple(item for item in known.software if item[0] < end)
        folder.update(software=(*kept, (end, here)))
