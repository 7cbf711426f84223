"""What the streaming mode learns of the full-context mode: against the two modes run one by one."""

import copy

import pytest
import torch
from checkpoints import enlarged, save_untrained
from commands import TINY_ENCODER
from task_setup import assemble, configure, vary

from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.ctc_distillation import delayed_divergence
from colld_fairseq.modules.chunks import Chunk
from colld_fairseq.teachers.transducer_teacher import TransducerTeacher

COMMON = ["--task", "multilingual_speech_to_text", *TINY_ENCODER, "--front-end", "conv2d"]
CHUNKS = dict(encoder_context="chunk", chunk_sizes="2,full", left_context="1")
TRANSDUCER = ["--arch", "transducer_student", "--criterion", "transducer", "--auxiliary-ctc"]
TRANSDUCER += ["--predictor-embed-dim", "16", "--joiner-dim", "24"]


@pytest.fixture(scope="module")
def bases(corpus, vocab):
    ctc = ["--arch", "student_ctc", "--criterion", "ctc_attention"]
    return {
        "ctc": configure(corpus, *COMMON, *ctc, "--vocab", vocab),
        "transducer": configure(corpus, *COMMON, *TRANSDUCER, "--vocab", vocab),
    }


@pytest.fixture
def build(bases):
    """A chunk-wise student and a batch of training utterances."""

    def make(kind="ctc", teacher=None, **options):
        torch.manual_seed(6)
        run = assemble(vary(bases[kind], **{**CHUNKS, **options}))
        run.model.load_state_dict({name: enlarged(value) for name, value in run.model.state_dict().items()})
        if teacher is not None:
            run.task.teacher_transducer = teacher(run)
        run.task.load_dataset("train")
        dataset = run.task.dataset("train")
        run.batch = dataset.collater([dataset[index] for index in range(3)])
        run.model.train()
        return run

    return make


def drawn_short(run):
    """Loss, tokens and log of a batch whose chunk is one of 2 frames."""
    for seed in range(20):
        torch.manual_seed(seed)
        if int(torch.randint(2, ())) == 0:
            torch.manual_seed(seed)
            return seed, run.criterion(run.model, run.batch)


def ctc_of_modes(model, batch, seed):
    """Logits and lengths of both modes, streaming as drawn in training."""
    torch.manual_seed(seed)
    streaming = model(**batch["net_input"])
    other = copy.deepcopy(model).eval()
    other.encoder.student.chunk = Chunk()
    with torch.no_grad():
        full = other(**batch["net_input"])
    return streaming["ctc_logits"], full["ctc_logits"], streaming["ctc_lengths"], full["ctc_lengths"]


@pytest.mark.parametrize("choice", ["frame", "utterance"])
def test_ctc_of_itself(build, choice):
    run = build(ctc_kd="self", ctc_kd_weight=0.7, ctc_kd_delay=3, ctc_kd_choice=choice)
    plain = build()
    seed, (loss, tokens, log) = drawn_short(run)
    _, (loss_without, tokens_without, log_without) = drawn_short(plain)
    modes = ctc_of_modes(run.model, run.batch, seed)
    sums, counts = delayed_divergence(*modes, 3, choice)
    expected = 0.7 * tokens * sums.sum() / counts.sum()
    assert tokens == tokens_without and "ctc_kd_loss" not in log_without
    assert log["ctc_kd_frames"] == int(counts.sum()) > 0 and float(log["ctc_kd_loss"]) == pytest.approx(
        float(sums.sum())
    )
    assert float(expected) > 1e-3 and float(loss) == pytest.approx(float(loss_without + expected), rel=1e-5)
    gradients = [
        torch.autograd.grad(one, model.ctc.weight)[0] for one, model in ((loss, run.model), (expected, run.model))
    ]
    (without,) = torch.autograd.grad(loss_without, plain.model.ctc.weight)
    assert torch.allclose(gradients[0], without + gradients[1], rtol=1e-4, atol=1e-4)


def test_the_student_stays_as_it_is_trained(build):
    """Modes, chunk and random numbers; and in evaluation with full context it has nothing to learn of itself."""
    run = build(ctc_kd="self")
    student = run.model.encoder.student
    student.set_chunk(2, 1)
    run.criterion(run.model, run.batch)
    assert student.chunk == (2, 1) and all(module.training for module in run.model.modules())
    after = [torch.rand(()) for one in (run, build()) if drawn_short(one)]
    assert after[0] == after[1]
    run.model.eval()
    assert float(run.criterion(run.model, run.batch)[2]["ctc_kd_loss"]) > 1e-3
    student.set_chunk()
    assert float(run.criterion(run.model, run.batch)[2]["ctc_kd_loss"]) == pytest.approx(0, abs=1e-4)


def test_ctc_of_a_teacher(build, bases, tmp_path):
    """A model with full context, read from its checkpoint, of another kind."""
    torch.manual_seed(3)
    teacher = assemble(vary(bases["transducer"]))
    path = save_untrained(teacher, tmp_path / "teacher.pt")
    run = build(ctc_kd="teacher", ctc_kd_delay=1, teacher_ctc=str(path))
    seed, (_, _, log) = drawn_short(run)
    teacher.model.load_state_dict(torch.load(path, weights_only=False)["model"])
    source, source_lengths = run.batch["net_input"]["src_tokens"], run.batch["net_input"]["src_lengths"]
    with torch.no_grad():
        theirs, their_lengths = teacher.model.eval().get_ctc_log_probs(source, source_lengths)
    streaming, _, lengths, _ = ctc_of_modes(run.model, run.batch, seed)
    sums = delayed_divergence(streaming, theirs, lengths, their_lengths, 1).losses
    assert float(log["ctc_kd_loss"]) == pytest.approx(float(sums.sum()), rel=1e-4)
    assert run.task.state_dict()["teacher_ctc"] == str(path) and run.task.state_dict()["teacher_ctc_hash"]


def test_two_teachers_have_one_input(build, bases, tmp_path):
    paths = {}
    for cmvn in ("none", "utterance"):
        run = assemble(vary(bases["transducer"], cmvn=cmvn))
        paths[cmvn] = str(save_untrained(run, tmp_path / f"{cmvn}.pt"))
    both = dict(kd="one_best", ctc_kd="teacher", teacher_transducer=paths["none"])
    with pytest.raises(ConfigError, match="take different inputs"):
        build("transducer", teacher_ctc=paths["utterance"], **both)
    run = build("transducer", teacher_ctc=paths["none"], **both)
    assert {"kd_loss", "ctc_kd_loss"} <= run.criterion(run.model, run.batch)[2].keys()


@pytest.mark.parametrize("kd, more", [("one_best", dict(kd_window=3)), ("three_class", {}), ("lattice", {})])
def test_transducer_of_itself(build, kd, more):
    """As from a frozen copy of itself that takes in whole utterances; --auxiliary-ctc learns beside it."""

    def copied(run):
        network = copy.deepcopy(run.model)
        network.encoder.student.chunk = Chunk()
        return TransducerTeacher(network, run.task.student_input, "a copy")

    options = dict(kd=kd, kd_shift=2, predictor_dropout=0.1, **more)
    own = build("transducer", kd_from="self", ctc_kd="self", **options)
    other = build("transducer", teacher=copied, **{**options, "kd": "none"})
    other.criterion.cfg.kd = kd
    losses = {}
    for name, run in (("own", own), ("copied", other)):
        losses[name] = drawn_short(run)[1]
    kd_loss = {name: float(log["kd_loss"]) for name, (_, _, log) in losses.items()}
    assert kd_loss["own"] == pytest.approx(kd_loss["copied"], rel=1e-4) and kd_loss["own"] > 1e-3
    (loss, tokens, log), plain = losses["own"], losses["copied"][0]
    assert float(loss) == pytest.approx(float(plain + tokens * log["ctc_kd_loss"] / log["ctc_kd_frames"]), rel=1e-4)


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("ctc", dict(ctc_kd="self", chunk_sizes="2,4"), "full among the --chunk-sizes"),
        ("ctc", dict(ctc_kd="self", encoder_context="causal", chunk_sizes=None), "--encoder-context chunk"),
        ("transducer", dict(kd="one_best", kd_from="self", chunk_sizes="2"), "full among the --chunk-sizes"),
        ("ctc", dict(ctc_kd="teacher"), "needs --teacher-ctc"),
        ("ctc", dict(teacher_ctc="x.pt"), "--teacher-ctc: nothing is learned from it: .* --ctc-kd teacher"),
        ("transducer", dict(teacher_transducer="x.pt"), "--teacher-transducer: nothing is learned from it"),
        ("ctc", dict(nbest_targets=2), "--nbest-targets: nothing is learned from it: .* --criterion transducer"),
        ("transducer", dict(kd_from="self"), "--kd-from self says nothing without --kd"),
    ],
)
def test_refused_with_the_remedy(build, kind, options, message):
    with pytest.raises(ConfigError, match=message):
        run = build(kind, **options)
        run.criterion(run.model, run.batch)


def test_a_model_without_ctc_is_refused_before_the_first_batch(build):
    with pytest.raises(ConfigError, match="no CTC layer .*--auxiliary-ctc"):
        build("transducer", ctc_kd="self", auxiliary_ctc=False)
