"""student_ctc and student_s2t: starting from a student, freezing, masks, and independence of the batch."""

import pytest
import torch
import transformers

from colld_fairseq import load_student
from colld_fairseq.errors import ConfigError

DECODER = [
    "--decoder-embed-dim",
    "32",
    "--decoder-layers",
    "1",
    "--decoder-ffn-embed-dim",
    "40",
    "--decoder-dropout",
    "0",
]
LENGTHS = [101, 64, 90]


def source(seed=3):
    torch.manual_seed(seed)
    x = torch.randn(3, 101, 80)
    for row, length in enumerate(LENGTHS):
        x[row, length:] = 0
    return x, torch.tensor(LENGTHS)


@pytest.fixture(params=["student_ctc", "student_s2t"])
def build(request, finetuning):
    def make(*more):
        return finetuning(*more, *(DECODER if request.param == "student_s2t" else []), arch=request.param)

    return make


def test_frames_do_not_depend_on_the_batch(build):
    model = build().model.eval()
    x, lengths = source()
    together, frames = model.get_ctc_log_probs(x, lengths)
    for row, length in enumerate(LENGTHS):
        alone, own = model.get_ctc_log_probs(x[row : row + 1, :length], lengths[row : row + 1])
        assert own[0] == frames[row]
        assert torch.allclose(alone[0], together[row, : own[0]], atol=1e-5)
        assert torch.allclose(alone.exp().sum(-1), torch.ones(()), atol=1e-4)


def test_frozen_for_the_first_updates(build):
    run = build("--freeze-encoder-updates", "3")
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    batch = dataset.collater([dataset[0], dataset[1]])
    for update, moves in ((0, False), (2, False), (3, True)):
        run.model.train().zero_grad()
        run.model.set_num_updates(update)
        run.criterion(run.model, batch)[0].backward()
        gradients = [p.grad for p in run.model.encoder.student.parameters()]
        assert any(g is not None and g.abs().sum() > 0 for g in gradients) == moves, update
        assert run.model.ctc.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "options",
    [
        ["--mask-prob", "0.5"],
        ["--mask-prob", "0.5", "--mask-length", "3"],
        ["--mask-channel-prob", "0.5", "--mask-channel-length", "4"],
        ["--mask-channel-prob", "0.5", "--mask-channel-length", "8"],
        ["--output-dropout", "0.3"],
        ["--dropout", "0.2"],
        ["--encoder-layerdrop", "0.6"],
    ],
)
def test_regularization_acts_in_training_only(options, build):
    model = build(*options).model
    x, lengths = source()
    plain = build().model
    plain.load_state_dict(model.state_dict())

    def logits(net, training):
        torch.manual_seed(4)
        return net.train(training).get_ctc_log_probs(x, lengths)[0]

    with torch.no_grad():
        assert torch.equal(logits(model, False), logits(plain, False))
        assert not torch.equal(logits(model, True), logits(plain, True))
        assert torch.equal(logits(model, True), logits(model, True))  # torch's generator decides


def test_masks_of_other_lengths_differ(finetuning):
    x, lengths = source()
    masks = []
    for length in ("3", "12"):
        model = finetuning("--mask-prob", "0.5", "--mask-length", length).model.train()
        torch.manual_seed(4)
        masks.append(model.encoder.frame_mask()(torch.tensor([50])))
    assert not torch.equal(*masks)


def test_starts_from_the_student_with_its_shape(distillation, build, tmp_path):
    """The student's shape wins over the architecture's; heads are left behind; its file is not needed afterwards."""
    run = distillation("--encoder-embed-dim", "40")
    state = {
        "cfg": {"model": {"encoder_config": run.cfg.model.encoder_config}},
        "model": run.model.state_dict(),
    }
    path = tmp_path / "student.pt"
    torch.save(state, path)
    assert torch.equal(load_student(str(path)).mask_emb, run.model.encoder.mask_emb)

    tuned = build("--student", path)
    assert tuned.model.encoder.config.embed_dim == 40 and tuned.model.ctc.in_features == 40
    for name, value in tuned.model.encoder.student.state_dict().items():
        assert torch.equal(value, state["model"][f"encoder.{name}"])
    assert not any("heads" in name for name in tuned.model.state_dict())

    path.unlink()
    from fairseq import models

    again = models.build_model(tuned.cfg.model, tuned.task)  # as when a checkpoint of the fine-tuned model is loaded
    again.load_state_dict(tuned.model.state_dict())
    with pytest.raises(ConfigError, match="no such file"):
        build("--student", path)


def test_starts_from_a_published_encoder(teacher, finetuning):
    """The teacher itself, its shape and weights, ready to be fine-tuned: the same features as transformers' model."""
    tuned = finetuning("--student", teacher, "--feature-grad-mult", "0")
    encoder = tuned.model.encoder.student
    assert (encoder.num_layers, encoder.width, encoder.config.front_end) == (4, 24, "waveform")
    assert not any(p.requires_grad for p in encoder.front_end.layers.parameters())
    assert all(p.requires_grad for p in encoder.blocks.parameters())
    waveforms, lengths = torch.randn(1, 4000, generator=torch.Generator().manual_seed(2)), torch.tensor([4000])
    hubert = transformers.HubertModel.from_pretrained(teacher.removeprefix("hf:")).eval()
    with torch.no_grad():
        expected = hubert(waveforms).last_hidden_state
        assert torch.allclose(encoder.eval()(waveforms, lengths).x, expected, atol=1e-4)


def test_student_of_a_finetuned_checkpoint(build, tmp_path):
    run = build()
    path = tmp_path / "tuned.pt"
    torch.save(
        {"cfg": {"model": {"encoder_config": run.cfg.model.encoder_config}}, "model": run.model.state_dict()},
        path,
    )
    x, lengths = source()
    expected = run.model.eval().encoder.student(x, lengths).x
    assert torch.equal(load_student(str(path))(x, lengths).x, expected)


def test_reordering_for_beam_search(finetuning):
    model = finetuning(*DECODER, arch="student_s2t").model.eval()
    x, lengths = source()
    with torch.no_grad():
        out = model.encoder(x, lengths)
        order = torch.tensor([2, 2, 0])
        reordered = model.encoder.reorder_encoder_out(out, order)
        direct = model.encoder(x[order], lengths[order])
        previous = torch.tensor([[2, 5, 6]] * 3)
        first, _ = model.decoder(previous, encoder_out=reordered)
        second, _ = model.decoder(previous, encoder_out=direct)
    assert torch.allclose(first, second, atol=1e-5)
    assert torch.equal(reordered["ctc_lengths"][0], direct["ctc_lengths"][0])


@pytest.mark.parametrize("layers, frames", [("0", 50), ("1", 25), ("2", 13)])
def test_length_adaptor(layers, frames, finetuning):
    model = finetuning(*DECODER, "--adaptor-layers", layers, arch="student_s2t").model.eval()
    x, lengths = source()
    out = model.encoder(x, lengths)
    assert out["encoder_out"][0].shape == (frames, 3, 32)
    assert out["ctc_input"][0].size(1) == 50


@pytest.mark.parametrize("options", [[], ["--mask-prob", "0.5"]])
def test_every_parameter_that_is_trained_gets_a_gradient(options, build):
    """Else torch's DistributedDataParallel stops at the second update; nothing masks, so nothing trains a mask."""
    run = build(*options)
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    run.criterion(run.model.train(), dataset.collater([dataset[0], dataset[1]]))[0].backward()
    assert [name for name, p in run.model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert run.model.encoder.student.mask_emb.requires_grad == bool(options)
