"""transducer_student: its lattice, freezing, independence of the batch, tags, and what a search asks for."""

import pytest
import torch

SMALL = ["--predictor-embed-dim", "16", "--joiner-dim", "24", "--predictor-dropout", "0", "--front-end", "conv2d"]
LENGTHS = [101, 64, 90]


@pytest.fixture(params=["lstm", "stateless"])
def build(request, finetuning):
    def make(*more):
        kind = ["--predictor", request.param]
        return finetuning(*SMALL, *kind, "--criterion", "transducer", *more, arch="transducer_student")

    return make


def source(seed=3):
    torch.manual_seed(seed)
    x = torch.randn(3, 101, 80)
    for row, length in enumerate(LENGTHS):
        x[row, length:] = 0
    return x, torch.tensor(LENGTHS)


PREVIOUS = torch.tensor([[2, 5, 6, 7], [2, 5, 5, 1], [2, 8, 1, 1]])
LABELS = torch.tensor([3, 2, 1])


def test_lattice_is_every_pair_joined_alone(build):
    """Packed logits against single frames and symbols, walked through as a search would."""
    model = build().model.eval()
    x, lengths = source()
    with torch.no_grad():
        output = model(x, lengths, PREVIOUS, LABELS)
        frames, frame_lengths = model.encode_for_search(x, lengths)
        row = 0
        for b in range(3):
            nodes = [model.start(1)]
            for token in PREVIOUS[b, 1 : 1 + LABELS[b]]:
                nodes.append(model.extend(token[None], nodes[-1][1]))
            for t in range(frame_lengths[b]):
                for symbols, _ in nodes:
                    expected = model.join(frames[b, t], symbols[0])
                    assert torch.allclose(output["logits"][row], expected, atol=1e-5)
                    row += 1
    assert row == len(output["logits"]) and output["lengths"].tolist() == [24, 15, 21]


def test_logits_do_not_depend_on_the_batch(build):
    model = build("--auxiliary-ctc").model.eval()
    x, lengths = source()
    with torch.no_grad():
        together = model(x, lengths, PREVIOUS, LABELS)
        row = 0
        for b, length in enumerate(LENGTHS):
            alone = model(x[b : b + 1, :length], lengths[b : b + 1], PREVIOUS[b : b + 1], LABELS[b : b + 1])
            size = len(alone["logits"])
            assert torch.allclose(alone["logits"], together["logits"][row : row + size], atol=1e-5)
            frames = int(alone["ctc_lengths"])
            assert torch.allclose(alone["ctc_logits"][0], together["ctc_logits"][b, :frames], atol=1e-5)
            row += size


def test_tag_reaches_every_symbol(build, tagged_vocab):
    """Also those that lie farther back than a stateless predictor's context."""
    run = build("--vocab", tagged_vocab)
    model, tags = run.model.eval(), [run.task.vocabulary.tag_id(language) for language in ("xx", "yy")]
    labels = torch.tensor([[9, 10, 9, 10, 9]] * 2)
    previous = torch.cat((torch.tensor([[2, tags[0]], [2, tags[1]]]), labels), dim=1)
    with torch.no_grad():
        outputs = model.predict_all(previous)
        assert outputs.shape[:2] == (2, 6)
        assert all(not torch.allclose(outputs[0, u], outputs[1, u], atol=1e-4) for u in range(6))
        symbols, state = model.start(2, torch.tensor(tags))
        for u in range(6):
            expected = model.joiner.predictor_projection(outputs[:, u])
            assert torch.allclose(symbols, expected, atol=1e-5)
            if u < 5:
                symbols, state = model.extend(labels[:, u], state)


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
        assert run.model.joiner.output.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "options",
    [
        ["--predictor", "stateless"],
        ["--predictor-layers", "2"],
        ["--predictor-embed-dim", "20"],
        ["--joiner-dim", "20"],
        ["--auxiliary-ctc"],
        ["--predictor", "stateless", "--predictor-context", "3"],
    ],
)
def test_options_of_the_shape(options, finetuning):
    def shapes(*more):
        model = finetuning(*SMALL, *more, arch="transducer_student").model
        return {name: value.shape for name, value in model.state_dict().items()}

    base = ["--predictor", "stateless"] if "--predictor-context" in options else []
    assert shapes(*options) != shapes(*base)


@pytest.mark.parametrize("options", [["--predictor-dropout", "0.4"], ["--joiner-activation", "relu"]])
def test_options_of_the_computation(options, finetuning):
    plain = finetuning(*SMALL, arch="transducer_student").model
    other = finetuning(*SMALL, *options, arch="transducer_student").model
    other.load_state_dict(plain.state_dict())
    x, lengths = source()
    with torch.no_grad():
        first, second = (model.train()(x, lengths, PREVIOUS, LABELS)["logits"] for model in (plain, other))
    assert not torch.allclose(first, second, atol=1e-4)
