"""Medical images from a hospital's archive to a privately trained model, and a report of what was protected.

The stages as functions; each takes folders and settings and returns a small result with numbers in its
fields::

    import meninx

    meninx.deidentify("archive", "clean", key="north.key", site="north")
    meninx.prepare("clean", "data", reader="dicom", table="labels.csv", label_columns=["effusion"])
    run = meninx.train("data", recipe="tiny", epsilon=8.0, delta=1e-4)
    print(run.privacy.epsilon, meninx.evaluate(run.out).metrics["auroc"].value)
    meninx.report(["clean", "data", run.out], "report.html")

``meninx.privacy``, ``meninx.deid``, ``meninx.models`` and ``meninx.metrics`` offer what the stages are made
of. These five are public; other modules may change without notice (docs/reference/stability.md). Nothing
heavy is imported before a function is called.
"""

from typing import TYPE_CHECKING

from meninx.core.lazy import lazy_exports

if TYPE_CHECKING:
    from meninx.api import (
        audit,
        deidentify,
        dossier,
        evaluate,
        load_model,
        new_key,
        predict,
        prepare,
        report,
        simulate,
        sweep,
        train,
        train_and_report,
        verify,
    )
    from meninx.api_audits import (
        audit_attributes,
        audit_bounds,
        audit_identity,
        audit_membership,
        audit_one_run,
        audit_reconstruction,
        audit_scores,
    )
    from meninx.api_releases import audit_release, compare_releases, obfuscate, obfuscate_features

    __version__: str

__all__ = [
    "__version__",
    "audit",
    "audit_attributes",
    "audit_bounds",
    "audit_identity",
    "audit_membership",
    "audit_one_run",
    "audit_reconstruction",
    "audit_release",
    "audit_scores",
    "compare_releases",
    "deidentify",
    "dossier",
    "evaluate",
    "load_model",
    "new_key",
    "obfuscate",
    "obfuscate_features",
    "predict",
    "prepare",
    "report",
    "simulate",
    "sweep",
    "train",
    "train_and_report",
    "verify",
]

if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    _RELEASES = ("audit_release", "compare_releases", "obfuscate", "obfuscate_features")
    _PLACES = {name: "meninx.api_audits" if name.startswith("audit_") else "meninx.api" for name in __all__}
    _PLACES |= dict.fromkeys(_RELEASES, "meninx.api_releases")
    __getattr__, __dir__ = lazy_exports(__name__, _PLACES)
