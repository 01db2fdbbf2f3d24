"""SiteAgent: a site's end of a study. It answers each request with the site's own training and aggregation.

It is the same object in one process (``simulate``), behind Flower and behind the mailbox::

    agent = SiteAgent("north", config, data, out, study="chest", part=part, ends=ends)
    reply = agent.handle(request)

What it promises lies on the disk of the site before it answers: the run folder holds weights, ledger and the
round at hand. A request that is asked again is answered the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from meninx.core import artifacts
from meninx.core.artifacts import RunRecord, StudyPart
from meninx.core.errors import DataError, Interrupted, MeninxError, PrivacyRefusal, expected, problem
from meninx.core.progress import SILENT, Progress
from meninx.federated import messages
from meninx.federated.aggregation_methods import SiteEnds
from meninx.federated.aggregators import SiteEnd
from meninx.federated.contribution import Contribution
from meninx.federated.messages import Position, Reply, Request
from meninx.federated.vector import Vector, WeightLayout, from_bytes, name_of
from meninx.learn import finetune
from meninx.learn.hooks import Hook, ProximalPull
from meninx.learn.trainer import never
from meninx.train import in_rounds
from meninx.train.config import TrainConfig
from meninx.train.in_rounds import RunInRounds
from meninx.train.stage import TrainResult


class SiteAgent:
    """One site of a study.

    Args:
        name: of the site.
        config: the study's training settings, with the site's own device.
        source: the site's prepared dataset.
        out: folder of the site's runs.
        study: name of the study.
        part: makes the record of the site's part, from the identifier of the run of the study.
        ends: makes the site's end of the aggregation.
        local: prefixes of weights that stay at the site.
        hooks: listeners of the trainer, e.g. the pull of FedProx.
        progress: shows steps and loss.
        stop: asked after each step; true interrupts the training.

    Attributes:
        name: of the site.
        result: of the released run; None before the end.
    """

    def __init__(
        self,
        name: str,
        config: TrainConfig,
        source: Path,
        out: Path,
        *,
        study: str,
        part: Callable[[str], StudyPart],
        ends: SiteEnds,
        local: tuple[str, ...] = (),
        hooks: tuple[Hook, ...] = (),
        progress: Progress = SILENT,
        stop: Callable[[], bool] = never,
    ) -> None:
        self.name = name
        self.result: TrainResult | None = None
        self._config, self._source, self._out, self._study = config, source, out, study
        self._part, self._ends, self._local, self._hooks = part, ends, local, hooks
        self._progress, self._stop = progress, stop
        self._stack, self._run_of = ExitStack(), ""
        self._run: RunInRounds | None = None
        self._end: SiteEnd | None = None
        self._layout: WeightLayout | None = None

    def handle(self, request: Request) -> Reply:
        """Return the reply to a request.

        Raises:
            Interrupted: the user stopped the site; its state is saved.
        """
        try:
            return self._answered(request)
        except Interrupted:
            raise
        except MeninxError as error:
            final = isinstance(error, PrivacyRefusal)
            return messages.Declined(site=self.name, reason=str(error), code=error.exit_code, final=final)

    def close(self) -> None:
        """Leave the run folder to others; a later request takes it up again."""
        self._stack.close()
        self._stack, self._run, self._end, self._layout, self._run_of = ExitStack(), None, None, None, ""

    @property
    def run_folder(self) -> Path | None:
        """The run folder of this site; None before the first round."""
        return self._run.run.root if self._run is not None else None

    def _answered(self, request: Request) -> Reply:
        at = request.at
        if at.study != self._study:
            raise DataError(
                expected(f"a request of study {self._study}", got="another study", where="request")
            )
        match request:
            case messages.Hello():
                return messages.Greeting(site=self.name, announcement=self._end_of(at).announce())
            case messages.Meet():
                self._end_of(at).meet(request.announcements)
                return messages.Done(site=self.name)
            case messages.Train():
                return self._train(request)
            case messages.Agree():
                signature = self._end_of(at).agree(at, request.survivors)
                return messages.Agreed(site=self.name, agreement=signature)
            case messages.Reveal():
                opened = self._end_of(at).reveal(at, request.agreements, request.lost)
                return messages.Revealed(site=self.name, reveal=opened)
            case messages.Recompute():
                share, matches = self._end_of(at).check(at, request.transcript, request.total)
                return messages.Recomputed(site=self.name, share=share, matches=matches)
            case messages.Finish():
                return self._finish(request)

    def _train(self, request: messages.Train) -> Reply:
        if self.name not in request.members:
            raise DataError(problem("the site is not a member of this round", where="request"))
        if not 0 < request.until <= request.horizon:
            rule = f"0 < until <= {request.horizon}"
            raise DataError(expected(rule, got=request.until, where="request"))
        run, layout = self._opened(request.at)
        model = from_bytes(request.model, layout.size)
        common = self._common(layout, model, run)
        for hook in self._hooks:
            if isinstance(hook, ProximalPull):
                hook.pull_to(common)
        trained = run.train(
            lambda: layout.unflatten(model, run.weights()),
            number=request.at.round,
            name=name_of(model),
            share=Fraction(request.until, request.horizon),
            seconds=request.seconds,
            stop=self._stop,
        )
        given = Contribution(
            layout.flatten(run.weights()) - model, run.units, math.nan if run.private else trained.loss
        )
        upload = self._end_of(request.at).upload(request.at, request.members, given)
        return messages.Uploaded(site=self.name, at=request.at, upload=upload)

    def _finish(self, request: messages.Finish) -> Reply:
        run, layout = self._opened(request.at)
        model = from_bytes(request.model, layout.size)
        self.result = run.finish(layout.unflatten(model, run.weights()), name=name_of(model))
        epsilon = self.result.privacy.epsilon if self.result.privacy else None
        return messages.Finished(site=self.name, epsilon=epsilon)

    @staticmethod
    def _common(layout: WeightLayout, model: Vector, run: RunInRounds) -> dict[str, Tensor]:
        """Return the common weights by name, without those that stay at the site."""
        whole = layout.unflatten(model, run.weights())
        return {name: value for name, value in whole.items() if name not in layout.local}

    def _end_of(self, at: Position) -> SiteEnd:
        """Return the end of the aggregation of a run of the study."""
        if self._end is None or self._run_of != at.run:
            self.close()
            self._end, self._run_of = self._ends(at.run), at.run
        return self._end

    def _opened(self, at: Position) -> tuple[RunInRounds, WeightLayout]:
        """Return the site's run of a run of the study, and the layout of its weights."""
        self._end_of(at)
        if self._run is None or self._layout is None:
            part = self._part(at.run)
            self._run = self._stack.enter_context(
                in_rounds.opened(
                    self._config,
                    self._source,
                    self._out,
                    study=part,
                    resume=find_run(self._out, part),
                    hooks=self._hooks,
                    progress=self._progress,
                )
            )
            self._layout = layout_of(self._run, self._local)
        return self._run, self._layout


def layout_of(run: RunInRounds, local: tuple[str, ...]) -> WeightLayout:
    """Return the layout of the common weights of a run."""
    network = run.training.state.model
    return WeightLayout.of(network, local=local, frozen=finetune.never_trained(network, run.config.model))


def find_run(out: Path, part: StudyPart) -> Path | None:
    """Return the run folder in ``out`` that is a part of a study; None when there is none."""
    for path in sorted(out.glob(f"*/{artifacts.place(RunRecord)}")) if out.is_dir() else ():
        record = artifacts.read(path.parent, RunRecord)
        if record is not None and record.study == part:
            return path.parent
    return None


class InProcess:
    """Exchange among sites of one process, one after the other; requests and replies travel as bytes.

    Args:
        sites: by name.
    """

    def __init__(self, sites: Mapping[str, SiteAgent]) -> None:
        self._sites = dict(sites)

    def present(self) -> frozenset[str]:
        """Return all sites."""
        return frozenset(self._sites)

    def ask(self, requests: Mapping[str, Request], *, within: float) -> Mapping[str, Reply]:
        """Return the replies of the sites that were asked."""
        replies = {}
        for name, request in requests.items():
            carried = messages.decode_request(messages.encode(request))
            replies[name] = messages.decode_reply(messages.encode(self._sites[name].handle(carried)))
        return replies
