"""A recipe's output folder in small, as its jobs would leave it: three systems, one of them with two seeds."""

import json
from pathlib import Path

import numpy as np
import soundfile

from colld_fairseq.cli import main as colld

HOSTILE = '<script>window.spoiled=1</script>"><img src=http://bad.example/x onerror="window.spoiled=1">{{ 7*7 }}'
LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2
# (id, reference, spoken, written)
ASR = [
    ("en-1", "please enter your password followed by the pound key", "en", "en"),
    ("en-2", "the number you have dialed is not in service", "en", "en"),
    ("en-3", f"good morning {HOSTILE}", "en", "en"),
    ("en-4", f"the word is {LONG}", "en", "en"),
    ("ar-1", "مرحبا بكم في مركز الاتصال الرجاء الانتظار", "ar", "ar"),
    ("ar-2", "اضغط الرقم واحد للمتابعة باللغة العربية", "ar", "ar"),
    ("zh-1", "请稍后再拨您拨打的电话正在通话中", "zh", "zh"),
    ("zh-2", "您好欢迎致电客户服务中心", "zh", "zh"),
]
ST = [
    ("es-1", "press one to leave a message after the tone", "es", "en"),
    ("es-2", "all of our operators are busy at the moment", "es", "en"),
    ("fr-1", "thank you for calling please hold the line", "fr", "en"),
]
SYSTEMS = {("teacher", 1): (0.1, 5), ("small", 1): (0.25, 6), ("small", 2): (0.35, 7), ("cut", 1): (0.9, 8)}
LABELS = {"teacher": "Teacher, 6 layers", "small": f"4 layers {HOSTILE}", "cut": "cut only"}
GROUP = "held-out prompts"
HEADER = "id\taudio\tn_frames\ttgt_text\tspeaker\tsrc_text\tsrc_lang\ttgt_lang\n"


def write_run(folder: Path) -> Path:
    """A folder with plan.json, decoded and scored test sets, logs, a profile and a table of similarity."""
    for name, rows in (("test_asr", ASR), ("test_st", ST)):
        write_manifest(folder / "data" / f"{name}.tsv", rows)
    results = []
    for (system, seed), (share, draw) in SYSTEMS.items():
        run = f"{system}/seed{seed}"
        for way, rows in (("asr", ASR), ("st", ST)):
            write_decoded(folder / run / way, f"test_{way}", rows, share, draw)
            score(folder / run / f"{way}.json", folder / run / way, folder / "data" / f"test_{way}.tsv")
        logs = {}
        if system != "teacher":
            write_log(folder / run / "distil.log", updates=500, rate=share, lr=0.001 * (1 + (system == "cut")))
            (folder / run / "distil.done").write_text(json.dumps({"seconds": 90.0}))
            logs["distillation"] = f"{run}/distil.log"
        scores = [f"{run}/asr.json", f"{run}/st.json"]
        checkpoint = f"{run}/model.pt"
        results.append(
            dict(system=system, label=LABELS[system], seed=seed, group=GROUP, scores=scores, logs=logs)
            | dict(checkpoint=checkpoint)
        )
    plan = dict(title=f"Prompts {HOSTILE}", results=results, average="all", notes=["A note."], show=True)
    plan["comparisons"] = [["small over the cut", "small", ["cut"]], ["small beside the teacher", "small", ["teacher"]]]
    plan["encoders"] = {"small": "small/seed1/model.pt", "teacher": "hf:/models/whisper"}
    plan["settings"] = {"updates": 500, "out": str(folder)}
    (folder / "plan.json").write_text(json.dumps(plan, ensure_ascii=False), encoding="utf-8")
    counted = [dict(checkpoint=one["checkpoint"], parameters=1000 * (9 - index)) for index, one in enumerate(results)]
    (folder / "report.json").write_text(json.dumps({"results": counted}))
    write_profile(folder / "profile.json", {str(folder / "small/seed1/model.pt"): 800, "hf:/models/whisper": 2000})
    write_similarity(folder / "layers.tsv")
    return folder


def write_manifest(path: Path, rows) -> None:
    """With a tone of half a second or more for each row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, (name, text, source, target) in enumerate(rows):
        samples = 8000 + 1600 * index
        tone = 0.3 * np.sin(2 * np.pi * (200 + 50 * index) * np.arange(samples) / 16000)
        soundfile.write(path.parent / f"{name}.wav", tone, 16000)
        lines.append(f"{name}\t{name}.wav\t{samples}\t{text}\ta\t{text}\t{source}\t{target}\n")
    path.write_text(HEADER + "".join(lines), encoding="utf-8")


def spoiled(text: str, share: float, generator) -> str:
    """With this share of words (characters, where there are no spaces) replaced, left out or doubled."""
    separator = " " if " " in text else ""
    units = text.split(" ") if separator else list(text)
    written = []
    for unit in units:
        dice = generator.random() / share
        written += [unit] if dice > 1 else [unit, unit] if dice > 0.8 else [] if dice > 0.6 else ["x"]
    return separator.join(written)


def write_decoded(folder: Path, subset: str, rows, share: float, draw: int) -> None:
    """What fairseq-generate writes, in another order than the manifest's."""
    generator = np.random.default_rng(draw)
    lines = []
    for index in reversed(range(len(rows))):
        hypothesis = spoiled(rows[index][1], share, generator)
        lines += [f"T-{index}\t{rows[index][1]}\n", f"H-{index}\t-0.5\tx\n", f"D-{index}\t-0.5\t{hypothesis}\n"]
        lines += [f"P-{index}\t-0.1 -0.4\n"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"generate-{subset}.txt").write_text("".join(lines), encoding="utf-8")


def score(out: Path, decoded: Path, manifest: Path, *more: str) -> None:
    (output,) = decoded.glob("generate-*.txt")
    arguments = ["--generate-output", output, "--manifest", manifest, "--json", out, "--lowercase", *more]
    assert colld(["score", *map(str, arguments)]) == 0


def write_log(path: Path, updates: int, rate: float, lr: float) -> None:
    """As fairseq-hydra-train prints it: a line every 10 updates, two validations."""
    config = {"_name": None, "common": {"_name": None, "seed": 1}, "optimization": {"lr": [lr]}, "task": {"data": "d"}}
    written = str({**config, "model": {"head": "NONE"}}).replace("'NONE'", "none")  # choices are bare words
    lines = [f"[2026-11-29 22:08:22,159][fairseq_cli.train][INFO] - {written}"]
    for update in range(10, updates + 1, 10):
        record = {"epoch": 1, "loss": f"{rate + 50 / update:.4f}", "l1": f"{25 / update:.4f}", "wps": "100"}
        record.update(num_updates=str(update), lr=str(lr), wall=str(update))
        lines.append(f"[2026-11-29 22:08:30,876][train_inner][INFO] - {json.dumps(record)}")
        if update in (updates // 2, updates):
            valid = {
                "epoch": 1,
                "dev_loss": str(rate + 0.1),
                "dev_cer": str(100 * rate),
                "dev_num_updates": str(update),
            }
            lines.append(f"[2026-11-29 22:08:30,876][dev][INFO] - {json.dumps(valid)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_profile(path: Path, parameters) -> None:
    models = [
        dict(source=source, parameters=count, mb_float32=count * 4e-6, gmacs_per_10s=1.5, speed=[dict(rtf=count / 1e5)])
        for source, count in parameters.items()
    ]
    machine = dict(cpu="Abacus 3000", cores=2, gpu=None, torch="2", python="3")
    path.write_text(json.dumps(dict(machine=machine, threads=1, models=models), indent=2))


def write_similarity(path: Path) -> None:
    columns = "row_model row_layer column_model column_layer cka cka_chance cca cca_chance row_rank column_rank frames"
    lines = ["\t".join(columns.split())]
    for i in range(3):
        for j in range(5):
            cells = [
                "small.pt",
                i,
                "hf:/models/whisper",
                j,
                f"{(i + j) / 6:.6f}",
                0.01,
                f"{i * j / 8:.6f}",
                0.01,
                9,
                9,
                99,
            ]
            lines.append("\t".join(map(str, cells)))
    path.write_text("\n".join(lines) + "\n")
