"""Which weights suit the teachers? Short runs over a grid of weights, judged on the development set:

    python -m examples.multi_teacher_transducer.weights OUT --train A.tsv,B.tsv --dev C.tsv \\
        --teachers NAME=SPEC,NAME=SPEC

The grid: all multiples of 1/--steps that sum to 1; a teacher of weight 0 takes no part. For each point of it stage 1
learns from the teachers with these weights, stage 2 from the transcripts, and the development set is decoded greedily.
Jobs, recipes and every further option are those of run.py (--seeds 1,2,3, --shape, --teacher-cache, --stage1-settings
criterion.balance_updates=100); a finished job is not run again, a killed one resumes.

Prints a table, the best weights first, and writes it to OUT/weights.json: the error on the development set, each
teacher's share of the stage 1 loss and what the student keeps of it (linear CKA at the last validation).
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from tabulate import tabulate

from colld_fairseq.files import write_atomically
from colld_fairseq.report.training_log import read_log
from colld_fairseq.scoring.measures import LOWER_IS_BETTER, MEASURES, NAMES
from examples.driver import recipes
from examples.driver.jobs import at_a_time, run_jobs
from examples.driver.plan import Result
from examples.driver.scores import read_scores
from examples.multi_teacher_transducer import run
from examples.multi_teacher_transducer.run import Comparison, System

SHORT = ["--stage1-updates", "500", "--stage2-updates", "1000", "--beam", "1"]  # ours; what follows them counts


class WeightSearch(Comparison):
    """A comparison whose systems are the points of a grid of weights."""

    def __init__(self, args: argparse.Namespace, steps: int) -> None:
        self.steps = steps
        super().__init__(args)

    def possible_systems(self) -> Dict[str, System]:
        systems = {}
        for shares in shares_of(self.steps, len(self.teachers)):
            taking = {name: share for name, share in zip(self.teachers, shares) if share}
            weights = ",".join(f"{name}={share}" for name, share in taking.items())
            stage1 = {"task": {"teacher_weights": weights}} if len(taking) > 1 else {}
            name = "_".join(f"{name}{share}" for name, share in taking.items())
            systems[name] = System(weights, tuple(taking), stage1, unlabeled=False, kd=False)
        return systems


def shares_of(steps: int, teachers: int) -> Iterator[Tuple[int, ...]]:
    """All ways to give `steps` shares to so many teachers: (0, 2), (1, 1), (2, 0)."""
    if teachers == 1:
        yield (steps,)
        return
    for first in range(steps + 1):
        for rest in shares_of(steps - first, teachers - 1):
            yield (first, *rest)


def summarize(out: Path, results: List[Result]) -> List[Dict[str, Any]]:
    """A row for each point of the grid, the best first: weights; measure -> mean over languages and seeds; figures of
    the last validation of stage 1, mean over seeds."""
    rows = []
    for weights in dict.fromkeys(result.label for result in results):
        own = [result for result in results if result.label == weights]
        kinds = [read_scores(out / result.scores[0]) for result in own]
        kind = next(kind for kind in MEASURES if kind in kinds[0])
        scores = {name: statistics.fmean(one[kind]["mean"][name] for one in kinds) for name in MEASURES[kind]}
        last = [read_log(out / result.logs["stage 1"]).validations[-1] for result in own]
        learned = [name for name in last[0] if name.startswith(("share_", "cka_"))]
        figures = {name: statistics.fmean(one[name] for one in last) for name in learned}
        rows.append({"weights": weights, "scores": scores, "stage 1": figures})
    first = next(iter(rows[0]["scores"]))
    return sorted(rows, key=lambda row: row["scores"][first], reverse=not LOWER_IS_BETTER[first])


def table(rows: List[Dict[str, Any]]) -> str:
    measures = list(rows[0]["scores"])
    figures = list(dict.fromkeys(name for row in rows for name in row["stage 1"]))
    cells = [[row["weights"], *row["scores"].values(), *(row["stage 1"].get(name) for name in figures)] for row in rows]
    header = ["weights", *(NAMES[name] for name in measures), *figures]
    digits = ["", *[".2f"] * len(measures), *[".3f"] * len(figures)]
    return tabulate(cells, header, tablefmt="github", floatfmt=digits, missingval="-")


def arguments(argv: List[str]) -> Tuple[argparse.Namespace, int]:
    """Those of run.py, with the development set in the place of its test set, and the steps of the grid."""
    shown = dict(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser = argparse.ArgumentParser(**shown, allow_abbrev=False)
    parser.add_argument("--dev", required=True, help="speech-to-text manifests, comma-separated")
    parser.add_argument("--teachers", required=True, metavar="NAME=SPEC,...", help="several")
    parser.add_argument("--steps", type=int, default=4, help="of a weight from 0 to 1 (default: %(default)s)")
    own, others = parser.parse_known_args(argv)
    words = ["--dev", own.dev, "--test", own.dev, "--teachers", own.teachers]
    args = run.arguments([*SHORT, *others, *words])
    if own.steps < 1 or args.systems or "," not in own.teachers or len(args.students) > 1:
        parser.error("give several --teachers, --steps of 1 or more, one student, no --systems: those are the weights")
    return args, own.steps


def main() -> None:
    args, steps = arguments(sys.argv[1:])
    with recipes.errors_told():
        jobs, plan = WeightSearch(args, steps).plan()
    run_jobs(args.out, jobs, at_a_time(args.jobs))
    rows = summarize(args.out, [result for result in plan.results if result.group.endswith("greedy")])
    write_atomically(args.out / "weights.json", json.dumps(rows, indent=1).encode())
    print(f"{table(rows)}\n\nbest: task.teacher_weights='{rows[0]['weights']}'; written: {args.out}/weights.json")


if __name__ == "__main__":
    main()
