"""Entry of the `colld` command, which starts in half a second and registers with fairseq only for verbs that need it.

Importing `colld_fairseq` registers its tasks, criterions and models with fairseq, because that import is all that
`--user-dir` does; so does importing any module below it. That takes seconds, as torch, fairseq and transformers are
imported too, and `colld --help` or `colld score` need none of them. While this module is loaded, the package leaves it
to the command, which calls `colld_fairseq.register` before a verb that uses models.
"""

import sys
from typing import List, Optional


def main(argv: Optional[List[str]] = None) -> int:
    """The `colld` command; returns its exit code."""
    from colld_fairseq.cli import main as command

    return command(argv)


if __name__ == "__main__":
    sys.exit(main())
