"""``python -m meninx`` is the same as ``meninx``; under torchrun it trains, in several processes.

The command line is imported inside :func:`main`, so that Ctrl-C ends the program in the same way before the
imports are done as after.
"""

import os
import sys

_INTERRUPTED = 130  # the exit code of core.errors.Interrupted, which is not imported yet


def main() -> None:
    """Run the command line, or a process of torchrun, and exit with its code."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ and sys.argv[1:2] != ["train"]:
        print(
            "meninx: expected the verb train under torchrun, got another; run the others in one process",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        from meninx.cli import app

        app.main()
    except KeyboardInterrupt:
        print("meninx: interrupted; nothing was begun", file=sys.stderr)
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
