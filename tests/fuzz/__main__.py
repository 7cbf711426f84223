"""Many cases of every property, for the night:

    python tests/fuzz --cases 10000 [--only NAME]

Prints how many cases were tried of each property. A case that fails is made as small as possible, printed, kept in
.hypothesis and tried first the next time; the exit code is then 1.
"""

import argparse
import logging
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from fuzz_cases import PROPERTIES, Property  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402


def run(one: Property, cases: int, **options) -> int:
    """Raises what the property raises on the smallest case that fails; returns how many were tried."""
    tried = 0

    @settings(max_examples=cases, deadline=None, suppress_health_check=list(HealthCheck), **options)
    @given(one.cases)
    def check(case):
        nonlocal tried
        tried += 1
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            one.check(case)

    check()
    return tried


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="of each property")
    parser.add_argument("--only", choices=sorted(PROPERTIES), help="this property alone")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    failed = total = 0
    for name, one in PROPERTIES.items():
        if args.only not in (None, name):
            continue
        started = time.time()
        try:
            tried = run(one, args.cases)
            total += tried
            print(f"{name}: {tried} cases, {time.time() - started:.0f} s", flush=True)
        except Exception:  # noqa: BLE001 - whatever it is, is what was looked for
            failed += 1
            print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)
    print(f"{total} cases, {failed} properties failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
