"""``python -m meninx`` is the same as ``meninx``; under torchrun it trains, in several processes."""

import os
import sys

from meninx.cli.app import main

if __name__ == "__main__":
    if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ and sys.argv[1:2] != ["train"]:
        print(
            "meninx: expected the verb train under torchrun, got another; run the others in one process",
            file=sys.stderr,
        )
        sys.exit(2)
    main()
