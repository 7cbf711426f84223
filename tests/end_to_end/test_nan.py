"""An update without a finite loss or gradient ends the run, and leaves its utterances, their audio and the culprit."""

import re
import shutil
import struct

import numpy as np
import pytest
import soundfile
import torch
from commands import TINY_ENCODER, TRAINING, call, log_records, losses
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from tensorboardX.proto.event_pb2 import Event

from colld_fairseq.data.datasets import SpeechDataset
from colld_fairseq.data.fbank import log_mel_fbank
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.perturbation import Perturbation

HUGE = 3e38  # the greatest float32 is 3.4e38


@pytest.fixture
def broken_corpus(corpus, tmp_path):
    """The corpus with one row of stored filterbanks whose values are finite, and whose variance is not."""
    folder = tmp_path / "data"
    shutil.copytree(corpus, folder)
    recording, _ = soundfile.read(folder / "train-3.wav", dtype="float32")
    filterbanks = log_mel_fbank(recording)
    np.save(folder / "train-3.npy", HUGE * np.sign(filterbanks - filterbanks.mean()).astype(np.float32))
    manifest = (folder / "train.tsv").read_text()
    samples = f"train-3.wav\t{len(recording)}"
    assert samples in manifest
    (folder / "train.tsv").write_text(manifest.replace(samples, f"train-3.npy\t{len(filterbanks)}"))
    return folder


def options(corpus, vocab, folder, *more):
    return [
        *[corpus, "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--arch", "student_ctc"],
        *[*TINY_ENCODER, "--vocab", vocab, *TRAINING, "--disable-validation", "--save-dir", folder, *more],
    ]


def test_the_culprit_is_named_and_its_batch_kept(broken_corpus, vocab, tmp_path):
    out = tmp_path / "out"
    arguments = options(broken_corpus, vocab, out, "--max-update", "9", "--cmvn", "none")
    with pytest.raises(FloatingPointError, match="NaN .*utterances these make it alone: train-3; look at") as caught:
        call("train", *arguments)
    (folder,) = out.glob("nan_update*_worker0")
    assert str(folder / "batch.tsv") in str(caught.value) and (out / "crash.pt").is_file()
    kept, rows = read_manifest(str(folder / "batch.tsv")), read_manifest(str(broken_corpus / "train.tsv"))
    verdicts = [line.split("\t")[-2:] for line in (folder / "batch.tsv").read_text().splitlines()]
    assert verdicts[0] == ["peak", "alone"] and len(kept) > 1
    for index, (peak, alone) in enumerate(verdicts[1:]):
        row = kept.row(index)
        original = rows.row(rows.ids.index(row.id))
        if row.id == "train-3":
            recording = np.load(row.audio)
        else:
            recording, rate = soundfile.read(row.audio)
            assert rate == 16000 and len(recording) == row.n_samples
        assert row.n_samples == original.n_samples and row.kind == original.kind
        assert (row.tgt_text, row.tgt_lang) == (original.tgt_text, original.tgt_lang)
        assert float(peak) == pytest.approx(np.abs(recording).max(), rel=1e-4)
        assert (alone.startswith("loss nan"), float(peak) > 1e20) == ((row.id == "train-3"),) * 2
    # What was kept is a manifest to train on: it fails again.
    shutil.copy(folder / "batch.tsv", folder / "train.tsv")
    with pytest.raises(FloatingPointError, match="alone: train-3;"):
        call("train", *options(folder, vocab, tmp_path / "again", "--max-update", "4", "--cmvn", "none"))


def scalars(folder):
    """name -> update -> value, of TensorBoard's files in a folder."""
    read = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        while content:  # a length of 8 bytes, its checksum of 4, a message, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    read.setdefault(value.tag, {})[event.step] = value.simple_value
            content = content[16 + length :]
    return read


def test_weights_that_are_at_fault_are_told_from_utterances(corpus, vocab, tmp_path):
    with pytest.raises(FloatingPointError, match="All of the update's .* the weights themselves .* lower --lr"):
        call("train", *options(corpus, vocab, tmp_path, "--max-update", "9", "--lr", "1e38"))
    assert list(tmp_path.glob("nan_update*_worker0/batch.tsv"))


def test_a_loss_that_is_not_finite_ends_training_and_not_validation(finetuning):
    run = finetuning()
    log = {"loss": torch.tensor(torch.inf), "sample_size": 3, "ntokens": 3, "nsentences": 1, "audio_seconds": 2.0}
    with metrics.aggregate(new_root=True):
        run.criterion.eval()
        run.task.reduce_metrics([log], run.criterion)
        run.criterion.train()
        with pytest.raises(FloatingPointError, match="loss is NaN or Inf"):
            run.task.reduce_metrics([{**log, "loss": torch.tensor(2.0)}, log], run.criterion)


@pytest.fixture
def training(finetuning, tmp_path):
    """A trainer, and a batch of 5 utterances."""
    run = finetuning("--optimizer", "adam", "--lr", "0.001", "--save-dir", str(tmp_path))
    run.task.load_dataset("train")
    dataset = run.task.datasets["train"]
    batch = dataset.collater([dataset[index] for index in range(5)])
    return Trainer(run.cfg, run.task, run.model, run.criterion), batch


def test_the_update_whose_loss_is_nan_is_named(training, tmp_path):
    """Its gradients are finite: fairseq has made the update when it looks at the loss."""
    trainer, batch = training
    plain = trainer.criterion.forward

    def forward(*arguments):
        loss, size, log = plain(*arguments)
        return loss, size, {**log, "loss": log["loss"] * torch.nan}

    with metrics.aggregate(new_root=True):
        trainer.train_step([batch])
        trainer.criterion.forward = forward
        with pytest.raises(FloatingPointError, match="the loss is NaN or Inf"):
            trainer.train_step([batch])
    assert [path.name for path in tmp_path.glob("nan_*")] == ["nan_update2_worker0"]


def test_what_cannot_be_written_does_not_hide_the_error(training, tmp_path):
    trainer, batch = training
    (tmp_path / "nan_update3_worker0" / "001.wav").mkdir(parents=True)
    told = trainer.task.explain_nan(trainer, 3, [batch], FloatingPointError("NaN in x"))
    assert re.match("NaN in x. Its utterances could not be kept in .*nan_update3_worker0: .*001.wav", told)


@pytest.mark.parametrize("more", [[], ["--join-seconds", "3", "--join-padded", "0.5"], ["--max-seconds", "0.5"]])
def test_kept_recordings_are_what_models_get(more, distillation):
    run = distillation("--perturb-speed", "0.1", "--perturb-volume-db", "6", *more)
    run.task.load_dataset("train")
    dataset = run.task.datasets["train"]
    dataset.set_epoch(2)
    assert isinstance(dataset, SpeechDataset) == ("--join-seconds" not in more)
    assert dataset.options.perturbation != Perturbation()
    for index in range(4):
        item, (row, recording) = dataset[index], dataset.as_read(index)
        np.testing.assert_array_equal(item["waveform"], recording)
        assert row.id == item["utt_id"]


def test_training_that_goes_well_leaves_nothing(corpus, vocab, tmp_path):
    """And its validations are looked at: the log names a plateau where the scores that it holds are those of one.
    TensorBoard's files have the log's figures."""
    arguments = options(corpus, vocab, tmp_path, "--max-update", "2", "--validate-interval-updates", "1")
    arguments += ["--tensorboard-logdir", tmp_path / "board"]
    output = call("train", *[word for word in arguments if word != "--disable-validation"])
    assert len(losses(output)) == 2 and not list(tmp_path.glob("nan_*")) and not re.search("NaN|Inf", output)
    scores = [(float(one["valid_cer"]), float(one["valid_chrf"])) for one in log_records(output, "valid")]
    assert len(scores) == 2
    assert ("plateau: validation CER" in output) == all(cer >= 97 and chrf <= 5 for cer, chrf in scores)
    drawn = scalars(tmp_path / "board" / "valid")
    assert drawn["cer"] == pytest.approx({update: cer for update, (cer, _) in enumerate(scores, 1)}, abs=0.01)
    updates = scalars(tmp_path / "board" / "train_inner")
    assert updates["loss"] == pytest.approx(dict(enumerate(map(float, losses(output)), 1)), abs=1e-3)
    assert {"ctc_loss", "audio_x", "gnorm"} <= updates.keys() and {"wer", "bleu", "chrf_yy-xx"} <= drawn.keys()
