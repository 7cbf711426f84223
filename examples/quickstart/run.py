"""Distil a teacher twice, fine-tune both students and one from scratch, decode, compare: `make quickstart`, or

    python run.py [OUT] [--data DIR --teacher SPEC --layers 2,4,6 ...]      (your own corpus and teacher)

DIR holds the manifests that prepare.py writes: {train,dev,test}.tsv, ..._asr.tsv and ..._st.tsv. Without a GPU two
lanes of jobs run side by side, each with half of the cores; with GPUs one lane, whose training runs use all of them.
Every job is a command line that you can run yourself (OUT/commands.sh). A finished job is not run again, a killed one
resumes.

    lane 1   teacher features -> distil colld -> fine-tune colld -> decode
    lane 2   fine-tune scratch -> distil l1cos (needs the features) -> fine-tune l1cos -> decode
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from lanes import ROOT, TRAINING, Job, Lanes, record, usable_cores  # noqa: E402

ARMS = ("colld", "l1cos", "scratch")

# The student: a 25 Hz Conformer of 2.9 M parameters, the same for every arm.
SHAPE = [
    "--encoder-preset", "tiny", "--encoder-layers", "6", "--encoder-embed-dim", "144",
    "--encoder-ffn-embed-dim", "576", "--encoder-attention-heads", "4",
]  # fmt: skip
# Teacher channels are normalised over the utterance: raw Whisper features are ruled by a few huge channels. Masks and
# the contrastive term are kept light: at this budget heavier ones learn too slowly (study in RESULTS.md).
DISTIL = {
    "colld": [
        "--criterion", "colld", "--num-negatives", "0", "--contrastive-weight", "0.2", "--l1-weight", "1",
        "--log-sigmoid-cosine-weight", "1", "--mask-prob", "0.2", "--mask-length", "5",
    ],
    "l1cos": ["--criterion", "feature_regression", "--mask-prob", "0"],
}  # fmt: skip
# A CTC layer on a distilled encoder learns alignments faster while the encoder stands still.
FROM_STUDENT = ["--freeze-encoder-updates", "200"]


def jobs(out: Path, args: argparse.Namespace) -> Dict[str, Job]:
    """Every job by its name; names are also the logs' paths below OUT."""
    data = out / "data" if args.data is None else args.data.resolve()
    manifests = ",".join(str(data / f"{split}_asr.tsv") for split in ("train", "dev"))
    texts = f"{data / 'train_asr.tsv'},{data / 'train.tsv'}"
    vocab, features = out / "vocab", out / "features"
    common = TRAINING + ["--max-tokens", str(args.max_tokens), "--seed", str(args.seed)]
    common += ["--max-tokens-valid", str(8 * args.max_tokens)]  # decoding is faster in large batches
    train = ["fairseq-train", str(data), "--user-dir", "colld_fairseq"]
    made = [
        Job("vocab", ["colld", "vocab", "--manifest", texts, "--lang-tags", "--lowercase", "--remove-punctuation",
                      "--out", str(vocab)]),
        Job("features", ["colld", "features", "--manifest", manifests, "--teacher", args.teacher,
                         "--layers", args.layers, "--out", str(features)]),
    ]  # fmt: skip
    if args.data is None:
        made.append(Job("prepare", [sys.executable, str(HERE / "prepare.py"), str(data)]))
    for arm, objective in DISTIL.items():
        command = train + [
            "--task", "speech_distillation", "--train-subset", "train_asr", "--valid-subset", "dev_asr",
            "--teacher", args.teacher, "--teacher-cache", str(features), "--layer-map", layer_map(args.layers),
            "--target-norm", "instance", "--arch", "colld_student_tiny", "--lr", "2e-3", "--validate-interval", "3",
            "--max-update", str(args.distil_updates), "--save-dir", str(out / arm / "distil"),
        ]  # fmt: skip
        made.append(Job(f"{arm}/distil", command + objective + SHAPE + common, args.distil_updates, needs=["features"]))
    for arm in ARMS:
        command = train + [
            "--task", "multilingual_speech_to_text", "--train-subset", "train", "--valid-subset", "dev",
            "--vocab", str(vocab), "--ctc-target", "src_text", "--arch", "student_s2t_tiny",
            "--decoder-layers", "2", "--decoder-embed-dim", "144", "--decoder-ffn-embed-dim", "576",
            "--criterion", "ctc_attention", "--ctc-weight", "0.5", "--time-masks", "2", "--time-mask-width", "20",
            "--lr", "1e-3", "--best-checkpoint-metric", "ctc_cer", "--validate-interval", "1",
            "--max-update", str(args.finetune_updates), "--save-dir", str(out / arm / "finetune"),
        ]  # fmt: skip
        if arm in DISTIL:
            command += ["--student", str(out / arm / "distil" / "checkpoint_last.pt")] + FROM_STUDENT
        made.append(Job(f"{arm}/finetune", command + SHAPE + common, args.finetune_updates))
        made += decoding_jobs(out, data, arm)
    return {job.name: job for job in made}


def layer_map(layers: str) -> str:
    """Student layers 2, 4, 6 (of 6) learn from the three given teacher layers."""
    teacher_layers = layers.split(",")
    if len(teacher_layers) != 3:
        sys.exit("--layers: give three teacher layers, such as 2,4,6")
    return ",".join(f"{student}:{teacher}" for student, teacher in zip((2, 4, 6), teacher_layers))


def decoding_jobs(out: Path, data: Path, arm: str) -> List[Job]:
    """fairseq-generate on the test prompts by CTC (recognition) and attention (translation), then colld score."""
    made = []
    for name, decoder, beam in (("asr", "ctc", "1"), ("st", "attention", "5")):
        results = out / arm / name
        generate = [
            "fairseq-generate", str(data), "--user-dir", "colld_fairseq", "--task", "multilingual_speech_to_text",
            "--vocab", str(out / "vocab"), "--path", str(out / arm / "finetune" / "checkpoint_best.pt"),
            "--gen-subset", f"test_{name}",
            "--decoder", decoder, "--beam", beam, "--max-len-a", "0.2", "--max-len-b", "10", "--post-process", "letter",
            "--max-tokens", "480000", "--num-workers", "0", "--results-path", str(results),
        ]  # fmt: skip
        score = ["colld", "score", "--generate-output", str(results / f"generate-test_{name}.txt"), "--manifest",
                 str(data / f"test_{name}.tsv"), "--json", str(out / arm / f"{name}.json")]  # fmt: skip
        made += [Job(f"{arm}/generate_{name}", generate), Job(f"{arm}/score_{name}", score)]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "runs" / "quickstart")
    parser.add_argument("--data", type=Path, help="folder of manifests (default: the prompts beside this file)")
    parser.add_argument("--teacher", default=f"hf:{HERE / 'teacher'}", help="hf:DIRECTORY or fairseq:FILE.pt")
    parser.add_argument("--layers", default="2,4,6", help="three teacher layers")
    parser.add_argument("--distil-updates", type=int, default=1600)
    parser.add_argument("--finetune-updates", type=int, default=1600)
    parser.add_argument("--max-tokens", type=int, default=224000, help="audio of a batch, in samples at 16 kHz")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    out = args.out.resolve()
    started = time.time()
    all_jobs = jobs(out, args)
    record(out, all_jobs.values(), {name: str(value) for name, value in vars(args).items()})
    decoding = {
        arm: [name for name in all_jobs if name.startswith((f"{arm}/generate", f"{arm}/score"))] for arm in ARMS
    }

    def pick(*names: str) -> List[Job]:
        return [all_jobs[name] for name in names if name in all_jobs]

    first = pick("features", "colld/distil", "colld/finetune", *decoding["colld"])
    second = pick("scratch/finetune", *decoding["scratch"], "l1cos/distil", "l1cos/finetune", *decoding["l1cos"])
    on_gpu = torch.cuda.is_available()
    lanes = Lanes(out, max(1, usable_cores() // (1 if on_gpu else 2)))
    lanes.run(pick("prepare", "vocab"))
    if on_gpu:
        lanes.run(first + second)
    else:
        lanes.run(first, second)
    profile = ["colld", "profile", "--student", str(out / "colld" / "finetune" / "checkpoint_best.pt"),
               "--teacher", args.teacher, "--json", str(out / "profile.json")]  # fmt: skip
    lanes.run([Job("profile", profile)])
    print(f"all jobs took {(time.time() - started) / 60:.1f} minutes")
    sys.exit(subprocess.run([sys.executable, str(HERE / "report.py"), str(out)]).returncode)


if __name__ == "__main__":
    main()
