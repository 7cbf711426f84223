"""Compare transducers whose encoders started from scratch, from one teacher and from several:

    python run.py OUT --train A.tsv,B.tsv --dev C.tsv --test D.tsv --teachers NAME=SPEC,NAME=SPEC ...

The manifests hold recognition and translation, in any mix; with translation the vocabulary has language tags. Arms:

    scratch                 no stage 1
    NAME                    stage 1 from that teacher alone, for each of --teachers
    sum, random, average    stage 1 from all teachers (average: teachers of one width)
    unlabelled              `sum` with further audio without text (--unlabelled, or what --label-minutes leaves out)
    kd                      `sum`, and in stage 2 also the output of a trained transducer: full/sum, or --kd-teacher
    kd_unlabelled           `unlabelled`, and in stage 2 also that transducer's own texts of unlabelled audio, of which
                            it knows the language

for students that hear the whole utterance (full) and for those that hear it chunk by chunk (streaming).

All arms have the same shape, updates, batches, schedule, masks and labels in stage 2, and are decoded greedily and with
a beam. Every job is a command line that you can run yourself (OUT/commands.sh). A finished job is not run again, a
killed one resumes; `report.py OUT` makes tables of what is there.
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
from lanes import Lanes, record, usable_cores  # noqa: E402
from transducer_arms import ARMS, STUDENTS, Plan  # noqa: E402

from colld_fairseq.named_values import split_named  # noqa: E402


def main() -> None:
    args = arguments(sys.argv[1:])
    out = args.out.resolve()
    plan = Plan(out, args)
    common, chains, last = plan.common_jobs(), plan.chains(), plan.profile_job()
    record(out, [*common, *(job for chain in chains for job in chain), last], settings(args, plan))
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
    for split in ("train", "dev", "test"):
        add(f"--{split}", required=True, help="speech-to-text manifests, comma-separated")
    add("--teachers", required=True, metavar="NAME=SPEC,...", help="SPEC: hf:DIRECTORY or fairseq:FILE.pt")
    add("--teacher-layers", default="", metavar="NAME=4+6,...", help="default: the last of every teacher")
    add("--unlabelled", default="", help="manifests of further audio, comma-separated")
    add("--label-minutes", type=float, help="text of so many minutes of every language is used (default: all)")
    add("--arms", default="", help="comma-separated (default: all that are possible)")
    add("--students", default="full", help="full, streaming or both (default: %(default)s)")
    add("--seeds", default="1", help="comma-separated (default: %(default)s)")
    add("--preset", default="conformer_10m", help="of the encoder (default: %(default)s)")
    add("--shape", metavar="LAYERSxWIDTH/FFN/HEADS", help="smaller: 6x144/576/4 (default: the preset's)")
    add("--predictor-dim", type=int, default=320, help="of the predictor and the joiner (default: %(default)s)")
    add("--pieces", type=int, help="size of a sentencepiece vocabulary (default: letters)")
    add("--stage1-updates", type=int, default=4000, help="default: %(default)s")
    add("--stage2-updates", type=int, default=8000, help="default: %(default)s")
    add("--freeze-updates", type=int, help="of a distilled encoder in stage 2 (default: a twentieth of the updates)")
    add("--stage1-lr", default="2e-3", help="default: %(default)s")
    add("--stage2-lr", default="1e-3", help="default: %(default)s")
    add("--ctc-weight", default="0.5", help="of the auxiliary CTC (default: %(default)s)")
    add("--kd-teacher", type=Path, help="checkpoint of a transducer with the same vocabulary (default: full/sum)")
    add("--kd", default="one_best", help="one_best, three_class or lattice (default: %(default)s)")
    add("--kd-weight", default="0.3", help="default: %(default)s")
    add("--max-tokens", type=int, default=224000, help="audio of a batch, in samples at 16 kHz (default: 14 s)")
    add("--beam", type=int, default=4, help="of the second decoding; 1 = greedy only (default: %(default)s)")
    add("--length-score", default="0.2", help="of the beam, for each label, against deletions (default: %(default)s)")
    add("--chunk", type=int, default=8, help="encoder frames a streaming student decodes by (default: %(default)s)")
    add("--left-context", default="4", help="chunks that it hears before its own, or full (default: %(default)s)")
    add("--target-shift", type=int, default=0, help="of stage 1 of a streaming student (default: %(default)s)")
    add("--teacher-cache", default="", metavar="NAME=DIR,...", help="made before, by colld features, of all the audio")
    add("--no-cache", action="store_true", help="run the teachers in every update instead of storing their features")
    add("--lanes", type=int, help="jobs at a time (default: one a core, or one with a GPU)")
    add("--stage1-options", default="", help="more words for every stage 1: '--stage1-options=--bf16 ...'")
    add("--stage2-options", default="", help="more words for every stage 2")
    args = parser.parse_args(words)
    for name in ("train", "dev", "test", "unlabelled"):
        paths = [Path(path).resolve() for path in getattr(args, name).split(",") if path]
        for path in paths:
            if not path.is_file():
                parser.error(f"--{name}: no manifest {path}")
        setattr(args, name, ",".join(map(str, paths)))
    for name in ("arms", "students", "seeds"):
        setattr(args, name, [word for word in getattr(args, name).split(",") if word])
    for student in args.students:
        if student not in STUDENTS:
            parser.error(f"--students: {student!r} is none of {', '.join(STUDENTS)}")
    caches = split_named(args.teacher_cache, "--teacher-cache").items()
    args.teacher_cache = ",".join(f"{name}={Path(folder).resolve()}" for name, folder in caches)
    specs = split_named(args.teachers, "--teachers")
    if not specs:
        parser.error("--teachers: give every teacher a name, as in whisper=hf:DIRECTORY,hubert=fairseq:FILE.pt")
    for name in specs:
        if name in ARMS:
            parser.error(f"--teachers: {name!r} is the name of an arm; choose another")
    args.teachers = ",".join(f"{name}={absolute(spec)}" for name, spec in specs.items())
    return args


def absolute(spec: str) -> str:
    scheme, _, name = spec.partition(":")
    return f"{scheme}:{Path(name).resolve()}" if Path(name).exists() else spec


def settings(args: argparse.Namespace, plan: Plan) -> Dict[str, Any]:
    values = {name: value if isinstance(value, (list, int)) else str(value) for name, value in vars(args).items()}
    ways = {student: list(plan.ways(student)) for student in args.students}
    return dict(values, runs=list(map(tuple, plan.runs)), ways=ways, teacher_names=list(plan.teachers))


if __name__ == "__main__":
    main()
