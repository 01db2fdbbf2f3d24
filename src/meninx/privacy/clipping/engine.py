"""The clipped gradient sum: per-unit gradients, each scaled to a bounded norm, from one backward pass.

A pass replaces the ``forward`` of every trained layer (:mod:`.layer_rules`) while it runs. In the backward
pass each layer writes the squared norms of its per-unit gradients, and a way to sum them, into a
:class:`~meninx.privacy.clipping.gradient_record.GradientRecord`. From the norms follow the clipping factors
(:func:`clip_factors`), and from these the weighted sums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from meninx.core import check
from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.privacy.clipping.clipped_sum import ClippedSum, PerSampleLoss
from meninx.privacy.clipping.dropout import keyed_dropout, no_other_randomness
from meninx.privacy.clipping.functional import functional_forward
from meninx.privacy.clipping.gradient_record import GradientRecord, row_norms
from meninx.privacy.clipping.layer import Layer, Pass
from meninx.privacy.clipping.layer_rules import Forward, refuse_moved_buffers, rule_of, trained_layers
from meninx.privacy.clipping.planner import Planner
from meninx.privacy.clipping.precision import pinned, refuse_unbounded
from meninx.privacy.clipping.raw_parameters import RawParameter, raw_parameter
from meninx.privacy.clipping.unit_rows import rows_of, slice_units

# A gradient computed from bfloat16 numbers may round differently in a batch of another shape, so its norm may
# exceed the measured one by this factor (the unit roundoff of bfloat16 is 2**-8).
BF16_MARGIN = 1 + 2.0**-8


def clipped_gradient_sum(
    model: nn.Module,
    per_sample_loss: PerSampleLoss,
    inputs: Tensor,
    targets: Tensor,
    *,
    unit_index: Tensor,
    n_units: int,
    max_grad_norm: float,
    clipping: str = "flat",
    views: int = 1,
    chunk: int | None = None,
    planner: Planner | None = None,
    precision: str = "fp32",
    functional: Collection[str] = (),
    row_keys: Tensor | None = None,
) -> ClippedSum:
    """Return the sum over privacy units of their gradients, each scaled to norm at most ``max_grad_norm``.

    Example (patient 0 has two cases)::

        >>> model, loss = nn.Linear(4, 2), nn.CrossEntropyLoss(reduction="none")
        >>> total = clipped_gradient_sum(model, loss, torch.randn(3, 4), torch.tensor([0, 1, 0]),
        ...                              unit_index=torch.tensor([0, 0, 1]), n_units=2, max_grad_norm=1.0)
        >>> total.units, total.sensitivity, tuple(total.gradients["weight"].shape)
        (2, 1.0, (2, 4))

    The gradient of a case is that of its loss averaged over its views. The gradient of a unit is the sum over
    its cases, and it is clipped once. A unit whose gradient is not finite contributes exactly 0.

    Args:
        model: trainable parameters are those with ``requires_grad``; the model is not changed.
        per_sample_loss: (outputs, targets) of leading length B -> (B,) losses, each from its own row.
        inputs: (cases * views, C, ...), the views of a case next to each other.
        targets: (cases * views, ...), in the same order.
        unit_index: (cases,) in [0, n_units): the unit of every case; all its cases must be in this one call.
        n_units: units drawn for the step, over all physical batches.
        max_grad_norm: clipping threshold C > 0.
        clipping: ``"flat"``, ``"auto-s"`` or ``"per-layer"``: see
            :func:`~meninx.privacy.clipping.engine.clip_factors`.
        views: K >= 1.
        chunk: largest number of cases in one forward pass, None for all; changes memory only. A unit with
            more cases takes several passes, whose gradients are added before they are clipped once.
        planner: chooses kernels; None for the fixed rule.
        precision: ``"fp32"``, or ``"bf16"`` for autocast, with clipping to C / (1 + 2**-8) so that C holds.
        functional: paths of modules without a rule, to run row by row under torch.func.
        row_keys: (cases * views,) int64 keys of dropout masks; needed with active dropout.

    Guarantee:
        With all cases of a unit in this call, adding or removing the unit changes the sum by at most
        ``max_grad_norm`` in L2 norm, whatever its data, up to float32 rounding of the sum (2**-24 of the
        bound for each unit in it); one unit's own contribution exceeds the bound by less than one part in
        1e4. Sums over units are made in float32, also with bfloat16, and in full precision whatever the
        caller allows (:mod:`.precision`). This holds for models whose rows do not interact and whose weights
        are used by their own layers alone. Call :func:`~meninx.privacy.clipping.proof.prove` on a model
        first: this function refuses layers known to mix rows and trained weights that autograd reaches
        outside their layer, but does not inspect other code.

    Raises:
        PrivacyRefusal: an unsafe or unknown module, or one that writes to buffers or draws random numbers; or
            precision fp16.
        DataError: lengths do not fit.

    References:
        Abadi et al. (2016), Deep Learning with Differential Privacy, Algorithm 1 ("clip gradient").
        Bu et al. (2023), Differentially Private Optimization on Large Model at Small Cost (book-keeping).
    """
    check.positive(max_grad_norm=max_grad_norm, views=views, chunk=chunk)
    check.one_of(CLIPPING_FUNCTIONS, clipping=clipping)
    refuse_unbounded(precision)
    _check_lengths(inputs, targets, unit_index, n_units, views, row_keys)
    engine = _Engine(
        model, per_sample_loss, planner or Planner(), clipping, precision, trained_layers(model, functional)
    )
    total = ClippedSum.empty(model, max_grad_norm=max_grad_norm, n_units=n_units)
    with pinned(inputs.device.type):
        for picked in slice_units(unit_index.detach().cpu().numpy(), chunk) if chunk else ():
            engine.add_slice(
                total, inputs, targets, unit_index, views, torch.from_numpy(picked), chunk or 1, row_keys
            )
        return total if chunk else engine.add(total, inputs, targets, unit_index, views, row_keys)


def row_gradients(
    model: nn.Module,
    per_sample_loss: PerSampleLoss,
    inputs: Tensor,
    targets: Tensor,
    *,
    functional: Collection[str] = (),
) -> dict[str, Tensor]:
    """Return the gradient of every row, name -> (rows, *parameter), as the engine computes it.

    :func:`~meninx.privacy.clipping.proof.prove` compares them with those of plain autograd.
    """
    layers = trained_layers(model, functional)
    engine = _Engine(model, per_sample_loss, Planner(mode="store"), "flat", "fp32", layers)
    with torch.no_grad(), pinned(inputs.device.type):
        return engine.kept(inputs, targets)


def _check_lengths(
    inputs: Tensor, targets: Tensor, unit_index: Tensor, n_units: int, views: int, row_keys: Tensor | None
) -> None:
    """Raise DataError unless the lengths agree and every unit is an integer in [0, n_units)."""
    cases = len(unit_index)
    if unit_index.dim() != 1 or len(inputs) != cases * views or len(targets) != cases * views:
        got = f"{len(inputs)} inputs, {len(targets)} targets, {cases} cases of {views} views"
        raise DataError(
            expected("inputs and targets of length cases * views", got=got, where="clipped_gradient_sum")
        )
    if unit_index.is_floating_point() or (
        cases and not bool(((unit_index >= 0) & (unit_index < n_units)).all())
    ):
        raise DataError(
            problem("a unit is no whole number in [0, n_units)", where="clipped_gradient_sum, unit_index")
        )
    if row_keys is not None and len(row_keys) != len(inputs):
        raise DataError(expected(f"{len(inputs)} row_keys", got=len(row_keys), where="clipped_gradient_sum"))


class _Engine:
    """Passes of one model with fixed settings."""

    def __init__(
        self,
        model: nn.Module,
        loss: PerSampleLoss,
        planner: Planner,
        clipping: str,
        precision: str,
        layers: list[Layer],
    ) -> None:
        self.model, self.loss, self.planner, self.clipping, self.layers = (
            model,
            loss,
            planner,
            clipping,
            layers,
        )
        self.dtype = torch.bfloat16 if precision == "bf16" else None
        owners = {name: layer.path for layer in layers for name in layer.trained.values()}
        self.groups = clipping_groups(owners, clipping)

    def add_slice(
        self,
        total: ClippedSum,
        inputs: Tensor,
        targets: Tensor,
        unit_index: Tensor,
        views: int,
        cases: Tensor,
        chunk: int,
        row_keys: Tensor | None = None,
    ) -> None:
        """Add the clipped gradients of the units with these ``cases`` to ``total`` in place."""
        rows = (cases[:, None] * views + torch.arange(views)).flatten().to(inputs.device)
        owner = unit_index[cases.to(unit_index.device)]
        keys = None if row_keys is None else row_keys[rows.to(row_keys.device)]
        if len(cases) > chunk:
            self.add_long(total, inputs[rows], targets[rows], int(owner[0]), views, chunk, keys)
        else:
            self.add(total, inputs[rows], targets[rows], owner, views, keys)

    @torch.no_grad()
    def add_long(
        self,
        total: ClippedSum,
        inputs: Tensor,
        targets: Tensor,
        unit: int,
        views: int,
        chunk: int,
        row_keys: Tensor | None = None,
    ) -> None:
        """Add the clipped gradient of one unit with more cases than fit into a pass to ``total`` in place."""
        # The unclipped gradients of all pieces are added first. Clipping each piece would let the unit
        # contribute one threshold per piece.
        whole: dict[str, Tensor] = {}
        most = chunk * views
        keys = [None] * -(-len(inputs) // most) if row_keys is None else torch.split(row_keys, most)
        pieces = zip(torch.split(inputs, most), torch.split(targets, most), keys, strict=True)
        for xs, ys, own in pieces:
            record = GradientRecord.empty(
                rows_of(torch.zeros(len(xs) // views, dtype=torch.int64), views), self.groups, inputs.device
            )
            self._pass(record, xs, ys, views, own)
            record.finish()
            one, every = (
                record.squares.new_ones(record.squares.shape),
                torch.ones(1, dtype=torch.bool, device=inputs.device),
            )
            for name in total.gradients:
                part = record.total(name, one, every)
                if part is not None:
                    whole[name] = whole[name] + part if name in whole else part
            record.clear()
        squares = record.squares.new_zeros(record.squares.shape)
        for name, value in whole.items():
            squares[0, self.groups[name]] += row_norms(value.reshape(1, -1))[0].square()
        factor, keep = clip_factors(squares, self._bound(total), self.clipping)
        total.unit_norms[unit], total.present[unit] = float(squares.sum().sqrt()), True
        if bool(keep[0]):
            for name, value in whole.items():
                total.gradients[name] += value * factor[0, self.groups[name]].to(value.dtype)

    @torch.no_grad()
    def add(
        self,
        total: ClippedSum,
        inputs: Tensor,
        targets: Tensor,
        unit_index: Tensor,
        views: int,
        row_keys: Tensor | None = None,
    ) -> ClippedSum:
        """Add the clipped gradients of a physical batch to ``total`` in place, and return it."""
        rows = rows_of(unit_index, views)
        record = GradientRecord.empty(rows, self.groups, inputs.device)
        if rows.count:
            keys = None if row_keys is None else rows.arranged(row_keys)
            self._pass(record, rows.arranged(inputs), rows.arranged(targets), views, keys)
        squares = record.finish()
        factor, keep = clip_factors(squares, self._bound(total), self.clipping)
        members, first = rows.members.to(total.present.device), not bool(total.present.any())
        total.unit_norms[members] = squares.sum(1).sqrt()
        total.present[members] = True
        for name, gradient in total.gradients.items():
            # From here on only clipped gradients are summed; the record's factors and norms stay private.
            part = record.total(name, factor, keep)
            if part is not None:
                total.gradients[name] = part if first else gradient.add_(part)
        record.clear()
        return total

    def _bound(self, total: ClippedSum) -> float:
        """Return the threshold at which ``total.sensitivity`` holds even after rounding to bfloat16."""
        return total.sensitivity / (BF16_MARGIN if self.dtype else 1.0)

    def kept(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the gradients of all rows, each row a unit."""
        rows = rows_of(torch.arange(len(inputs)), 1)
        record = GradientRecord.empty(rows, self.groups, inputs.device)
        self._pass(record, inputs, targets, 1)
        record.finish()
        return record.each()

    def _pass(
        self,
        record: GradientRecord,
        inputs: Tensor,
        targets: Tensor,
        views: int,
        row_keys: Tensor | None = None,
    ) -> None:
        """Run the model forward and backward once; the record receives norms and gradients."""
        # The weights are detached in every layer rule, so nothing else would need a gradient. This scalar
        # makes each layer call a node of the graph and is the only input that backward asks for.
        slot = torch.zeros((), device=inputs.device, requires_grad=True)
        run = Pass(record, self.planner, self.dtype)
        inside = [layer.path for layer in self.layers if layer.functional]
        masks, guard = (
            keyed_dropout(self.model, row_keys, leave=inside),
            no_other_randomness(self.model, inputs),
        )
        with torch.enable_grad(), self._stood_in(run, slot), masks, _buffers_untouched(self.model), guard:
            with self._autocast(inputs.device.type):
                outputs = self.model(inputs)
                if isinstance(outputs, RawParameter):
                    rule, got = "an output computed from the inputs", "one of parameters alone"
                    raise PrivacyRefusal(expected(rule, got=got, where="the model's output"))
                losses = self.loss(outputs, targets)
            _refuse_reached(self.model, losses, run.record.leaves)
            # The sum over rows keeps per-row gradients apart: row i of any activation's gradient depends on
            # row i alone.
            torch.autograd.backward(losses.sum() / views, inputs=[slot])

    def _autocast(self, device: str) -> AbstractContextManager[object]:
        return torch.autocast(device, dtype=self.dtype) if self.dtype else nullcontext()

    @contextmanager
    def _stood_in(self, run: Pass, slot: Tensor) -> Iterator[None]:
        """Replace the forward of the trained layers by their rules for the duration of a block."""
        # In the instance's __dict__, which takes precedence over the class: the model is restored by removing
        # the entry, also after an error.
        try:
            for layer in self.layers:
                layer.module.__dict__[_replaced(layer)] = _stand_in(layer, run, slot)
            yield
        finally:
            for layer in self.layers:
                layer.module.__dict__.pop(_replaced(layer), None)


def _replaced(layer: Layer) -> str:
    """Return the attribute of the layer's module that is replaced during a pass."""
    return next(iter(layer.trained)) if layer.raw else "forward"


def _stand_in(layer: Layer, run: Pass, slot: Tensor) -> Forward | RawParameter:
    if layer.raw:
        return raw_parameter(layer, run, slot)
    if layer.functional:
        return functional_forward(layer, run, slot)
    rule = rule_of(layer.module)
    assert rule is not None  # the inventory refused it otherwise
    return rule.bind(layer, run, slot)


def _refuse_reached(model: nn.Module, losses: Tensor, leaves: dict[str, Tensor]) -> None:
    """Refuse a pass in which autograd reaches a trained weight.

    Layer rules detach the weights that they use. A weight in the graph was used by other code as well, and
    that part of its gradient would be neither measured nor clipped.

    Raises:
        PrivacyRefusal: names the weight that was used outside its layer.
    """
    names = {id(value): name for name, value in model.named_parameters() if value.requires_grad}
    names |= {id(leaf): name for name, leaf in leaves.items()}
    seen, left = set(), [losses.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left.extend(after for after, _ in node.next_functions)
        name = names.get(id(getattr(node, "variable", None)))
        if name is not None:
            what = "the weight is used outside its own layer"
            fix = "use it through its layer, or run the module row by row (functional)"
            raise PrivacyRefusal(problem(what, where=name, fix=fix))


@contextmanager
def _buffers_untouched(model: nn.Module) -> Iterator[None]:
    """Refuse a forward pass that writes to a buffer, and restore the buffer."""
    # In-place writes raise the tensor's version counter; an assignment replaces the object. Both are checked,
    # because comparing values would miss a write that happens to leave them equal.
    buffers = dict(model.named_buffers())
    kept = {name: value.detach().clone() for name, value in buffers.items()}
    versions = {name: value._version for name, value in buffers.items()}
    try:
        yield
    finally:
        moved = [
            name
            for name, value in model.named_buffers()
            if value is not buffers[name] or value._version != versions[name]
        ]
        for name in moved:
            buffers[name].copy_(kept[name])
        refuse_moved_buffers(moved)


CLIPPING_FUNCTIONS = ("flat", "auto-s", "per-layer")
AUTO_S_GAMMA = 0.01
# Smaller factors would lose precision in float32; such a unit is treated like one with a non-finite gradient.
_LEAST_FACTOR = 1e-30


def clipping_groups(parameters: dict[str, str], clipping: str) -> dict[str, int]:
    """Return the clipping group of every parameter: one for all, or one per layer.

    Args:
        parameters: full name -> path of the layer that owns it.
        clipping: one of :data:`CLIPPING_FUNCTIONS`.
    """
    if clipping != "per-layer":
        return dict.fromkeys(parameters, 0)
    numbers = {path: number for number, path in enumerate(dict.fromkeys(parameters.values()))}
    return {name: numbers[path] for name, path in parameters.items()}


def clip_factors(squares: Tensor, bound: float, clipping: str) -> tuple[Tensor, Tensor]:
    """Return the factor of every unit and group, and which units contribute at all.

    Example::

        >>> factors, keep = clip_factors(torch.tensor([[4.0], [0.25], [torch.inf]]), 1.0, "flat")
        >>> factors.flatten().tolist(), keep.tolist()
        ([0.5, 1.0, 0.0], [True, True, False])

    Args:
        squares: (units, groups) float64 squared norms.
        bound: C > 0; each of G groups gets C / sqrt(G).
        clipping: ``"flat"`` (and ``"per-layer"``): min(1, C / norm); ``"auto-s"``: C / (norm + 0.01).

    Returns:
        (units, groups) float64 factors, 0 for units that do not contribute, and (units,) bool. A caller must
        drop the gradients of units marked False, because 0 times NaN is NaN.

    Guarantee: with each group multiplied by its factor, the norm of a unit's gradient is at most ``bound`` up
        to rounding; a unit whose norm is not finite, or so large that its factor has no precision,
        contributes exactly 0.

    References:
        Abadi et al. (2016), Deep Learning with Differential Privacy, Algorithm 1; McMahan et al. (2018), A
        General Approach to Adding Differential Privacy to Iterative Training Procedures, section 3
        (per-layer). Bu et al. (2023), Automatic Clipping, equation 4.2 (AUTO-S).
    """
    norms = squares.sqrt()
    share = bound / squares.shape[1] ** 0.5
    found = share / (norms + AUTO_S_GAMMA) if clipping == "auto-s" else (share / norms).clamp(max=1.0)
    keep = (torch.isfinite(norms) & (found > _LEAST_FACTOR)).all(1)
    return torch.where(keep[:, None], found, 0.0), keep
