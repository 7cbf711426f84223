"""A student that outlives its checkpoint: export, loss of the checkpoint, import, training, export, client."""

import shutil
from pathlib import Path

import pytest
import torch
from commands import TRAINING, call, log_records
from students import STATELESS

from colld_fairseq.cli import main
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.export.clients import run_client
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions
from colld_fairseq.export.folder import exported_in
from colld_fairseq.recogniser import load_recogniser
from colld_fairseq.scoring.metrics import CorpusScores

# By shape: the options of fairseq-train that fine-tune it, besides what it starts from.
TUNING = {
    "conformer": ["--arch", "student_ctc", "--criterion", "ctc_attention"],
    "stateless": ["--arch", "transducer_student", "--criterion", "transducer", *STATELESS],
}
TARGET = "sherpa-onnx"


def export(checkpoint, folder):
    """What the command wrote, beside the recogniser that was exported."""
    assert main(["export", "--checkpoint", checkpoint, "--to", TARGET, str(folder), "--exporter", "torchscript"]) == 0
    return exported_in(folder, family_of(load_recogniser(checkpoint, device="cpu"), ExportOptions(TARGET)))


def scores(recogniser, waveform, tokens=(5, 7, 4, 6)):
    """Log-probabilities of a CTC student, [F, V]; of a transducer its joiner's logits behind any tokens."""
    family = family_of(recogniser, ExportOptions("onnx"))
    if recogniser.decoder == "ctc":
        return torch.from_numpy(family.student_output(waveform).log_probs)
    frames, symbols = family.student_frames(waveform), family.predicted([list(tokens)])
    with torch.no_grad():
        return torch.cat(
            [family.model.join(torch.from_numpy(frames), torch.from_numpy(row)[None]) for row in symbols], dim=1
        )


def character_errors(recogniser, manifest):
    """CER in percent on all rows."""
    rows, counted = read_manifest(str(manifest)), CorpusScores()
    rows = [rows.row(index) for index in range(len(rows))]
    for row, (best,) in zip(rows, recogniser.transcribe([read_audio(row.audio) for row in rows])):
        counted.add(best.text, recogniser.vocabulary.codec.clean(row.tgt_text))
    return counted.overall().cer


def train_on(start, shape, corpus, vocab, folder):
    """Losses of three epochs, and the checkpoint that they end with."""
    task = ["--task", "multilingual_speech_to_text", "--vocab", vocab, "--save-dir", folder]
    starts = ["--student", start, "--finetune-from-model", start]
    log = call("train", corpus, *TRAINING, *task, *TUNING[shape], *starts, "--max-epoch", 3, "--disable-validation")
    return [float(record["train_loss"]) for record in log_records(log, "train")], folder / "checkpoint_last.pt"


@pytest.mark.parametrize("shape", TUNING)
def test_there_and_back_and_there_again(shape, checkpoint, corpus, vocab, waveforms, tmp_path):
    lost, back = Path(shutil.copy(checkpoint(shape), tmp_path / "lost.pt")), str(tmp_path / "back.pt")
    first = export(str(lost), tmp_path / "first")
    before = first.family.recogniser
    expected, errors = (
        [scores(before, waveform) for waveform in waveforms],
        character_errors(before, corpus / "train.tsv"),
    )
    lost.unlink()

    assert main(["import", f"onnx:{first.folder}", "--out", back]) == 0
    after = load_recogniser(back, device="cpu")
    for waveform, own in zip(waveforms, expected):
        torch.testing.assert_close(scores(after, waveform), own, atol=1e-5, rtol=0)

    losses, tuned = train_on(back, shape, corpus, vocab, tmp_path / "run")
    second = export(str(tuned), tmp_path / "second")
    ours = second.family.recogniser
    assert losses[-1] < 0.7 * losses[0]
    assert character_errors(ours, corpus / "train.tsv") < errors
    hypotheses = [result.text.strip() for result in run_client(second.family.client_model(second), waveforms)]
    assert hypotheses == [best.text for (best,) in ours.transcribe(waveforms)] and any(hypotheses)
