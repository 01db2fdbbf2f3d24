"""``meninx audit``: the audit of a run by a plan, and each of its parts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from meninx.audit.config import (
    AttributesConfig,
    BoundsConfig,
    IdentityConfig,
    MembershipConfig,
    OneRunConfig,
    ScoresConfig,
)
from meninx.audit.plan_config import AuditConfig
from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.examples import epilogue
from meninx.cli.flags import with_settings
from meninx.cli.groups import GROUPS
from meninx.cli.reconstruct import reconstruct

HELP = GROUPS["audit"]
audit = App("audit", HELP, help_epilogue=epilogue("audit"))
audit.command(reconstruct)


@audit.default
@with_settings("parts", "canaries", "references", "seed", "deterministic", "dry_run", "overwrite")
def audit_run(
    run: Path,
    /,
    *,
    config: AuditConfig,
    recipe: Annotated[str | None, Parameter(name="--plan")] = None,
    out: Path | None = None,
    data: Path | None = None,
    fail_if: tuple[str, ...] = (),
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Audit a finished run: what is guaranteed, what attacks find, and whether the program works.

    Writes the audit into audit/ of the run folder: audit.json, the plan with the time of its registration,
    the record of each part, and a page without external resources. Finished parts are taken over when the
    command is repeated, and an interrupted one goes on. Exit code 5: a guarantee is refuted, or a condition
    is met.

    Args:
        run: A finished run of `meninx train`.
        recipe: TOML file with the plan; flags override it. By default bounds, one-run and membership.
        out: HTML page to write; by default audit/audit.html in the run folder.
        data: Folder of the run's dataset, if it was moved since the training.
        fail_if: Condition such as 'tpr@fpr=0.01 > 0.05' that ends the audit with exit code 5: the end of a
            finding's key, one of > >= < <=, and a number. The estimate is compared; lower(key) and upper(key)
            compare the ends of its interval. A finding without a number meets it.
    """
    early.runs(run)
    early.dataset(data)
    early.extra("train")
    early.device(config.device)
    from meninx import workflow

    result = workflow.audit(config, run, out, data=data, fail_if=fail_if, progress=output.progress())
    output.show(result)
    result.raise_if_failed()


@audit.command(help_epilogue=epilogue("audit bounds"))
@with_settings("units", "epsilon", "noise_multiplier", "sample_rate", "steps", "eps_min", "eps_max", "n_eps")
def bounds(
    *,
    config: BoundsConfig,
    run: Path | None = None,
    recipe: str | None = None,
    out: Path | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Bound what any attack on one patient can reach, over an axis of epsilon and for one recipe or run.

    Writes a table (bounds.csv), a record (bounds.json) and a figure (bounds.svg, bounds.png). No dataset is
    read. The mechanism comes from a run's ledger, from a recipe of `meninx train`, or from flags.

    Args:
        run: Private run whose ledger states the mechanism.
        recipe: Recipe of `meninx train` that states the mechanism, or TOML file with these settings.
        out: Folder of the four files; by default bounds/, or audit/ in the run folder.
    """
    early.extra("train")
    early.runs(run)
    from meninx.audit.bounds import run_bounds

    place = out or (Path("bounds") if run is None else run / "audit")
    output.show(run_bounds(config, place, run=run, recipe=recipe, progress=output.progress()))


@audit.command(help_epilogue=epilogue("audit scores"))
@with_settings("claimed_eps", "claimed_delta", "noise_multiplier", "sample_rate", "steps")
def scores(
    *,
    included: Annotated[Path, Parameter(name="--in")],
    excluded: Annotated[Path, Parameter(name="--out")],
    config: ScoresConfig,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Test a claimed guarantee by the scores of canaries, of any program's run.

    Each canary has to be included with probability 1/2, by its own coin. A score is any number that tends to
    be larger for included canaries. Exit code 5: the claim is refuted.

    Args:
        included: `.npy` file with the scores of the canaries that took part.
        excluded: `.npy` file with the scores of those that did not.
        recipe: TOML file with these settings; flags override it.
    """
    early.exists(included, excluded)
    from meninx.audit.scores import run_scores

    result = run_scores(config, included, excluded)
    output.show(result)
    result.raise_if_refuted()


@audit.command(name="one-run", help_epilogue=epilogue("audit one-run"))
@with_settings("canaries", "dry_run")
def one_run(
    run: Path,
    /,
    *,
    config: OneRunConfig,
    data: Path | None = None,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Test the implementation of a private run by training its twin with canaries.

    The twin has the settings, the data and the plan of the run, and takes as long. It is trained in the run's
    `private/` and removed when the audit is done. Half of the noise is tested as a positive control. An
    interrupted audit goes on when the command is repeated. Exit code 5: the run does not keep its guarantee,
    or the control was not found.

    Args:
        run: A finished run of `meninx train` with differential privacy.
        data: Folder of the run's dataset, if it was moved since the training.
        recipe: TOML file with these settings; flags override it.
    """
    early.runs(run)
    early.dataset(data)
    early.extra("train")
    early.device(config.device)
    from meninx.audit.one_run import run_one_run

    result = run_one_run(config, run, data=data, progress=output.progress())
    output.show(result)
    result.raise_if_refuted()


@audit.command(help_epilogue=epilogue("audit membership"))
@with_settings("references", "dry_run")
def membership(
    run: Path,
    /,
    *,
    config: MembershipConfig,
    out: Path | None = None,
    data: Path | None = None,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Attack a run's model: does it tell who took part in its training?

    Members are the patients of the training split, non-members those of the test split. Reference models are
    trained like the run, each on half of both, in the run's `private/`; an interrupted audit goes on when the
    command is repeated. Writes audit/membership.json, membership.csv and a figure, with a positive and a
    negative control, and for a private run the bound that no attack may exceed. Exit code 5: an attack
    exceeds the bound, or a control failed.

    Args:
        run: A finished run of `meninx train`.
        out: Folder that gets audit/ with record, table and figure; by default the run folder.
        data: Folder of the run's dataset, if it was moved since the training.
        recipe: TOML file with these settings; flags override it.
    """
    early.runs(run)
    early.dataset(data)
    early.extra("train")
    early.device(config.device)
    from meninx.audit.membership import run_membership

    result = run_membership(config, run, out=out, data=data, progress=output.progress())
    output.show(result)
    result.raise_if_refuted()


@audit.command(help_epilogue=epilogue("audit identity"))
@with_settings("attacks", "dry_run")
def identity(
    source: Path,
    /,
    *,
    config: IdentityConfig,
    probes: Path | None = None,
    out: Path | None = None,
    data: Path | None = None,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Link images to other images of the same patient: does a file without a name tell whose it is?

    Attacks are fitted on a part of the patients and measured on the others, against chance, against what
    labels and attributes alone link, and with a positive and a negative control. Writes audit/identity.json,
    identity.csv and a figure. An interrupted audit goes on when the command is repeated.

    Args:
        source: Prepared dataset, or finished run, whose dataset is taken.
        probes: Prepared dataset with changed images of the same cases, e.g. obfuscated ones: they ask, and
            images of the first dataset answer.
        out: Folder that gets audit/ with record, table and figure; by default the run folder, or identity/.
        data: Folder of the dataset of a run, if it was moved since the training.
        recipe: TOML file with these settings; flags override it.
    """
    early.extra("train")
    early.exists(source, probes)
    early.dataset(probes)
    early.dataset(data)
    early.device(config.device)
    from meninx.audit.reidentification import run_identity

    output.show(run_identity(config, source, probes=probes, out=out, data=data, progress=output.progress()))


@audit.command(help_epilogue=epilogue("audit attributes"))
@with_settings("attributes", "dry_run")
def attributes(
    run: Path,
    /,
    *,
    config: AttributesConfig,
    out: Path | None = None,
    data: Path | None = None,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Attack a run's model: what does it tell about sex, age, site or other attributes of a patient?

    Attacks see the model's outputs, its embedding, or the gradient of a patient. They are fitted on other
    patients than those that they judge, and compared with the most frequent value, with what the true labels
    alone tell, and with patients of the test split. Writes audit/attributes.json, attributes.csv and a
    figure, with a positive and a negative control, and for a private run the bound that no attack may exceed.
    Exit code 5: an attack exceeds the bound, or a control failed.

    Args:
        run: A finished run of `meninx train`.
        out: Folder that gets audit/ with record, table and figure; by default the run folder.
        data: Folder of the run's dataset, if it was moved since the training.
        recipe: TOML file with these settings; flags override it.
    """
    early.runs(run)
    early.dataset(data)
    early.extra("train")
    early.device(config.device)
    from meninx.audit.attributes import run_attributes

    result = run_attributes(config, run, out=out, data=data, progress=output.progress())
    output.show(result)
    result.raise_if_refuted()
