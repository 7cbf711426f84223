"""A transducer: trained, validated by decoding, decoded by fairseq-generate, with and without a language model."""

import pytest
from commands import PACKAGE, TINY_ENCODER, TRAINING, call, log_records
from test_decoding import NUM_TEST, generate, hypotheses, references
from trained import finetune

from colld_fairseq.cli import main as colld
from colld_fairseq.errors import ConfigError

TRANSDUCER = [
    *["--task", "multilingual_speech_to_text", "--arch", "transducer_student", "--criterion", "transducer"],
    *["--auxiliary-ctc", "--predictor-embed-dim", "16", "--joiner-dim", "24", *TINY_ENCODER, "--front-end", "conv2d"],
    *TRAINING,
]


@pytest.fixture(scope="session")
def transducer(corpus, vocab, tmp_path_factory):
    options = [*TRANSDUCER, "--vocab", vocab, "--specaug-freq-masks", "1", "--best-checkpoint-metric", "cer"]
    return finetune([corpus, *options], tmp_path_factory.mktemp("transducer"))


@pytest.fixture(scope="session")
def tagged_transducer(corpus, tagged_vocab, tmp_path_factory):
    options = [*TRANSDUCER, "--vocab", tagged_vocab, "--predictor", "stateless", "--ctc-target", "src_text"]
    return finetune([corpus, *options], tmp_path_factory.mktemp("tagged_transducer"))


def test_trains_and_validates_by_decoding(transducer, tagged_transducer):
    for run in (transducer, tagged_transducer):
        updates = log_records(run.output, "train_inner")
        assert float(updates[-1]["loss"]) < float(updates[0]["loss"])
        valid = log_records(run.output, "valid")[-1]
        assert {"valid_transducer_loss", "valid_ctc_loss", "valid_cer", "valid_wer_yy-xx"} <= set(valid)
    assert "valid_ctc_cer_yy-yy" in log_records(tagged_transducer.output, "valid")[-1]


KINDS = {
    "greedy": ("transducer", "vocab", ["--beam", "1"]),
    "tags": ("tagged_transducer", "tagged_vocab", ["--beam", "2"]),
    "beam": ("transducer", "vocab", ["--beam", "3", "--max-symbols", "2"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_hypotheses_do_not_depend_on_the_batches(kind, request, decoding):
    trained, vocab, options = KINDS[kind]
    trained, vocab = request.getfixturevalue(trained), request.getfixturevalue(vocab)
    options = [*options, "--blank-penalty", "3"]  # so short a training says little else than blanks
    limits = [["--max-tokens", "200000"], ["--batch-size", "1"]]
    together, alone = (hypotheses(generate(decoding, trained, vocab, *options, *limit)) for limit in limits)
    assert set(together) == set(alone) == set(range(NUM_TEST))
    assert any(hypothesis.text for hypothesis in alone.values())
    for index, expected in alone.items():
        assert together[index].text == expected.text
        assert together[index].score == pytest.approx(expected.score, abs=1e-3)
        assert together[index].token_scores == pytest.approx(expected.token_scores, abs=2e-4)


def test_validate_repeats_the_validation_of_training(tagged_transducer, tagged_vocab, decoding):
    options = ["--valid-subset", "valid", "--max-tokens", "60000", "--log-format", "json"]
    path = ["--path", tagged_transducer.checkpoint, "--vocab", tagged_vocab, "--ctc-target", "src_text"]
    record = log_records(call("validate", *decoding, *options, *path), "valid")[-1]
    expected = log_records(tagged_transducer.output, "valid")[-1]
    for key in ("valid_loss", "valid_transducer_loss", "valid_cer", "valid_ctc_cer"):
        assert record[key] == expected[key]


def test_references_and_wer(transducer, vocab, decoding):
    output = generate(decoding, transducer, vocab, "--max-tokens", "200000", "--beam", "1", "--scoring", "wer")
    assert len(references(output)) == NUM_TEST and "WER: " in output


@pytest.fixture(scope="module")
def fused(corpus, vocab, tmp_path_factory):
    """Data folder with manifests and vocabulary, and in it a language model, made by the commands of the README."""
    folder = tmp_path_factory.mktemp("fused")
    for path in (*corpus.iterdir(), *vocab.iterdir()):
        (folder / path.name).symlink_to(path)
    text, binary, model = (str(folder / name) for name in ("text", "binary", "model"))
    arguments = ["encode", "--vocab", str(folder), "--manifest", str(folder / "train.tsv"), "--out", text]
    assert colld(arguments) == 0
    source = ["--only-source", "--srcdict", folder / "dict.txt", "--trainpref", text, "--validpref", text]
    call("preprocess", *source, "--destdir", binary)
    task = ["--task", "language_modeling", "--arch", "transformer_lm", "--sample-break-mode", "eos"]
    size = ["--decoder-layers", "1", "--decoder-embed-dim", "16", "--decoder-attention-heads", "2"]
    optimizer = ["--optimizer", "adam", "--lr", "0.01", "--max-update", "4", "--no-epoch-checkpoints"]
    limits = ["--tokens-per-sample", "64", "--max-tokens", "2000", "--num-workers", "0"]
    call("train", binary, *task, *size, *optimizer, *limits, "--save-dir", model)
    return folder


@pytest.mark.parametrize("name", ["transducer", "recogniser"])
def test_fusion_with_a_language_model(name, request, fused):
    """fairseq-generate --lm-path, for a transducer and for a CTC model: scores move with the weight."""
    trained = request.getfixturevalue(name)
    options = [fused, "--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--num-workers", "0"]
    options += ["--gen-subset", "test", "--path", trained.checkpoint, "--max-tokens", "200000", "--beam", "2"]
    model = ["--lm-path", fused / "model" / "checkpoint_last.pt"]
    plain, idle, fused_with = (
        hypotheses(call("generate", *options, *more))
        for more in ([], [*model, "--lm-weight", "0"], [*model, "--lm-weight", "0.3"])
    )
    assert set(plain) == set(fused_with) == set(range(NUM_TEST))
    for index, expected in plain.items():
        assert idle[index].score == pytest.approx(expected.score, abs=1e-5)
        assert fused_with[index].score < expected.score
    with pytest.raises(ConfigError, match="--lm-path and --ngram-lm"):
        call("generate", *options, *model, "--ngram-lm", "x.arpa")
