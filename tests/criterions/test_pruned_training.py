"""Pruned training: the pruned range against the full lattice, the simple loss beside it, the warm-up."""

from types import SimpleNamespace

import pytest
import torch
from commands import TINY_ENCODER
from task_setup import assemble, configure, vary

from colld_fairseq.criterions.transducer.pruned import warmup_weights
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.transducer_pruned import simple_transducer_loss

WIDE = 100  # more than any text of the corpus has labels
BASE = [
    *["--task", "multilingual_speech_to_text", "--arch", "transducer_student", "--criterion", "transducer"],
    *["--predictor-embed-dim", "16", "--joiner-dim", "24", "--predictor-dropout", "0", "--predictor", "stateless"],
    *[*TINY_ENCODER, "--front-end", "conv2d"],
]


@pytest.fixture(scope="module")
def base(corpus, vocab):
    return configure(corpus, *BASE, "--vocab", vocab)


@pytest.fixture
def build(base):
    def make(**options):
        run = assemble(vary(base, **options))
        run.task.load_dataset("train")
        dataset = run.task.dataset("train")
        run.batch = dataset.collater([dataset[index] for index in range(4)])
        return run

    def pruned(prune_range, **options):
        return make(prune_range=prune_range, **options)

    return SimpleNamespace(full=make, pruned=pruned)


def labels_of(batch):
    return batch["target"][:, :-1], batch["target_lengths"] - 1


def gradients(run, loss):
    run.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}


def test_widest_range_is_the_full_lattice(build):
    """The same loss, and the same gradients of all that both have, less those that the simple loss adds."""
    full, pruned = build.full(), build.pruned(WIDE, simple_weight=0.0, prune_warmup_updates=0)
    full.model.load_state_dict(pruned.model.state_dict(), strict=False)
    (expected, tokens, _), (loss, same_tokens, log) = (run.criterion(run.model, run.batch) for run in (full, pruned))
    assert same_tokens == tokens and log["no_path"] == 0
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    wanted, own = gradients(full, expected), gradients(pruned, loss)
    assert set(wanted) <= set(own)
    for name, value in wanted.items():
        assert torch.allclose(own[name], value, atol=1e-4 * float(value.abs().max()) + 1e-6), name


def test_pruned_range_leaves_out_paths_and_sees_fewer_nodes(build):
    full, pruned = build.full(), build.pruned(3, prune_warmup_updates=0)
    full.model.load_state_dict(pruned.model.state_dict(), strict=False)
    expected = full.criterion(full.model, full.batch)[2]["transducer_loss"]
    joined = []
    pruned.model.joiner.output.register_forward_hook(lambda module, inputs, output: joined.append(output.shape))
    _, _, log = pruned.criterion(pruned.model, pruned.batch)
    frames = int(pruned.model.encoder.encode(**inputs_of(pruned.batch)).lengths.max())
    assert [tuple(shape[:3]) for shape in joined] == [(4, frames, 3)]
    assert float(log["transducer_loss"]) > float(expected) + 1e-3


def inputs_of(batch):
    return {name: batch["net_input"][name] for name in ("src_tokens", "src_lengths")}


def test_simple_loss_beside_it(build):
    """By hand from the projections; both losses reach the encoder and the predictor."""
    run = build.pruned(4, simple_weight=0.7, simple_lm_scale=0.4)
    model = run.model.train()
    labels, lengths = labels_of(run.batch)
    for update, expected in ((0, (1.0, 0.1)), (500, (0.925, 0.325)), (4000, (0.7, 1.0))):
        model.set_num_updates(update)
        loss, _, log = run.criterion(model, run.batch)
        encoded = model.encoder.encode(**inputs_of(run.batch))
        am = model.simple_joiner.am(encoded.x)
        lm = model.simple_joiner.lm(model.predict_all(run.batch["net_input"]["prev_output_tokens"]))
        simple = simple_transducer_loss(am, lm, labels, encoded.lengths, lengths, lm_only_scale=0.4).loss_sum
        assert float(log["simple_loss"]) == pytest.approx(float(simple), rel=1e-5)
        total = expected[0] * float(simple) + expected[1] * float(log["transducer_loss"])
        assert float(loss) == pytest.approx(total, rel=1e-5)
    run.criterion.eval()
    model.eval().set_num_updates(0)  # validation weighs as after the warm-up, whenever it is
    loss, _, log = run.criterion(model, run.batch)
    assert float(loss) == pytest.approx(0.7 * float(log["simple_loss"]) + float(log["transducer_loss"]), rel=1e-5)


def test_warmup_weights():
    assert warmup_weights(0, 2000, 0.5) == (1.0, pytest.approx(0.1))
    assert warmup_weights(1000, 2000, 0.5) == (0.75, pytest.approx(0.55))
    assert warmup_weights(2000, 2000, 0.5) == warmup_weights(9999, 2000, 0.5) == (0.5, 1.0)
    assert warmup_weights(0, 0, 0.5) == (0.5, 1.0)


@pytest.mark.parametrize("topology", ["regular", "modified"])
def test_utterances_without_frames_or_path(topology, build):
    """One utterance too short for a frame, or (modified) for its text; also a batch of such utterances alone."""
    run = build.pruned(3, topology=topology)
    for rows in (slice(0, 4), slice(3, 4)):
        batch = {**run.batch, "utt_id": run.batch["utt_id"][rows], "target": run.batch["target"][rows]}
        batch["target_lengths"] = run.batch["target_lengths"][rows]
        batch["net_input"] = {name: value[rows] for name, value in run.batch["net_input"].items()}
        for too_short in (2, 20) if topology == "modified" else (2,):  # 10 ms frames
            batch["net_input"]["src_lengths"] = batch["net_input"]["src_lengths"].clone()
            batch["net_input"]["src_lengths"][-1] = too_short
            loss, _, log = run.criterion(run.model, batch)
            assert log["no_path"] == 1 and torch.isfinite(loss)
            assert all(torch.isfinite(grad).all() for grad in gradients(run, loss).values())


def test_a_range_of_one_symbol_is_refused(build):
    with pytest.raises(ConfigError, match="at least 2"):
        build.pruned(1)
