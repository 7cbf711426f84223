"""Compare students of a HuBERT teacher on multilingual recognition with few labels:

    python run.py OUT --data DIR --teacher fairseq:hubert.pt [--unlabelled A.tsv,B.tsv] [--label-minutes 10,60] ...

DIR holds train_asr.tsv, dev_asr.tsv and test_asr.tsv. Every arm is distilled once a seed (where it is distilled), then
fine-tuned with CTC on letters for each amount of labels, one model for all languages, and decoded on test_asr.tsv:

    deep_thin          scratch, regression, discriminative          waveform front-end, random start
    shallow_wide       scratch, regression, discriminative          waveform front-end, first blocks of the teacher
    deep_thin_fbank    scratch, discriminative, adapted             filterbank front-end
    teacher            fine_tuned                                   the teacher itself

All arms have the same updates, batches, schedule, masks and labels. Every job is a command line that you can run
yourself (OUT/commands.sh). A finished job is not run again, a killed one resumes; `report.py OUT` makes tables of what
is there.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import torch  # noqa: E402
from arms import ARMS, Plan  # noqa: E402
from lanes import Lanes, record, usable_cores  # noqa: E402


def main() -> None:
    args = arguments(sys.argv[1:])
    out = args.out.resolve()
    plan = Plan(out, args)
    common, chains = plan.common_jobs(), plan.chains()
    last = plan.profile_job()
    jobs = [*common, *(job for chain in chains for job in chain), last]
    record(out, jobs, settings(args, plan))
    lanes = args.lanes or (1 if torch.cuda.is_available() else usable_cores())
    runner = Lanes(out, max(1, usable_cores() // lanes))
    started = time.time()
    runner.run(common)
    runner.run(*chains, lanes=min(lanes, len(chains)))
    runner.run([last])
    print(f"all jobs took {(time.time() - started) / 60:.1f} minutes")
    sys.exit(subprocess.run([sys.executable, str(HERE / "report.py"), str(out)]).returncode)


def arguments(words: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", type=Path)
    add("--data", type=Path, required=True, help="folder with train_asr.tsv, dev_asr.tsv, test_asr.tsv")
    add("--teacher", required=True, help="fairseq:FILE.pt (HuBERT pre-training checkpoint) or hf:DIRECTORY")
    add("--teacher-codes", default="", help="file of colld cluster, for a teacher without code embeddings of its own")
    add("--unlabelled", default="", help="manifests to distil from, comma-separated (default: train_asr.tsv)")
    add("--label-minutes", default="10,60", help="labels of every language, comma-separated (default: %(default)s)")
    add("--seeds", default="1", help="comma-separated (default: %(default)s)")
    add("--students", default=",".join(ARMS), help="default: %(default)s")
    add("--arms", default="", help="of the students chosen: scratch,discriminative,... (default: all)")
    shape = "LAYERSxWIDTH/FFN/HEADS"
    add("--deep-thin", metavar=shape, help="default: all layers, 5/8 of the width (HuBERT Base: 12x480/480/12)")
    add("--shallow-wide", metavar=shape, help="default: two of the teacher's blocks (HuBERT Base: 2x768/3072/12)")
    add("--distil-updates", type=int, default=6000, help="default: %(default)s")
    add("--adaptation-updates", type=int, help="of the distillation, in the arm `adapted` (default: a tenth)")
    add("--finetune-updates", default="2000", help="one number, or one for each of --label-minutes (default: 2000)")
    add("--freeze-updates", type=int, help="of a distilled encoder in fine-tuning (default: a tenth of the updates)")
    add("--distil-lr", default="1e-3", help="default: %(default)s")
    add("--finetune-lr", default="1e-3", help="default: %(default)s")
    add("--discriminative-weight", default="1", help="default: %(default)s")
    add("--max-tokens", type=int, default=224000, help="audio of a batch, in samples at 16 kHz (default: 14 s)")
    add("--lm", type=Path, help="n-gram model (ARPA or KenLM) of words: the test set is also decoded with it")
    add("--lm-weight", default="0.5", help="default: %(default)s")
    add("--no-cache", action="store_true", help="run the teacher in every update instead of storing its features once")
    add("--lanes", type=int, help="jobs at a time (default: one a core, or one with a GPU)")
    add("--distil-options", default="", help="more words for every distillation: '--distil-options=--bf16 ...'")
    add("--finetune-options", default="", help="more words for every fine-tuning")
    args = parser.parse_args(words)
    scheme, _, name = args.teacher.partition(":")
    args.teacher = f"{scheme}:{Path(name).resolve()}" if Path(name).exists() else args.teacher
    for name in ("label_minutes", "seeds", "students", "arms", "finetune_updates"):
        setattr(args, name, [word for word in getattr(args, name).split(",") if word])
    args.finetune_updates = [int(n) for n in args.finetune_updates]
    if len(args.finetune_updates) == 1:
        args.finetune_updates *= len(args.label_minutes)
    if len(args.finetune_updates) != len(args.label_minutes):
        parser.error("--finetune-updates: one number, or one for each of --label-minutes")
    known = {arm for student in ARMS for arm in ARMS[student]}
    for option, names, choices in (("students", args.students, ARMS), ("arms", args.arms, known)):
        wrong = [name for name in names if name not in choices]
        if wrong:
            parser.error(f"--{option}: {wrong[0]!r} is none of {', '.join(sorted(choices))}")
    return args


def settings(args: argparse.Namespace, plan: Plan) -> Dict[str, Any]:
    values = {name: value if isinstance(value, (list, int)) else str(value) for name, value in vars(args).items()}
    return dict(values, runs=plan.runs)


if __name__ == "__main__":
    main()
