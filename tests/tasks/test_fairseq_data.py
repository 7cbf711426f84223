"""The tasks on data directories that fairseq's own speech-to-text scripts made."""

import re
import shutil
from types import SimpleNamespace

import fairseq_layouts
import numpy as np
import pytest
import yaml
from commands import TINY_ENCODER
from task_setup import set_up

from colld_fairseq import compat
from colld_fairseq.cli import main as colld
from colld_fairseq.data.augment import SpecAugment
from colld_fairseq.data.fbank import fbank_samples
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.stored_fbank import read_stored_fbank
from colld_fairseq.errors import ConfigError, ManifestError
from colld_fairseq.modules.input_config import InputConfig

WAVEFORM = ["--front-end", "waveform", "--conv-feature-layers", "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2"]


@pytest.fixture
def finetune(fairseq_data):
    def build(*more, folder=fairseq_data):
        task = ["--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--arch", "student_ctc"]
        return set_up(folder, *task, *TINY_ENCODER, *more)

    return build


@pytest.fixture
def changed(fairseq_data, tmp_path):
    """Copy the data folder, with other values in its config.yaml."""

    def change(name="config.yaml", **values):
        for file in ("train.tsv", "dev.tsv", "spm_char.txt", "spm_char.model"):
            shutil.copy(fairseq_data / file, tmp_path)
        config = yaml.safe_load((fairseq_data / "config.yaml").read_text())
        (tmp_path / name).write_text(yaml.safe_dump({**config, **values}))
        return tmp_path

    return change


def test_batches_of_stored_filterbanks(finetune):
    task = finetune("--cmvn", "none").task
    task.load_dataset("dev")
    dataset = task.dataset("dev")
    batch = dataset.collater([dataset[1], dataset[5]])
    for row, index in enumerate((1, 5)):
        expected = read_stored_fbank(dataset.rows.audio_path(index), 80)
        frames = int(batch["net_input"]["src_lengths"][row])
        assert np.array_equal(batch["net_input"]["src_tokens"][row, :frames], expected)
        assert dataset.size(index) == fbank_samples(frames)


def test_limits_in_seconds_are_those_of_the_frames(finetune, fairseq_data):
    run = finetune("--max-seconds", "1.0", "--min-seconds", "0.5")
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    frames = {dataset[i]["source"].shape[0] for i in dataset.ordered_indices()}
    assert 48 <= min(frames) and max(frames) <= 98  # a frame takes 25 ms, the next one begins 10 ms later
    lengths = np.loadtxt(fairseq_data / "train.tsv", delimiter="\t", skiprows=1, usecols=2, dtype=int, comments=None)
    assert len(dataset.ordered_indices()) == ((lengths >= 48) & (lengths <= 98)).sum()


def test_batches_are_limited_in_samples(finetune):
    run = finetune()
    run.task.load_dataset("dev")
    dataset = run.task.dataset("dev")
    batches = run.task.get_batch_iterator(dataset, max_tokens=40000, seed=1).frozen_batches
    longest = int(dataset.sizes.max())
    assert len(batches) > 1 and sorted(i for batch in batches for i in batch) == list(range(10))
    assert all(len(batch) * dataset.sizes[batch].max() <= max(40000, longest) for batch in batches)


def test_a_waveform_front_end_says_what_to_do(finetune):
    run = finetune(*WAVEFORM)
    with pytest.raises(ManifestError, match=r"dev\.tsv:2: .*the student needs the waveform.*--front-end fbank_stack"):
        run.task.load_dataset("dev")


def test_a_teacher_transducer_reads_them_too(finetune):
    task = finetune().task
    task.teacher_transducer = SimpleNamespace(student_input=StudentInput(InputConfig(normalization="none")))
    task.load_dataset("dev")
    dataset = task.dataset("dev")
    batch = dataset.collater([dataset[0]])
    expected = read_stored_fbank(dataset.rows.audio_path(0), 80)
    assert np.array_equal(batch["teacher_input"]["src_tokens"][0], expected)
    assert not np.array_equal(batch["net_input"]["src_tokens"][0], expected)
    task.teacher_transducer.student_input = StudentInput(InputConfig.waveforms())
    with pytest.raises(ManifestError, match="the teacher transducer needs the waveform"):
        task.load_dataset("dev")


def test_paths_named_one_by_one(finetune, fairseq_data, caplog):
    """As fairseq-interactive gets them."""
    row = read_manifest(str(fairseq_data / "dev.tsv")).row(0)
    task = finetune("--cmvn", "none").task
    dataset = task.build_dataset_for_inference([row.audio], [0])
    (index,) = dataset.ordered_indices()
    assert np.array_equal(dataset[index]["source"], read_stored_fbank(row.audio, 80))
    assert dataset.size(index) == row.n_samples
    assert not len(finetune(*WAVEFORM).task.build_dataset_for_inference([row.audio], [0]).ordered_indices())
    assert "left out: stored kaldi filterbanks, but this student takes waveforms" in caplog.text


def test_stored_filterbanks_are_no_icefall_ones(finetune, changed, fairseq_data, caplog):
    """config.yaml says how filterbanks are normalized, whichever they are; statistics are of one variant."""
    run = finetune("--fbank", "icefall", folder=changed(transforms={"*": ["utterance_cmvn"]}))
    assert run.task.encoder.input == InputConfig(fbank="icefall")
    with pytest.raises(ManifestError, match=r"dev\.tsv:2: .*icefall filterbanks .*are kaldi ones.* needs the waveform"):
        run.task.load_dataset("dev")
    row = read_manifest(str(fairseq_data / "dev.tsv")).row(0)
    assert not len(run.task.build_dataset_for_inference([row.audio], [0]).ordered_indices())
    assert "stored kaldi filterbanks, but this student takes icefall filterbanks" in caplog.text


def test_other_bins_are_refused_before_training(finetune, fairseq_data, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((50, 40), dtype=np.float32))
    header, first, *rest = (fairseq_data / "dev.tsv").read_text().splitlines(keepends=True)
    fields = first.split("\t")
    shutil.copytree(fairseq_data, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dev.tsv").write_text(header + "\t".join([fields[0], "a.npy", "50", *fields[3:]]) + "".join(rest))
    run = finetune(folder=tmp_path)
    with pytest.raises(ManifestError, match=r"dev\.tsv:2: filterbanks of 40 bins, but the student takes 80"):
        run.task.load_dataset("dev")


# -- config.yaml -------------------------------------------------------------------------------------------------------
def test_transforms_make_the_input_of_a_new_student(finetune, changed):
    folder = changed(transforms={"*": ["global_cmvn"]}, global_cmvn={"stats_npz_path": "stats.npz"})
    mean, std = np.linspace(8, 12, 80).astype(np.float32), np.linspace(1.5, 4, 80).astype(np.float32)
    np.savez(folder / "stats.npz", mean=mean, std=std)
    run = finetune(folder=folder)
    assert run.task.encoder.input.mean == mean.tolist() and run.task.encoder.input.std == std.tolist()
    run.task.load_dataset("dev")
    dataset = run.task.dataset("dev")
    expected = (read_stored_fbank(dataset.rows.audio_path(0), 80) - mean) / std
    assert np.allclose(dataset[0]["source"], expected, atol=1e-6)


def test_options_go_before_transforms(finetune, changed):
    folder = changed(transforms={"*": ["global_cmvn"]})  # without statistics, which are not looked for
    run = finetune("--cmvn", "none", folder=folder)
    run.task.load_dataset("dev")
    assert run.task.encoder.input.normalization == "none"


def test_the_student_and_the_data_contradict(finetune, changed, caplog, monkeypatch):
    """In training an error that names both; a trained model gets what its checkpoint says."""
    run = finetune(folder=changed(transforms={"_train": [], "*": ["utterance_cmvn"]}))
    run.task.load_dataset("train")
    message = (
        r"config\.yaml asks for kaldi filterbanks normalized over the utterance in dev, but the student takes kaldi "
        "filterbanks as"
    )
    with pytest.raises(ConfigError, match=message):
        run.task.load_dataset("dev")
    monkeypatch.setattr(compat, "evaluated_checkpoint", lambda cfg: "checkpoint.pt")
    run.task.load_dataset("dev")
    assert re.search(message + ".*gets what its checkpoint says", caplog.text)
    assert run.task.dataset("dev").student_input.config.normalization == "none"


def test_bins_of_the_data_and_of_a_new_student(finetune, changed):
    with pytest.raises(
        ConfigError, match=r"config\.yaml: input_feat_per_channel is 40, but new students take .* of 80"
    ):
        finetune(folder=changed(input_feat_per_channel=40))


def test_masks_in_training(finetune, changed):
    policy = {"freq_mask_N": 1, "freq_mask_F": 27, "time_mask_N": 2, "time_mask_T": 70, "time_mask_p": 0.2}
    folder = changed(specaugment=policy)
    task = finetune(folder=folder).task
    task.load_dataset("train"), task.load_dataset("dev")
    assert task.dataset("train").options.spec_augment == SpecAugment(1, 27, 2, 70, 0.2)
    assert task.dataset("dev").options.spec_augment is None
    task = finetune("--specaug-freq-masks", "3", folder=folder).task
    task.load_dataset("train")
    assert task.dataset("train").options.spec_augment.num_freq_masks == 3


def test_masks_that_differ_between_training_manifests(finetune, changed):
    folder = changed(transforms={"*": ["utterance_cmvn"], "train": ["utterance_cmvn", "specaugment"]})
    content = (folder / "train.tsv").read_text()
    (folder / "train_b.tsv").write_text(content)
    task = finetune("--train-subset", "train,train_b", folder=folder).task
    with pytest.raises(ConfigError, match="other masks for some of train,train_b"):
        task.load_dataset("train,train_b")


def test_another_name_of_the_configuration(finetune, changed, caplog):
    """fairseq's scripts for MuST-C call it config_st.yaml; its vocabulary is found through it."""
    folder = changed("config_st.yaml", transforms={"*": []}, audio_root="elsewhere", sampling_alpha=0.3)
    run = finetune("--config-yaml", "config_st.yaml", folder=folder)
    assert run.task.encoder.input.normalization == "none" and run.task.vocabulary.uses_tags
    run.task.load_dataset("dev")
    assert "config_st.yaml: not applied here: sampling_alpha" in caplog.text
    (folder / "relative.tsv").write_text("id\taudio\tn_frames\ttgt_text\ttgt_lang\na\ta.wav\t16000\tabc\txx\n")
    run.task.load_dataset("relative")
    assert run.task.dataset("relative").rows.audio_path(0) == str(folder / "elsewhere" / "a.wav")


# -- distillation ------------------------------------------------------------------------------------------------------
def distil(folder, teacher, *more):
    options = ["--task", "speech_distillation", "--teacher", teacher, "--arch", "colld_student", "--criterion", "colld"]
    return set_up(folder, *options, "--layer-map", "sparse:2", *TINY_ENCODER, *more)


def test_a_teacher_needs_the_waveform(fairseq_data, teacher):
    run = distil(fairseq_data, teacher)
    with pytest.raises(ManifestError, match=r"train\.tsv:2: .*the teacher needs the waveform.*--teacher-cache"):
        run.task.load_dataset("train")


def test_a_cache_stands_in_for_the_teacher(fairseq_data, corpus, teacher, tmp_path):
    """Made of the audio with the same ids; the student reads the stored filterbanks."""
    cache = tmp_path / "cache"
    audio = str(corpus / "train.tsv")
    assert colld(["features", "--manifest", audio, "--teacher", teacher, "--layers", "2,4", "--out", str(cache)]) == 0
    shutil.copy(fairseq_data / "train.tsv", tmp_path)
    run = distil(tmp_path, teacher, "--teacher-cache", cache)
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    batch = dataset.collater([dataset[i] for i in (0, 3, 4)])
    assert "teacher_input" not in batch
    loss, sample_size, _ = run.criterion(run.model.train(), batch)
    assert np.isfinite(loss.item()) and sample_size > 0


# -- audio -------------------------------------------------------------------------------------------------------------
def test_audio_input_is_read_as_fairseq_reads_it(finetune, tmp_path):
    folder = fairseq_layouts.write_data(tmp_path, audio=True, dev=4, train=4)
    theirs = fairseq_layouts.fairseq_dataset(folder, "dev")
    run = finetune(*WAVEFORM, "--normalize-waveform", folder=folder)
    run.task.load_dataset("dev")
    dataset = run.task.dataset("dev")
    assert dataset.rows.n_samples.tolist() == theirs.n_frames and not dataset.rows.stored_fbank.any()
    with fairseq_layouts.stand_ins():
        for index in range(4):  # fairseq normalizes always: standardize_audio is a method there, which is true
            assert np.allclose(dataset[index]["source"], theirs[index].source.numpy(), atol=1e-5)


def test_segments_of_must_c(finetune, fairseq_data, tmp_path):
    """fairseq's reader of the corpus says where segments are; `talk.wav:start:length` names them."""
    segments = fairseq_layouts.must_c(tmp_path)
    lines = ["id\taudio\tn_frames\ttgt_text\ttgt_lang"]
    for path, start, length, rate, _, target, _, name in segments.data:
        lines.append(f"{name}\t{path}:{start}:{length}\t{length * 16000 // rate}\t{target}\txx")
    shutil.copytree(fairseq_data, tmp_path / "data")
    (tmp_path / "data" / "segments.tsv").write_text("\n".join(lines) + "\n")
    run = finetune(*WAVEFORM, folder=tmp_path / "data")
    run.task.load_dataset("segments")
    dataset = run.task.dataset("segments")
    with fairseq_layouts.stand_ins():
        for index in range(len(segments)):
            waveform, *_, target, _, name = segments[index]
            item = dataset[index]
            assert item["utt_id"] == name and item["row"].tgt_text == target
            assert np.array_equal(item["source"], waveform[0].numpy())
            assert dataset.size(index) == len(item["source"])
