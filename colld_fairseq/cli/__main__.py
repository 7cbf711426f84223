"""`python -m colld_fairseq.cli`: the `colld` command without its script, for example under `torchrun -m`."""

import sys

from colld_fairseq.cli import main

if __name__ == "__main__":
    sys.exit(main())
