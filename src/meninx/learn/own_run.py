"""The run folder of a user's own loop: records, checkpoint and release, as in any run of meninx.

``meninx verify`` and ``meninx report`` read it. It does not contain the user's data and network, so ``meninx
evaluate`` and ``meninx train --resume`` refuse it (:func:`meninx.core.run.open_run`).

=====================  ============================================================================
file                   contents
=====================  ============================================================================
run.json               identity and state: starting, training from the first step on, and released when
                       every planned step was taken and the block ended without an error
config.toml            the plan; not a recipe
privacy.json           the guarantee, from the ledger; written every minute and when the loop ends
private/ledger.jsonl   one line per step
private/checkpoints    network, optimiser and position in the ledger
release/model.pt       the weights after the last step, a state_dict; with ``lineage.json`` and digests
=====================  ============================================================================
"""

from __future__ import annotations

import io
import math
import shutil
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor, nn

from meninx.core import artifacts, belonging, files, integrity, provenance, staging, workspace
from meninx.core import run as runs
from meninx.core.artifacts import Lineage, Origin, PrivacyRecord, RunRecord, RunState, StartRecord
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.run import Run
from meninx.learn import checkpoint, ledger_file, record
from meninx.learn.checkpoint import Kind
from meninx.learn.state import TrainState
from meninx.learn.state_digest import weights_digest
from meninx.privacy.ledger import Ledger
from meninx.privacy.plan import Plan

MODEL = "model.pt"
_VERSION = 1
_PROMISE_SECONDS = 60
_COMMAND = ("meninx.privacy.training",)
_NOTE = (
    "# The plan of a loop of the user's own (meninx.privacy.training). It is no recipe of `meninx train`.\n"
)
_NOT_BEGUN = "No step was taken yet: nothing was spent."
OUTSIDE = (
    "what the loop does with the data beside its private steps, such as preprocessing statistics, "
    "validation, early stopping and the choice among runs: data, labels and evaluation are the user's own, "
    "and meninx did not see them",
    "which rows belong to which patient, and that the rows given to a step are those that were drawn: meninx "
    "takes the user's word",
    "the training behind the starting weights, which meninx did not see",
)


class OwnRun:
    """The run folder of a user's own loop.

    Args:
        folder: its path; created if it does not exist.
        plan: the plan.
        declared_units: number of units that the user declared; None when the true one counts as public.
        deterministic: whether noise and sampling come from a seed.
    """

    def __init__(self, folder: Path, plan: Plan, *, declared_units: int | None, deterministic: bool) -> None:
        self.run, self.plan = Run(folder), plan
        self.declared_units, self.deterministic = declared_units, deterministic
        self._promised = -math.inf

    # begin and resume

    def begun(self, *, resume: bool) -> bool:
        """Return whether the folder holds a run with steps; ``resume`` must agree.

        Raises:
            UsageError: ``resume`` is wrong, or the folder holds other files, or the path is a file.
            PrivacyRefusal: a record of a run that took steps is missing.
        """
        run, known = self.run, self._record()
        workspace.outside(run.root)
        begun = run.ledger_path.is_file()
        lost = "restore private/ and run.json from a backup, or choose another folder"
        if known is None and begun:
            raise PrivacyRefusal(problem("run.json of the run is missing", where=run.name, fix=lost))
        taken = known is not None and bool(known.keys or known.ended or known.state is not RunState.STARTING)
        if not begun and (taken or self._checkpoint_steps()):
            raise PrivacyRefusal(problem("the ledger of the run is missing", where=run.name, fix=lost))
        if begun and not resume:
            raise UsageError(f"{run.name} holds a run that began before: give resume=True, or another folder")
        if resume and not begun:
            raise UsageError(
                f"{run.name} holds no run to resume: leave resume out, or give the folder of the run"
            )
        return begun

    def _checkpoint_steps(self) -> int:
        """Return the number of ledger lines at the last checkpoint; 0 without a checkpoint."""
        if not checkpoint.path_of(self.run, "last").is_file():
            return 0
        return int(self._checkpoint()["anchor"][0])

    def _record(self) -> RunRecord | None:
        """Return the record in the folder; refuse a folder with files that would be overwritten."""
        run = self.run
        if run.root.exists() and not run.root.is_dir():
            fix = "give a folder; it is made when it is not there"
            raise UsageError(problem("run is a file", where=run.name, fix=fix))
        known = run.record
        if known is not None and not known.own_loop:
            fix = "choose another folder; `meninx train DATA --resume` goes on with this one"
            raise UsageError(problem("the folder holds a run of `meninx train`", where=run.name, fix=fix))
        ours = (run.config_path, run.release, run.root / artifacts.place(PrivacyRecord))
        theirs = next((path.name for path in ours if path.exists()), "")
        if known is None and theirs and not run.ledger_path.is_file():
            fix = "choose a new folder"
            raise UsageError(problem(f"the folder holds other files: {theirs}", where=run.name, fix=fix))
        return known

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the records of a new run."""
        plan = self.plan
        terms: dict[str, Any] = {
            "unit": str(plan.unit),
            "relation": str(plan.relation),
            "delta": plan.delta,
            "noise_multiplier": plan.noise_multiplier,
            "max_grad_norm": plan.max_grad_norm,
            "clipping": plan.clipping,
            "sample_rate": plan.sample_rate,
            "expected_batch_size": plan.expected_batch_size,
            "units": plan.n_units_declared,
        }
        if self.declared_units is not None:
            terms["units_declared"] = self.declared_units
        table = {
            "model": {"name": type(model).__name__},
            "optim": {"optimizer": type(optimizer).__name__},
            "privacy": terms,
        }
        runs.furnish(
            self.run,
            config_toml=_NOTE + tomli_w.dumps(table),
            command=_COMMAND,
            private=True,
            deterministic=self.deterministic,
            own_loop=True,
        )
        entry = self.run.update(
            planned_steps=plan.steps, patients_known=plan.unit is PrivacyUnit.PATIENT, dataset=""
        )
        # The user's names of units need not be those of a dataset, so they are not compared with any.
        started = Lineage(
            run=entry.id,
            private=True,
            unit=str(plan.unit),
            patients_known=False,
            deterministic=self.deterministic,
            delta=plan.delta,
            unknown_start=True,
        )
        artifacts.write(self.run.root, started, private=True)
        self.run.update(secrets=belonging.secrets_of(self.run.root))
        self._write_promise(Ledger())

    def resume(self) -> None:
        """Check the records of a run that continues.

        Raises:
            UsageError: more steps are planned for a finished run, or ``deterministic_seed`` was not given
                consistently in all calls.
            PrivacyRefusal: a record was changed; or steps remain and the noise is correlated. With new keys
                the groups of units change, and a unit may take part more often than was planned.
        """
        run = self.run
        known = artifacts.require(run.root, RunRecord, fix="start a new run")
        restore = "restore the folder from a backup, or start a new run"
        if known.deterministic != self.deterministic:
            got = "a seed now" if self.deterministic else "none now"
            rule = "deterministic_seed in every call for a run, or in none"
            raise UsageError(expected(rule, got=got, where=run.name))
        changed = next(belonging.secrets_changed(run.root, known), "")
        if not run.config_path.is_file() or run.config_digest != known.config:
            changed = run.config_path.name
        elif known.ended and known.state is not RunState.RELEASED:
            changed = artifacts.place(RunRecord)
        elif belonging.promise_changed(run.root, known):
            changed = artifacts.place(PrivacyRecord)
        if changed:
            what = f"a record of the run was changed or is missing: {changed}"
            raise PrivacyRefusal(problem(what, where=run.name, fix=restore))
        if self.released and self.plan.steps > known.planned_steps:
            fix = f"start a new run; the weights lie in {run.release.name}/{MODEL}"
            raise UsageError(
                problem(f"the run is finished after {known.planned_steps} steps", where=run.name, fix=fix)
            )
        left = self.plan.steps > ledger_file.read(run).next_step
        if left and self.plan.noise_bands > 1:
            why = "a run with correlated noise cannot be resumed, because its keys live in memory alone"
            raise PrivacyRefusal(problem(why, where=run.name, fix="start a new run"))
        terms = tomllib.loads(files.read_text(run.config_path))["privacy"]
        self.declared_units = terms.get("units_declared")

    @property
    def released(self) -> bool:
        """Whether the run is finished; its records then no longer change."""
        known = self.run.record
        return known is not None and known.state is RunState.RELEASED

    # what is saved on the way

    def save(self, state: TrainState, ledger: Ledger, *, units: str, last: bool = False) -> None:
        """Write the checkpoint and the progress; ``privacy.json`` at the end and once a minute before.

        The record is written rarely because computing epsilon takes as long as several steps of a small
        network.

        Args:
            state: network, optimiser and step.
            ledger: as it is on the disk.
            units: digest of the units and their rows.
            last: whether the loop ends.
        """
        content = {
            "version": _VERSION,
            "state": state.state_dict(),
            "anchor": list(ledger.anchor),
            "plan": self.plan.fingerprint(),
            "units": units,
        }
        checkpoint.write(self.run, "last", Kind.OWN_LOOP, content)
        if ledger.entries:
            if last or time.monotonic() - self._promised >= _PROMISE_SECONDS:
                self._write_promise(ledger)
            self.run.update(state=RunState.TRAINING, step=ledger.next_step, planned_steps=self.plan.steps)

    def note_steps(self, ledger: Ledger) -> None:
        """Record in ``run.json`` that the run is in progress, after the first line of the ledger."""
        known = self.run.record if ledger.entries == 1 else None
        if known is not None and known.state is RunState.STARTING:
            self.run.update(state=RunState.TRAINING)

    def restore(self, state: TrainState, *, units: str) -> None:
        """Load the checkpoint, and check the ledger against it.

        Args:
            state: of the same network and optimiser.
            units: digest of the units and their rows.

        Raises:
            DataError: the file is damaged, or of another network.
            UsageError: it is a checkpoint of `meninx train`.
            PrivacyRefusal: it is missing or belongs to another plan or other units, or the ledger was
                shortened.
        """
        run = self.run
        if not checkpoint.path_of(run, "last").is_file():
            fix = "restore private/checkpoints from a backup, or start a new run"
            raise PrivacyRefusal(problem("the run has no checkpoint", where=run.name, fix=fix))
        content = self._checkpoint()
        if content["plan"] != self.plan.fingerprint():
            fix = "give the arguments with which the run began"
            raise PrivacyRefusal(problem("the plan differs from that of the run", where=run.name, fix=fix))
        if content["units"] != units:
            why = "the rows belong to other units than when the run began, so epsilon would not cover them"
            raise PrivacyRefusal(problem(why, where=run.name, fix="give the units of the run"))
        try:
            entries, head = content["anchor"]
            ledger_file.read(run, anchor=(int(entries), str(head)))
            state.load_state_dict(content["state"])
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            fix = "give the network and the optimiser of the run"
            raise DataError(
                problem("the checkpoint is of another network or optimiser", where=run.name, fix=fix)
            ) from error

    def _checkpoint(self) -> dict[str, Any]:
        """Return the content of the checkpoint, of this version and with a seal."""
        where = self.run.name
        content = checkpoint.read(self.run, "last", Kind.OWN_LOOP)
        if not content["sealed"] or not {"version", "state", "anchor", "plan", "units"} <= content.keys():
            raise DataError(problem("the checkpoint is damaged or not from meninx", where=where))
        if content["version"] != _VERSION:
            rule = f"a checkpoint of version {_VERSION}"
            raise DataError(expected(rule, got=repr(content["version"])[:40], where=where))
        return content

    def _write_promise(self, ledger: Ledger) -> None:
        """Write ``privacy.json`` from the ledger."""
        self._promised = time.monotonic()
        known = artifacts.require(self.run.root, RunRecord, fix="start a new run")
        public = f"the number of training units ({self.plan.unit}s) counts as public: none was declared"
        seeded = "noise and sampling came from deterministic_seed: no privacy against anyone who knows it"
        table = PrivacyRecord(
            private=True,
            sentence=_NOT_BEGUN,
            outside_guarantee=(
                *OUTSIDE,
                *([public] if self.declared_units is None else []),
                *([seeded] if self.deterministic else []),
            ),
            start=StartRecord(origin="unknown"),
            deterministic=self.deterministic,
            origin=Origin(run=known.id, data="", step=ledger.next_step, made=artifacts.now()),
            version=artifacts.FORMAT,
        )
        if ledger.accounts:
            spent = ledger.spent(self.plan.delta)
            table = record.promise(
                table,
                self.plan,
                ledger,
                spent,
                declared_units=self.declared_units,
                patients_known=known.patients_known,
            )
        artifacts.write(self.run.root, table)

    # the end

    def publish(self, model: nn.Module, ledger: Ledger) -> None:
        """Write the weights into ``release/`` and close the run; after a crash, resuming the run repeats it.

        Args:
            model: the network after the last planned step.
            ledger: with all planned steps.

        Raises:
            StorageError: the disk refused.
        """
        run, root = self.run, self.run.private / workspace.STAGING
        shutil.rmtree(root, ignore_errors=True)
        staged = root / run.release.name
        staged.mkdir(mode=0o700, parents=True)
        weights = {
            name: value.detach().cpu().clone()
            for name, value in model.state_dict().items()
            if isinstance(value, Tensor)
        }
        content = io.BytesIO()
        torch.save(weights, content)
        files.write_bytes(staged / MODEL, content.getvalue())
        started = artifacts.read(run.root, Lineage, private=True)
        if started is None:
            raise DataError(
                problem("the lineage of the run is missing", where=run.name, fix="start a new run")
            )
        artifacts.write(root, replace(started, ledger=tuple(run.ledger_text().split("\n"))))
        paths = [path for path in staged.iterdir() if path.is_file()]
        integrity.write(staged, integrity.measured(staged, paths))
        # Everything is written in a staging folder and moved at once, with the list of checksums last: a
        # folder that has the list is complete.
        staging.move_whole(staged, run.release, run.private / workspace.REPLACED, last=[integrity.CHECKSUMS])
        shutil.rmtree(root, ignore_errors=True)
        self._write_promise(ledger)
        known = run.update(step=ledger.next_step, planned_steps=self.plan.steps)
        made_by = provenance.environment(_COMMAND)
        origin = Origin(
            run=known.id,
            data="",
            weights=weights_digest(weights),
            step=ledger.next_step,
            made=artifacts.now(),
            command=made_by.command,
            versions=made_by.packages,
        )
        record.close(run, origin, released_step=ledger.next_step)
