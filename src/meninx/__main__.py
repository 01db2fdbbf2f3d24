"""``python -m meninx`` is the same as ``meninx``."""

from meninx.cli.app import main

if __name__ == "__main__":
    main()
