"""Fixtures shared by all rooms: synthetic corpora, a tiny teacher, vocabularies, and fairseq's commands."""

import contextlib
import logging
import os
import random
import zlib

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only cost time

import fairseq_layouts
import numpy
import pytest
import synthetic
import torch
from commands import TINY_ENCODER
from pretended_gpu import pretended_gpu
from task_setup import set_up

from colld_fairseq.data.vocabulary_making import make_vocabulary

torch.set_num_threads(1)


def seed(name):
    """Random numbers that depend on a name alone: the same weights whatever ran before, and in whichever worker."""
    value = zlib.crc32(name.encode())
    random.seed(value)
    numpy.random.seed(value)
    torch.manual_seed(value)


def pytest_addoption(parser):
    parser.addoption(
        "--pretend-gpu", action="store_true", help="run everything as on a GPU, see tests/pretended_gpu.py"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Fixtures included, whatever their scope."""
    with pretended_gpu() if item.config.getoption("--pretend-gpu") else contextlib.nullcontext():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    seed(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """What several tests share neither takes random numbers from the first of them nor leaves it other ones."""
    if fixturedef.scope == "function":
        return (yield)
    before = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    seed(fixturedef.argname)
    try:
        return (yield)
    finally:
        random.setstate(before[0])
        numpy.random.set_state(before[1])
        torch.set_rng_state(before[2])


@pytest.fixture(autouse=True)
def log_levels():
    """Put back: a test that silences fairseq in this process would empty the training logs that later tests read."""
    loggers = [logging.getLogger("fairseq"), logging.getLogger("colld_fairseq")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Folder with train.tsv (24 utterances), valid.tsv (10) and test.tsv (9): three languages, four directions."""
    return synthetic.write_corpus(tmp_path_factory.mktemp("corpus"), train=24, valid=10, test=9)


@pytest.fixture(scope="session")
def fairseq_data(tmp_path_factory):
    """Stored filterbanks, sentencepiece with language tags and a config.yaml, as fairseq's scripts write them."""
    return fairseq_layouts.write_data(tmp_path_factory.mktemp("fairseq_data"), tags=True, train=24, dev=10)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Spec of a random HuBERT with 4 layers of width 24."""
    return synthetic.write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def fast_teacher(tmp_path_factory):
    """Spec of a random HuBERT with 4 layers of width 16 at 100 Hz."""
    folder = tmp_path_factory.mktemp("fast_teacher")
    return synthetic.write_teacher(folder, width=16, strides=(5, 2, 2, 2, 2, 2, 1))


@pytest.fixture(scope="session")
def coded_teacher(tmp_path_factory):
    """Spec of a random fairseq HuBERT with 4 layers of width 24, its pre-training head and 7 code classes."""
    return synthetic.write_hubert_with_codes(tmp_path_factory.mktemp("coded_teacher") / "hubert.pt")


@pytest.fixture(scope="session")
def vocab(corpus, tmp_path_factory):
    """Character vocabulary of the training text, without language tags."""
    folder = tmp_path_factory.mktemp("vocab")
    make_vocabulary([str(corpus / "train.tsv")], folder)
    return folder


@pytest.fixture(scope="session")
def tagged_vocab(corpus, tmp_path_factory):
    """Character vocabulary with a tag for every target language."""
    folder = tmp_path_factory.mktemp("tagged_vocab")
    make_vocabulary([str(corpus / "train.tsv")], folder, lang_tags=True)
    return folder


@pytest.fixture
def distillation(corpus, teacher):
    """Build with more options: distillation("--fp16", ...)."""

    def build(*more, arch="colld_student"):
        arguments = [corpus, "--task", "speech_distillation", "--teacher", teacher, "--criterion", "colld"]
        return set_up(*arguments, "--arch", arch, "--layer-map", "sparse:2", *TINY_ENCODER, *more)

    return build


@pytest.fixture
def finetuning(corpus, vocab):
    def build(*more, arch="student_ctc"):
        arguments = [
            corpus,
            "--task",
            "multilingual_speech_to_text",
            "--criterion",
            "ctc_attention",
            "--vocab",
            vocab,
        ]
        return set_up(*arguments, "--arch", arch, *TINY_ENCODER, *more)

    return build
