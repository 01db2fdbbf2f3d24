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
        obfuscate,
        predict,
        prepare,
        report,
        simulate,
        sweep,
        train,
        train_and_report,
        verify,
    )

    __version__: str

__all__ = [
    "__version__",
    "audit",
    "deidentify",
    "dossier",
    "evaluate",
    "load_model",
    "new_key",
    "obfuscate",
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
    __getattr__, __dir__ = lazy_exports(__name__, dict.fromkeys(__all__, "meninx.api"))
