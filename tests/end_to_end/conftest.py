"""Runs that several end-to-end tests look at: a distilled student, recognisers and translators made from it."""

import pytest
from commands import PACKAGE, TINY_ENCODER, TRAINING, spawn
from trained import UPDATES, Trained, finetune

from colld_fairseq.cli import main as colld

DECODER = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "48"]


@pytest.fixture(scope="session")
def distil_options(corpus, teacher):
    """Options of a distillation run, without --save-dir and --max-update."""
    return [
        *[
            corpus,
            "--task",
            "speech_distillation",
            "--teacher",
            teacher,
            "--arch",
            "colld_student",
            *TINY_ENCODER,
        ],
        *[
            "--criterion",
            "colld",
            "--layer-map",
            "sparse:2",
            "--num-negatives",
            "20",
            "--log-sigmoid-cosine-weight",
            "1",
        ],
        *TRAINING,
    ]


@pytest.fixture(scope="session")
def distilled(distil_options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    run = spawn("fairseq-train", *distil_options, "--max-update", UPDATES, "--save-dir", folder)
    return Trained(folder / "checkpoint_last.pt", run.output)


@pytest.fixture
def two_teachers(corpus, teacher, fast_teacher):
    """Options of a run whose student, at 25 Hz, has a 50 Hz teacher of width 24 and a 100 Hz teacher of width 16."""
    return [
        *[corpus, "--task", "speech_distillation", "--teacher", f"slow={teacher},fast={fast_teacher}"],
        *["--arch", "colld_student", *TINY_ENCODER, "--fbank-stack", "4", "--layer-map", "slow=1:2,2:4,fast=2:3"],
        *["--criterion", "multi_teacher", "--mask-prob", "0", *TRAINING],
    ]


@pytest.fixture(scope="session")
def teacher_cache(corpus, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    manifests = ",".join(str(corpus / f"{split}.tsv") for split in ("train", "valid"))
    code = colld(["features", "--manifest", manifests, "--teacher", teacher, "--layers", "2,4", "--out", str(folder)])
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def finetune_options(corpus, distilled):
    """Options of a fine-tuning run, without --arch, --vocab, --save-dir and --max-update."""
    return [
        *[corpus, "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention"],
        *["--student", distilled.checkpoint, *TRAINING],
    ]


@pytest.fixture(scope="session")
def recogniser(finetune_options, vocab, tmp_path_factory):
    """student_ctc, without language tags."""
    return finetune(finetune_options, tmp_path_factory.mktemp("ctc"), "--arch", "student_ctc", "--vocab", vocab)


@pytest.fixture(scope="session")
def translator(finetune_options, vocab, tmp_path_factory):
    """student_s2t, without language tags; CTC learns the transcripts."""
    more = ["--arch", "student_s2t", *DECODER, "--vocab", vocab, "--ctc-target", "src_text"]
    return finetune(finetune_options, tmp_path_factory.mktemp("s2t"), *more)


@pytest.fixture(scope="session")
def tagged_translator(finetune_options, tagged_vocab, tmp_path_factory):
    """student_s2t with language tags."""
    more = ["--arch", "student_s2t", *DECODER, "--vocab", tagged_vocab]
    return finetune(finetune_options, tmp_path_factory.mktemp("tagged_s2t"), *more)


@pytest.fixture(scope="session")
def decoding(corpus):
    """Options of fairseq-generate and fairseq-validate, without --path, --vocab and the subset."""
    return [corpus, "--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--num-workers", "0"]
