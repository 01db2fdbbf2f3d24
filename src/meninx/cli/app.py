"""The program: verbs, recipes, and one place where errors become messages and exit codes."""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TextIO

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError

from meninx.cli import early
from meninx.cli.doctor import EXTRAS
from meninx.cli.examples import epilogue
from meninx.cli.flags import read_options, shown_default, without_tables
from meninx.cli.groups import GROUPS
from meninx.core import check, settings
from meninx.core.errors import (
    ConfigError,
    Interrupted,
    MeninxError,
    StorageError,
    UsageError,
    expected,
    problem,
)

VERBS = {
    "deid": "De-identify a DICOM archive with a site's own key.",
    "review": "Decide once per layout about text in pixels, on a page on this machine.",
    "registry": "Show what a site's identity registry holds, as numbers per issuer.",
    "reidentify": "Restore originals from an escrow, with its key and for a stated reason.",
    "prepare": "Build one dataset of cleaned images with labels, splits by patient and sites.",
    "train": "Train a model, with or without differential privacy, into a run folder.",
    "evaluate": "Measure a run on the test split, with intervals over patients.",
    "predict": "Predict new images with a trained model: probabilities and label maps.",
    "sweep": "Train over several epsilons and seeds; write a table and figure of utility against epsilon.",
    "report": "Write one HTML page about de-identification, data and runs.",
    "verify": "Check that a folder is complete and unchanged, and that its epsilon follows from its ledger.",
    "demo": "Run the full pipeline on synthetic patients of three hospitals that train together.",
    "recipes": "List, show or copy the packaged recipes.",
    "doctor": "Show what is installed and what this machine can do.",
    "completion": "Print a script that completes verbs and flags in your shell.",
}
HELP = (
    "Turn a hospital's DICOM archive into a privately trained model, and report in numbers what was "
    "protected and what was not."
)
REFUSED_BY_THE_SYSTEM = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
)
EPILOGUE = (
    "Exit codes: 0 done, 1 a bug, 2 usage, 3 data, 4 refused by a privacy guard, 5 an audit refuted a claim, "
    "130 interrupted."
)


def build_app() -> App:
    """Return the command line; verbs and groups are imported when they are called."""
    several = Parameter(consume_multiple=True, negative_iterable=(), show_default=shown_default)
    version = metadata.version("meninx")
    app = App(
        "meninx",
        HELP,
        help_epilogue=EPILOGUE,
        version=version,
        help_format="plaintext",
        default_parameter=several,
        suppress_keyboard_interrupt=False,
    )
    for name, help_text in VERBS.items():
        app.command(f"meninx.cli.{name}:{name}", name=name, help=help_text, help_epilogue=epilogue(name))
    for name, help_text in GROUPS.items():
        app.command(f"meninx.cli.{name}:{name}", name=name, help=help_text)
    return app


def app_for(arguments: list[str]) -> tuple[App, str]:
    """Return the command line and the readable source of the recipe that ``arguments`` name.

    Raises:
        ConfigError: no such recipe, or it is not TOML.
    """
    app, recipe = build_app(), _value_of("--recipe", arguments)
    app.config = (read_options,)
    return app, "" if recipe is None else settings.read_recipe(recipe)[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code of ``meninx.core.errors``."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # other programs share a hospital's machine; spinning threads starve them
    for number in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP; that stays so
            signal.signal(number, _interrupt)
    warnings.showwarning = _show_warning
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning about a recipe as one line, and any other as Python does."""
    if issubclass(category, settings.OldLayout):
        print(f"meninx: warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)


def run(arguments: list[str]) -> int:
    """Return the exit code of one command; messages go to stderr."""
    source, arguments = "", without_tables(arguments)
    try:
        app, source = app_for(arguments)
        _refuse_mistyped_part(arguments)
        _called(app, arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, so that a reader that went away is noticed before the interpreter ends
    except CycloptsError as error:
        return _say(UsageError(_wording(error)))
    except MeninxError as error:
        return _say(error, source)
    except KeyboardInterrupt:
        return _say(Interrupted("interrupted; run again with --resume where the stage offers it"))
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the result was complete; nobody reads it
        return 0
    except ModuleNotFoundError as error:
        extra = next(
            (name for name, modules in EXTRAS.items() if (error.name or "").partition(".")[0] in modules),
            None,
        )
        if extra is None:
            return _report_bug(error, verbose="--verbose" in arguments or "-v" in arguments)
        return _say(UsageError(early.missing_extra(extra, error.name or "")))
    except Exception as error:  # a bug: its message may hold a patient's value, so only its kind is shown
        if isinstance(error, OSError) and error.errno in REFUSED_BY_THE_SYSTEM:
            return _say(
                StorageError(
                    expected("the system to allow it", got=os.strerror(error.errno).lower(), where="files")
                )
            )
        return _report_bug(error, verbose="--verbose" in arguments or "-v" in arguments)
    return 0


def _called(app: App, arguments: list[str]) -> None:
    """Carry out a command; code that ends the process, e.g. a network of another package, is an error.

    Raises:
        UsageError: something called ``sys.exit`` with success before the command was done.
    """
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
        fix = "nothing after it was done; uninstall the package whose code did it"
        raise UsageError(problem("code that is not meninx's ended the command", fix=fix)) from error


def _wording(error: CycloptsError) -> str:
    """Return the text of an error of the command line; another library's word for a flag names ours."""
    if isinstance(error, UnknownOptionError):
        word, given = check.synonym(error.token.keyword or ""), error.token.keyword
        flag = f"--{word.replace('_', '-')}"
        if word and any(flag in argument.names for argument in error.argument_collection):
            return f"Unknown option: {given}. Did you mean {flag}?"
    return str(error)


def _refuse_mistyped_part(arguments: list[str]) -> None:
    """Refuse ``meninx audit bound``, which names neither a part nor a run, and name the part that is meant.

    Raises:
        UsageError: the word resembles the name of a part and no such file exists.
    """
    if arguments[:1] != ["audit"] or len(arguments) < 2 or Path(arguments[1]).exists():
        return
    from meninx.cli.audit import audit

    parts = [name for name in audit if not name.startswith("-")]
    meant = difflib.get_close_matches(arguments[1], parts, n=1, cutoff=0.75)
    if meant and meant != [arguments[1]]:
        fix = f"did you mean `meninx audit {meant[0]}`?"
        raise UsageError(problem("this is no run, and no part of an audit", where=arguments[1], fix=fix))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop as Ctrl-C does.

    A stage that saves between items does so; any other ends at once with exit code 130.
    """
    raise KeyboardInterrupt


def _say(error: MeninxError, source: str = "") -> int:
    """Print an error, with the recipe that settings may have come from, and return its exit code."""
    unnamed = source and isinstance(error, ConfigError) and source not in str(error)
    origin = f" [settings of {source} and the command line]" if unnamed else ""
    print(f"meninx: {error}{origin}", file=sys.stderr)
    return error.exit_code


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for position, word in enumerate(arguments):
        if word == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _report_bug(error: Exception, *, verbose: bool) -> int:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    handle, path = tempfile.mkstemp(
        prefix="meninx-bug-", suffix=".txt"
    )  # mode 0600: it may hold patients' values
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        traceback.print_exception(error, file=stream)
    if verbose:
        traceback.print_exception(error)
    where = f"{os.path.basename(frame.filename)}:{frame.lineno}"  # noqa: PTH119 (a frame's file name is a string)
    note = f"the traceback is in {path} (it may hold identifiers)"
    print(f"meninx: a bug: {type(error).__name__} at {where}; {note}", file=sys.stderr)
    return MeninxError.exit_code
