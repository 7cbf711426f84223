"""Trained students by shape, made once, and utterances that they have not seen."""

import numpy as np
import pytest
import synthetic
from students import ARCHITECTURES, CORPUS_CMVN, MORE_UPDATES, TAGGED, UPDATES, train, write_statistics

from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions
from colld_fairseq.export.folder import write_folder
from colld_fairseq.recogniser import load_recogniser


@pytest.fixture(scope="session")
def waveforms():
    """Of odd lengths: float32 [N]."""
    made = [utterance.waveform.astype(np.float32) for utterance in synthetic.make_utterances("export", 6, seed=21)]
    return [waveform[: len(waveform) - 37 * index] for index, waveform in enumerate(made)]


@pytest.fixture(scope="session")
def checkpoint(corpus, vocab, tagged_vocab, waveforms, tmp_path_factory):
    made = {}

    def make(shape):
        if shape not in made:
            folder = tmp_path_factory.mktemp(shape)
            options = next(kind[shape] for kind in ARCHITECTURES.values() if shape in kind)
            if shape in CORPUS_CMVN:
                statistics = write_statistics(folder / "cmvn.npz", waveforms, CORPUS_CMVN[shape])
                options = [*options, "--cmvn", statistics]
            arch = next(arch for arch, kind in ARCHITECTURES.items() if shape in kind)
            symbols = tagged_vocab if shape in TAGGED else vocab
            updates = MORE_UPDATES if shape in TAGGED else UPDATES
            made[shape] = train(folder / "model.pt", corpus, symbols, *options, arch=arch, updates=updates)
        return made[shape]

    return make


@pytest.fixture(scope="session")
def recogniser(checkpoint):
    made = {}

    def make(shape):
        if shape not in made:
            made[shape] = load_recogniser(checkpoint(shape), device="cpu")
        return made[shape]

    return make


@pytest.fixture(scope="session")
def exported(recogniser, tmp_path_factory):
    """Folders by shape and target, with 8-bit weights; each made once."""
    made = {}

    def make(shape, target, **options):
        key = (shape, target, *options.items())
        if key not in made:
            family = family_of(recogniser(shape), ExportOptions(target, **options))
            made[key] = write_folder(tmp_path_factory.mktemp(shape) / target, family, True, "torchscript")
        return made[key]

    return make
