"""What a client would get wrong is refused with the reason; symbols that it would put together in another way, too."""

import pytest

from colld_fairseq.checkpoints.onnx_reading import check_installed
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.ctc_slots import FIRE_RED, OMNILINGUAL, PLAIN, ZIPFORMER, slot_for
from colld_fairseq.export.symbols import client_symbols, never_emitted, tokens_file
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.input_config import InputConfig

SMALL = dict(layers=1, embed_dim=16, ffn_dim=16, attention_heads=2, conv_pos=8, conv_pos_groups=2)
WAVEFORM = dict(SMALL, front_end="waveform", conv_layers=[[4, 10, 5]] + [[4, 2, 2]] * 6)


def student(**values):
    return StudentEncoder(EncoderConfig(**{**SMALL, **values}))


def test_where_students_go():
    assert slot_for("sherpa-onnx", student(input=InputConfig())) is FIRE_RED
    assert slot_for("sherpa-onnx", student(**WAVEFORM, input=InputConfig.waveforms(True))) is OMNILINGUAL
    for shape in (dict(front_end="conv2d"), dict(fbank_stack=4)):
        assert slot_for("sherpa-onnx", student(**shape, input=InputConfig(fbank="icefall"))) is ZIPFORMER
    assert slot_for("onnx", student(input=InputConfig(fbank="icefall"))) is PLAIN
    assert slot_for("onnx", student(**WAVEFORM, input=InputConfig.waveforms(False))) is PLAIN


@pytest.mark.parametrize(
    "target, values, reason",
    [
        ("sherpa-onnx", dict(**WAVEFORM, input=InputConfig.waveforms(False)), "takes as it is"),
        ("sherpa-onnx", dict(**WAVEFORM, input=InputConfig.waveforms(True), time_reduction=2), "20 ms"),
        ("sherpa-onnx", dict(fbank_bins=40, input=InputConfig(bins=40)), "80 bins"),
        ("sherpa-onnx", dict(input=InputConfig(fbank="icefall")), "40 ms .* this student's are 20 ms"),
        (
            "onnx-asr",
            dict(input=InputConfig()),
            "NeMo's and GigaAM's features for CTC.*kaldi .* Train with --fbank icefall",
        ),
        ("onnx-asr", dict(fbank_bins=40, input=InputConfig(bins=40, fbank="icefall")), "of 40 bins"),
        ("onnx-asr", dict(**WAVEFORM, input=InputConfig.waveforms(True)), "no model of waveforms at 16 kHz"),
        ("onnx", dict(front_end="whisper", block="transformer", position="sinusoidal"), "log-mels"),
    ],
)
def test_what_is_refused(target, values, reason):
    with pytest.raises(ConfigError, match=reason):
        slot_for(target, student(**values))


def test_symbols(vocab, tagged_vocab):
    symbols = client_symbols(Vocabulary(str(vocab)))
    assert symbols[:4] == ["<blk>", "<pad>", "</s>", "<unk>"] and "▁" in symbols and "|" not in symbols
    lines = tokens_file(symbols).splitlines()
    assert lines[0] == "<blk> 0" and len(lines) == len(symbols) == len(set(lines))
    tagged = Vocabulary(str(tagged_vocab))
    assert never_emitted(tagged) == {1, 2, 3, *tagged.tag_ids} and tagged.tag_ids


@pytest.mark.parametrize(
    "letters, reason",
    [
        (["a", "▁", "|"], "twice"),
        (["a", "\u0181"], "byte-level"),
        (["a", "b\u00a0c"], "a space in it"),
    ],
)
def test_symbols_that_clients_would_misread(letters, reason, tmp_path):
    (tmp_path / "dict.txt").write_text("".join(f"{letter} 1\n" for letter in letters), encoding="utf-8")
    (tmp_path / "config.yaml").write_text("vocab_filename: dict.txt\n")
    with pytest.raises(ConfigError, match=reason):
        client_symbols(Vocabulary(str(tmp_path)))


def test_a_missing_package_comes_with_the_line_that_installs_it():
    with pytest.raises(ConfigError, match=r"no_such_package.*pip install .*export"):
        check_installed("onnx", "no_such_package")
