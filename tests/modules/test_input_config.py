import json

import pytest

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.input_config import InputConfig

STATISTICS = dict(mean=[0.1 * i - 7 / 3 for i in range(80)], std=[1 / (i + 1) for i in range(80)])


def test_statistics_survive_json_to_the_last_digit():
    given = EncoderConfig(input=InputConfig(normalization="corpus", **STATISTICS))
    again = EncoderConfig.from_dict(json.loads(json.dumps(given.to_dict())))
    assert again == given and isinstance(again.input, InputConfig)
    assert (again.input.mean, again.input.std) == (STATISTICS["mean"], STATISTICS["std"])


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(kind="spectrogram"), "kind='spectrogram'"),
        (dict(fbank="lyon"), "fbank='lyon'"),
        (dict(kind="waveform", normalization="corpus", **STATISTICS), "waveform.*normalization='corpus'"),
        (dict(normalization="corpus"), "0 means and 0 deviations.*needs 80"),
        (dict(normalization="corpus", **STATISTICS, bins=40), "80 means.*needs 40"),
        (dict(normalization="utterance", **STATISTICS), "80 means.*needs 0"),
        (dict(normalization="corpus", mean=[float("nan")] * 80, std=[1.0] * 80), "not finite"),
        (dict(bins=0), "bins=0"),
    ],
)
def test_nonsense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        InputConfig(**values)


def test_fields_of_a_newer_version_are_named():
    with pytest.raises(ConfigError, match="window.*newer version"):
        InputConfig.from_dict(dict(window="hann"))


@pytest.mark.parametrize("front_end, kind", [("waveform", "fbank"), ("conv2d", "waveform")])
def test_the_input_is_one_that_the_front_end_takes(front_end, kind):
    with pytest.raises(ConfigError, match=f"{front_end}.*{kind}"):
        EncoderConfig(front_end=front_end, input=InputConfig(kind))
    with pytest.raises(ConfigError, match="40 bins"):
        EncoderConfig(input=InputConfig(bins=40))
