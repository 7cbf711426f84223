"""Test the papers' claims: train what a plan compares, and judge it:

    python -m examples.campaign.run examples/campaign/campaign.yaml OUT --claims 4 --corpora german_english=DIR
    python -m examples.campaign.run examples/campaign/claim4.yaml OUT --corpora german_english=DIR     (the same)

Before anything starts it says what the plan costs on two cores; --dry-run says no more than that. What systems or
claims have in common is done once. A finished job is not run again, a killed one resumes; a run that does not leave its
plateau is stopped and named. Ends with OUT/report.md: verdicts with intervals, tables, plots, and where each figure
comes from. What is given of teachers and data is kept in OUT, and need not be given again.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch
from tabulate import tabulate

from colld_fairseq.devices import has_fast_bfloat16, pick_device
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import write_atomically
from colld_fairseq.named_values import all_named
from colld_fairseq.profiling import describe_machine
from colld_fairseq.teachers import describe_teacher
from examples.campaign.build import Builder, Inputs, teachers_in
from examples.campaign.cost import claim_jobs, cost_rows, measure, read_speeds, system_rows
from examples.campaign.plan import Campaign, Claim, every_claim, read_campaign
from examples.campaign.plateau import PlateauWatch
from examples.campaign.prepare import SPLITS
from examples.campaign.report import verdicts_table, write_report
from examples.campaign.tune import Tuning, pick, tuning_runs
from examples.driver.jobs import ROOT, at_a_time, run_jobs
from examples.driver.recipes import absolute_spec, errors_told, resolved, words
from examples.driver.report import markdown_table

KEPT = ("teachers", "corpora", "unlabeled", "ngram_lm", "precision")


def main() -> None:
    args = arguments(sys.argv[1:])
    with errors_told():
        sys.exit(run(args))


def run(args: argparse.Namespace) -> int:
    """Exit code: 0 where every job is done, 1 where the budget was spent before. Raises ColldError on bad input."""
    campaign = read_campaign(args.plan)
    claims = every_claim(campaign, args.claims)
    inputs = resolve(campaign, claims, args)
    parallel = at_a_time(args.jobs)
    deadline = None if args.budget_hours is None else time.time() + 3600 * args.budget_hours
    builder = Builder(campaign, args.out, inputs)
    if not (args.dry_run or args.report_only):
        check_there(inputs)
        keep(args)
        if args.measure:
            inputs.speeds.update(measure(builder, claims, parallel))
            builder = Builder(campaign, args.out, inputs)
    tunings = [one for claim in claims for one in tuning_runs(builder, claim)]
    short = builder.needed_by([run.last for one in tunings for run in one.runs])
    if not args.report_only:
        tell_cost(builder, claims, tunings)
    if args.dry_run:
        return 0
    watch, complete = PlateauWatch(campaign.plateau), True
    if short and not args.report_only:
        complete = run_jobs(args.out, [builder.jobs[name] for name in short], parallel, watch, deadline)
    if tunings and complete:
        inputs.picks.update(pick(args.out, tunings))
    jobs = {name: builder.jobs[name] for name in short}
    builder = Builder(campaign, args.out, inputs)
    builder.jobs.update(jobs)
    names = [name for claim in claims for name in claim_jobs(builder, claim)]
    if complete and not args.report_only:
        needed = builder.needed_by([*short, *names])
        complete = run_jobs(args.out, [builder.jobs[name] for name in needed], parallel, watch, deadline)
    judged = write_report(builder, claims, describe_machine(torch.device(pick_device())))
    print(markdown_table(verdicts_table(judged)))
    print(f"written: {args.out}/report.md, report.json and a plot of each claim")
    if not complete:
        print(f"the budget of {args.budget_hours:g} hours is spent: the same command goes on")
    return 0 if complete else 1


def tell_cost(builder: Builder, claims: Sequence[Claim], tunings: Sequence[Tuning]) -> None:
    """Before it starts."""
    header, rows = cost_rows(builder, claims, tunings)
    print(tabulate(rows, header, "simple", disable_numparse=True))
    for claim in claims:
        header, rows = system_rows(builder, claim)
        print(f"\n{claim.name}, one seed:\n" + tabulate(rows, header, "simple", disable_numparse=True))
    measured = sorted(builder.inputs.speeds)
    whose = f"measured here for {', '.join(measured)}; else " if measured else ""
    print(f"\nspeeds: {whose}of the plan (--measure measures those of this machine)\n", flush=True)


# -- what is given -----------------------------------------------------------------------------------------------------


def resolve(campaign: Campaign, claims: Sequence[Claim], args: argparse.Namespace) -> Inputs:
    """What the plan says, with what the command line gives. Raises ConfigError for what these claims need and nothing
    names, and for names that the plan does not have."""
    kept = read_kept(args.out)
    given: Dict[str, Dict[str, str]] = {}
    for option, known, what in (
        ("teachers", campaign.teachers, "SPEC"),
        ("corpora", campaign.corpora, "DIR"),
        ("unlabeled", campaign.unlabeled, "A.tsv"),
    ):
        values: Dict[str, str] = {}
        for text in (kept.get(option, ""), getattr(args, option)):
            values.update(all_named(text, f"--{option}", f"NAME={what},..."))
        for name in values:
            if name not in known:
                raise ConfigError(f"--{option}: {name!r} is none of {', '.join(known)}")
        given[option] = values
    folder = args.plan.parent
    teachers = {name: from_plan(spec, folder) for name, spec in campaign.teachers.items() if spec}
    teachers.update({name: absolute_spec(spec) for name, spec in given["teachers"].items()})
    corpora = {name: str(folder / one.folder) for name, one in campaign.corpora.items() if one.folder}
    corpora.update({name: str(resolved(path)) for name, path in given["corpora"].items()})
    unlabeled = {name: str(folder / path) for name, path in campaign.unlabeled.items() if path}
    unlabeled.update({name: str(resolved(path)) for name, path in given["unlabeled"].items()})
    for claim in claims:
        data = campaign.data[claim.data]
        wanted = {
            "teachers": {
                name for system in claim.systems.values() for one in system.stages for name in teachers_in(one)
            },
            "corpora": {name for name in data.corpora if not campaign.corpora[name].prepared},
            "unlabeled": set(data.unlabeled),
        }
        for option, there in (("teachers", teachers), ("corpora", corpora), ("unlabeled", unlabeled)):
            missing = sorted(wanted[option] - set(there))
            if missing:
                what = {"teachers": "SPEC", "corpora": "DIRECTORY", "unlabeled": "MANIFEST.tsv"}[option]
                raise ConfigError(f"{claim.name} needs {missing[0]}: give --{option} {missing[0]}={what}")
    precision = args.precision or kept.get("precision") or "auto"
    fast = torch.cuda.is_available() and has_fast_bfloat16("cuda") if precision == "auto" else precision == "bfloat16"
    ngram_lm = args.ngram_lm or kept.get("ngram_lm", "")
    return Inputs(teachers, corpora, unlabeled, str(ngram_lm or ""), fast, picks_of(args.out), read_speeds(args.out))


def check_there(inputs: Inputs) -> None:
    """Raises ColldError for what is given and not there, before the first job."""
    manifests = [(name, f"{folder}/{split}.tsv") for name, folder in inputs.corpora.items() for split in SPLITS]
    files = [
        *((f"--corpora {name}", path) for name, path in manifests),
        *((f"--unlabeled {name}", path) for name, path in inputs.unlabeled.items()),
        *([("--ngram-lm", inputs.ngram_lm)] if inputs.ngram_lm else []),
    ]
    for option, path in files:
        if not Path(path).is_file():
            raise ConfigError(f"{option}: no file {path}")
    for spec in inputs.teachers.values():
        describe_teacher(spec)


def from_plan(spec: str, folder: Path) -> str:
    """A teacher's spec whose path is relative to the plan's folder."""
    scheme, _, name = spec.partition(":")
    return absolute_spec(f"{scheme}:{folder / name}") if (folder / name).exists() else spec


def keep(args: argparse.Namespace) -> None:
    """So that the same command goes on with less said."""
    given = {name: str(getattr(args, name) or "") for name in KEPT}
    merged = {name: value or read_kept(args.out).get(name, "") for name, value in given.items()}
    write_atomically(args.out / "given.json", json.dumps(merged, indent=1).encode())


def read_kept(out: Path) -> Dict[str, Any]:
    path = out / "given.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def picks_of(out: Path) -> Dict[str, int]:
    """Choices that were made before."""
    path = out / "choices.json"
    return {key: one["picked"] for key, one in json.loads(path.read_text()).items()} if path.is_file() else {}


def arguments(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("plan", type=resolved, metavar="PLAN.yaml", help="campaign.yaml, or a claim's file")
    add("out", type=resolved, nargs="?", default=ROOT / "runs" / "campaign")
    add("--claims", type=lambda text: [int(word) for word in words(text)], default=[], help="1,4 (default: all)")
    add("--dry-run", action="store_true", help="say what it costs, and start nothing")
    add("--measure", action="store_true", help="measure the speed of every stage first, with a few updates each")
    add("--report-only", action="store_true", help="judge what is there; start nothing")
    add("--budget-hours", type=float, help="stop after so many hours of wall clock; the same command goes on")
    add("--teachers", default="", metavar="NAME=SPEC,...", help="such as hubert=onnx:wakehubert.onnx")
    add("--corpora", default="", metavar="NAME=DIR,...", help="folders with train.tsv, dev.tsv and test.tsv")
    add("--unlabeled", default="", metavar="NAME=A.tsv,...", help="manifests of further audio")
    add("--ngram-lm", type=resolved, help="n-gram model of words (ARPA or KenLM) in place of the transcripts' own")
    add("--precision", choices=("auto", "float32", "bfloat16"), help="default: bfloat16 on GPUs that have it")
    add("--jobs", type=int, help="parallel jobs (default: one a core, or one with a GPU)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
