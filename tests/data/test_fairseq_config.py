"""What fairseq's config.yaml says of audio, filterbanks and text, compared with what fairseq makes of it."""

import shutil
import sys
from types import ModuleType, SimpleNamespace

import fairseq_layouts
import numpy as np
import pytest
import yaml
from fairseq.data.audio.feature_transforms import CompositeAudioFeatureTransform
from fairseq.data.audio.feature_transforms.specaugment import SpecAugmentTransform

from colld_fairseq.data.augment import SpecAugment
from colld_fairseq.data.checks import load_tokens
from colld_fairseq.data.fairseq_config import FairseqDataConfig, read_data_config
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.stored_fbank import read_stored_fbank
from colld_fairseq.data.text import load_text_codec
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.decoding.words import WordTimer
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.tasks.multilingual_speech_to_text import (
    MultilingualSpeechToTextConfig,
    MultilingualSpeechToTextTask,
)


@pytest.fixture(scope="module")
def global_data(tmp_path_factory):
    return fairseq_layouts.write_data(tmp_path_factory.mktemp("global"), cmvn="global", train=8, dev=4)


def written(folder, **values):
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return read_data_config(str(folder))


@pytest.mark.parametrize("data, rounding", [("fairseq_data", 1e-2), ("global_data", 1e-6)])
def test_features_equal_those_of_fairseq(data, rounding, request):
    folder = request.getfixturevalue(data)
    theirs = fairseq_layouts.fairseq_dataset(folder, "dev")
    transforms = CompositeAudioFeatureTransform.from_config_dict(theirs.cfg.get_feature_transforms("dev", False))
    student_input = StudentInput(read_data_config(str(folder)).input_of("fbank", "dev"))
    rows = read_manifest(str(folder / "dev.tsv"))
    for index in range(len(rows)):
        stored = read_stored_fbank(rows.audio_path(index), 80)
        ours = student_input(stored)
        # utterance_cmvn takes small variances as differences of large float32 sums; of float64 it is exact
        assert np.allclose(ours, transforms(stored.astype(np.float64)), rtol=0, atol=1e-6)
        assert np.allclose(ours, theirs[index].source.numpy(), rtol=0, atol=rounding)


def test_targets_equal_those_of_fairseq(fairseq_data):
    theirs, vocabulary = fairseq_layouts.fairseq_dataset(fairseq_data, "dev"), Vocabulary(str(fairseq_data))
    assert vocabulary.uses_tags and vocabulary.dictionary.symbols == theirs.tgt_dict.symbols
    rows = read_manifest(str(fairseq_data / "dev.tsv"))
    for index in range(len(rows)):
        row = rows.row(index)
        expected = theirs[index].target.tolist()
        assert [vocabulary.tag_id(row.tgt_lang), *vocabulary.encode(row.tgt_text, append_eos=True)] == expected
        assert vocabulary.decode(theirs[index].target) == row.tgt_text


def test_transforms_of_a_split():
    tables = {"*": ["utterance_cmvn"], "_train": [], "_eval": None, "special": ["specaugment"]}
    values = {"feature_transforms": tables, "specaugment": {"freq_mask_N": 1, "freq_mask_F": 9}}
    config = FairseqDataConfig("config.yaml", values)
    normalization = {split: config.input_of("fbank", split).normalization for split in ("train", "dev", "special")}
    assert normalization == {"train": "none", "dev": "utterance", "special": "none"}
    masks = SpecAugment(1, 9, num_time_masks=0, max_time_width=0, max_time_fraction=0.0)
    assert config.spec_augment("special") == masks and config.spec_augment("train") is None


def test_specaugment_of_fairseqs_policy(fairseq_data, tmp_path):
    config = read_data_config(str(fairseq_data))
    assert config.spec_augment("train") == SpecAugment(1, 27, 1, 100, 1.0)
    filled = SpecAugment(num_freq_masks=3, fill=-7.0)(np.ones((200, 80), dtype=np.float32), np.random.default_rng(1))
    assert set(np.unique(filled)) == {-7.0, 1.0}
    theirs = SpecAugmentTransform.from_config_dict(config.values["specaugment"])
    ours = config.spec_augment("train")
    assert (theirs.freq_mask_n, theirs.freq_mask_f) == (ours.num_freq_masks, ours.max_freq_width)
    assert (theirs.time_mask_n, theirs.time_mask_t) == (ours.num_time_masks, ours.max_time_width)
    assert (theirs.time_mask_p, theirs.mask_value) == (ours.max_time_fraction, ours.fill)


def test_what_a_file_does_not_say(vocab, tmp_path):
    for config in (read_data_config(str(vocab)), read_data_config(str(tmp_path))):
        assert config.input_of("fbank", "train") is config.input_of("waveform", "train") is None
        assert config.audio_root is None and config.spec_augment("train") is None and not config.not_applied
    with pytest.raises(ConfigError, match="no vocabulary in .*config_st.yaml"):
        read_data_config(str(tmp_path), "config_st.yaml")


def test_audio_input_has_no_transforms(tmp_path):
    config = written(tmp_path, use_audio_input=True, transforms={"*": ["global_cmvn", "specaugment"]})
    assert config.input_of("fbank", "train") is config.input_of("waveform", "train") is None
    assert config.spec_augment("train") is None
    config = written(tmp_path, use_audio_input=True, standardize_audio=True)
    assert config.input_of("waveform", "train") == InputConfig.waveforms(True)


def test_files_are_found_beside_a_file_that_has_moved(global_data, tmp_path):
    for name in ("config.yaml", "gcmvn.npz", "spm_char.model", "spm_char.txt"):
        shutil.copy(global_data / name, tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace(str(global_data), "/gone"))
    moved, here = read_data_config(str(tmp_path)), read_data_config(str(global_data))
    assert "/gone/gcmvn.npz" in (tmp_path / "config.yaml").read_text()
    assert moved.input_of("fbank", "dev") == here.input_of("fbank", "dev")
    ids = [Vocabulary(str(folder)).encode("abc", True).tolist() for folder in (tmp_path, global_data)]
    assert ids[0] == ids[1]


def test_roots(tmp_path):
    assert written(tmp_path, audio_root="wavs").audio_root == str(tmp_path / "wavs")
    assert written(tmp_path, audio_root="/data").audio_root == "/data"


@pytest.mark.parametrize(
    "values, message",
    [
        ({"transforms": {"*": ["delta_deltas"]}}, "transforms delta_deltas of train; known here is"),
        ({"transforms": {"*": ["utterance_cmvn", "global_cmvn"]}}, "transforms utterance_cmvn, global_cmvn of train"),
        ({"transforms": {"*": ["specaugment", "utterance_cmvn"]}}, "transforms specaugment, utterance_cmvn of train"),
        ({"transforms": {"*": ["utterance_cmvn"]}, "utterance_cmvn": {"norm_vars": False}}, "without means or var"),
        ({"transforms": {"*": ["global_cmvn"]}}, "no stats_npz_path"),
    ],
)
def test_what_is_not_known_is_refused(values, message, tmp_path):
    with pytest.raises(ConfigError, match=f"config.yaml: .*{message}"):
        written(tmp_path, **values).input_of("fbank", "train")


def test_time_warping_is_refused(tmp_path):
    config = written(tmp_path, transforms={"*": ["specaugment"]}, specaugment={"time_warp_W": 5})
    with pytest.raises(ConfigError, match="time_warp_W=5.*--specaug-freq-masks"):
        config.spec_augment("train")


def test_what_is_left_out_is_known(tmp_path):
    config = written(tmp_path, sampling_alpha=0.5, waveform_transforms={"_train": ["noiseaugment"]})
    assert config.not_applied == ["waveform_transforms", "sampling_alpha"]


# -- tokenizers --------------------------------------------------------------------------------------------------------
class Letters:
    """Stands in for subword-nmt's BPE: every letter a subword."""

    def __init__(self, codes, merges, separator, vocab, glossaries):
        self.separator = separator
        assert codes.read().startswith("#version")

    def process_line(self, line):
        return " ".join(f"{self.separator} ".join(word) for word in line.split())


@pytest.fixture
def subword_nmt(monkeypatch, tmp_path):
    """Folder of a vocabulary whose tokens subword-nmt makes."""
    import argparse

    def create_parser():
        parser = argparse.ArgumentParser()
        parser.add_argument("--codes", type=argparse.FileType("r"))
        parser.add_argument("--separator")
        parser.set_defaults(merges=-1, glossaries=None)
        return parser

    package, module = ModuleType("subword_nmt"), SimpleNamespace(BPE=Letters, create_parser=create_parser)
    package.apply_bpe = module
    monkeypatch.setitem(sys.modules, "subword_nmt", package)
    (tmp_path / "codes").write_text("#version: 0.2\n")
    (tmp_path / "words.txt").write_text("".join(f"{token} 1\n" for token in ("a@@", "b@@", "c@@", "a", "b", "c")))
    config = {"vocab_filename": "words.txt", "bpe_tokenizer": {"bpe": "subword_nmt", "bpe_codes": "/gone/codes"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_subword_nmt(subword_nmt):
    vocabulary = Vocabulary(str(subword_nmt))
    ids = vocabulary.encode("abc  cab", append_eos=True)
    assert vocabulary.dictionary.string(ids, "none") == "a@@ b@@ c c@@ a@@ b"
    assert vocabulary.decode(ids) == vocabulary.dictionary.string(ids) == "abc cab"
    assert vocabulary.dictionary.string(ids, "subword_nmt") == "abc cab"
    encode, known = load_tokens(str(subword_nmt))
    assert encode("ab") == ["a@@", "b"] and "c@@" in known


def test_words_are_cut_before_subwords(subword_nmt):
    config = {"pre_tokenizer": {"tokenizer": "space"}, "bpe_tokenizer": {"bpe": "subword_nmt", "bpe_codes": "codes"}}
    codec = load_text_codec(config, subword_nmt / "config.yaml")
    assert codec.encode("ab \u3000c") == ["a@@", "b", "c"] and codec.decode(["a@@", "b", "c"]) == "ab c"


def test_words_of_a_hypothesis(subword_nmt):
    vocabulary = Vocabulary(str(subword_nmt))
    ids = vocabulary.encode("abc cab b", append_eos=False).tolist()
    assert WordTimer(vocabulary, 0.04).groups(ids) == [("abc", (0, 1, 2)), ("cab", (3, 4, 5)), ("b", (6,))]


def test_words_are_tokens_without_subwords(tmp_path):
    (tmp_path / "words.txt").write_text("hello 1\nworld 1\n")
    (tmp_path / "config.yaml").write_text("vocab_filename: words.txt\npre_tokenizer: {tokenizer: space}\n")
    vocabulary = Vocabulary(str(tmp_path))
    ids = vocabulary.encode("hello world", append_eos=False).tolist()
    assert WordTimer(vocabulary, 0.04).groups(ids) == [("hello", (0,)), ("world", (1,))]


@pytest.mark.parametrize(
    "decoding, option",
    [(dict(hotwords="names.txt"), "--hotwords"), (dict(ngram_lm="words.arpa"), "--ngram-lm-unit word")],
)
def test_what_needs_a_word_boundary_is_refused(subword_nmt, decoding, option):
    cfg = MultilingualSpeechToTextConfig(data=str(subword_nmt), vocab=str(subword_nmt), **decoding)
    task = MultilingualSpeechToTextTask.setup_task(cfg)
    with pytest.raises(ConfigError, match=f"{option} has to know where words begin.*subword_nmt"):
        task.with_hotwords(*task.fusion(None, 0.0))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"bpe_tokenizer": {"bpe": "gpt2"}}, "bpe_tokenizer 'gpt2' is not known; known are subword_nmt"),
        ({"pre_tokenizer": {"tokenizer": "nltk"}}, "pre_tokenizer 'nltk' is not known; known are moses, space"),
        ({"bpe_tokenizer": {"bpe": "subword_nmt"}}, "subword_nmt needs bpe_codes, and None is not there"),
        ({"bpe_tokenizer": {"bpe": "subword_nmt", "bpe_codes": "no"}}, "needs bpe_codes, and 'no' is not there"),
    ],
)
def test_tokenizers_that_cannot_be_had(values, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_text_codec(values, tmp_path / "config.yaml")


def test_a_tokenizer_that_is_not_installed(subword_nmt, monkeypatch):
    monkeypatch.setitem(sys.modules, "subword_nmt", None)
    with pytest.raises(ConfigError, match="config.yaml: its tokenizer is not installed: .*pip install subword-nmt"):
        Vocabulary(str(subword_nmt))


def test_language_tags_at_the_end_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("prepend_bos_and_append_tgt_lang_tag: true\n")
    with pytest.raises(ConfigError, match="config.yaml: prepend_bos_and_append_tgt_lang_tag"):
        Vocabulary(str(tmp_path))
