"""hubert_distillation on a real student and teacher, against the paper's formulas written out frame by frame."""

import math

import pytest
import torch
from commands import TINY_ENCODER
from fairseq.distributed import ModuleProxyWrapper
from fairseq.logging import metrics
from task_setup import set_up
from torch.nn.parallel import DistributedDataParallel

from colld_fairseq.cli import main as colld
from colld_fairseq.criterions.hubert_distillation import HubertDistillationCriterion
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.modules.cpu import plain_operators
from colld_fairseq.teachers import load_teacher

REGRESSION = ["--discriminative-weight", "0"]
NO_REGRESSION = ["--l1-weight", "0", "--log-sigmoid-cosine-weight", "0"]
STILL = ["--dropout", "0", "--attention-dropout", "0", "--activation-dropout", "0", "--dropout-input", "0"]


@pytest.fixture
def build(corpus, coded_teacher):
    """build(options) -> task, model in training mode, criterion, a batch of three utterances of different lengths."""

    def make(*more, arch="hubert_student_deep_thin_fbank", shape=TINY_ENCODER[:-2], teacher=coded_teacher):
        torch.manual_seed(3)
        run = set_up(
            *[corpus, "--task", "speech_distillation", "--teacher", teacher, "--criterion", "hubert_distillation"],
            *["--arch", arch, *shape, *STILL, *more],
        )
        run.model.train()
        run.criterion.train()
        run.task.load_dataset("test")
        dataset = run.task.datasets["test"]
        by_length = dataset.sizes.argsort()
        run.sample = dataset.collater([dataset[i] for i in by_length[[0, 1, -1]]])
        return run

    return make


def loss_of(run):
    loss, size, log = run.criterion(run.model, run.sample)
    return float(loss) / int(size), {name: float(value) / int(size) for name, value in log.items()}


class World:
    """Student output of a batch, the teacher's features by utterance; `frames`: (utterance, frame) that count."""

    def __init__(self, run, spec, layers=(0, 1, 2, 3, 4)):
        self.output = run.model(**run.sample["net_input"])
        teacher = load_teacher(spec, layers)
        waveforms, lengths = run.sample["teacher_input"].values()
        self.features = {layer: [] for layer in layers}
        for waveform, length in zip(waveforms, lengths):
            one = teacher(waveform[None, :length], length[None])
            for layer in layers:
                self.features[layer].append(one.features[layer][0])
        counts = [min(int(n), len(h)) for n, h in zip(self.output.lengths, self.features[layers[0]])]
        assert len(set(counts)) > 1, "padding must be present to be left out"
        self.frames = [(u, t) for u, count in enumerate(counts) for t in range(count)]

    def mean(self, distance):
        return sum(distance(u, t) for u, t in self.frames) / len(self.frames)

    def regression(self, k, layer):
        def distance(u, t):
            p, z = self.output.predictions[k][u, t], self.features[layer][u][t]
            cosine = float(torch.cosine_similarity(p, z, dim=0))
            return float((p - z).abs().mean()) + math.log(1 + math.exp(-cosine))

        return self.mean(distance)


def softmax(logits):
    weights = [math.exp(a) for a in logits]
    return [weight / sum(weights) for weight in weights]


def cosines(vector, embeddings):
    return [float(vector @ e / (vector.norm() * e.norm())) for e in embeddings]


FORMS = {
    "linear, no temperature": (["--code-head", "linear"], 1.0),
    "linear, temperature": (["--code-head", "linear", "--student-temp", "0.5"], 0.5),
    "cosine, no temperature": (["--code-head", "cosine"], 1.0),
    "cosine, temperature": (["--code-head", "cosine", "--student-temp", "0.1", "--teacher-temp", "0.2"], 0.1),
    "hard": (["--code-head", "cosine", "--student-temp", "0.1", "--discriminative-target", "hard"], 0.1),
}


@pytest.mark.parametrize("form", FORMS)
def test_discriminative_term(form, build, coded_teacher):
    options, student_temp = FORMS[form]
    run = build(*options, "--discriminative-weight", "0.6", "--layer-map", "1:2,2:4", "--target-norm", "instance")
    loss, log = loss_of(run)
    world = World(run, coded_teacher)
    state = torch.load(coded_teacher.partition(":")[2], weights_only=True)["model"]
    teacher_temp = 0.2 if "0.2" in options else 0.1
    agree = 0

    def distance(u, t):
        nonlocal agree
        z = state["final_proj.weight"] @ world.features[4][u][t] + state["final_proj.bias"]
        q_t = softmax([a / teacher_temp for a in cosines(z, state["label_embs_concat"])])
        output = world.output.code_output[u, t]
        logits = output.tolist() if "linear" in form else cosines(output, state["label_embs_concat"])
        q_s = softmax([a / student_temp for a in logits])
        agree += q_t.index(max(q_t)) == q_s.index(max(q_s))
        if form == "hard":
            return -math.log(q_s[q_t.index(max(q_t))])
        return sum(q * (math.log(q) - math.log(p)) for q, p in zip(q_t, q_s))

    expected = world.mean(distance)
    assert log["cross_entropy" if form == "hard" else "kl"] == pytest.approx(expected, rel=1e-4)
    assert log["agree"] * len(world.frames) == pytest.approx(agree)
    assert loss == pytest.approx(log["l1"] + log["log_sigmoid_cosine"] + 0.6 * expected, rel=1e-4)
    assert world.output.code_output.size(-1) == (5 if "cosine" in options else 7)


def test_regression_layer_by_layer(build, coded_teacher):
    run = build(*REGRESSION, "--layer-map", "1:2,2:4")
    loss, log = loss_of(run)
    world = World(run, coded_teacher)
    assert loss == pytest.approx((world.regression(0, 2) + world.regression(1, 4)) / 2, rel=1e-4)
    assert not {"kl", "agree", "front_end"} & set(log)


def test_three_targets_from_the_last_layer(build, coded_teacher):
    run = build(*REGRESSION, "--layer-map", "2:1,2:2,2:4", arch="hubert_student_shallow_wide")
    loss, _ = loss_of(run)
    world = World(run, coded_teacher)
    assert loss == pytest.approx(sum(world.regression(k, layer) for k, layer in enumerate((1, 2, 4))) / 3, rel=1e-4)


def test_code_classes_alone(build):
    run = build("--code-head", "linear", *NO_REGRESSION)
    loss, log = loss_of(run)
    assert loss == pytest.approx(log["kl"]) and "l1" not in log


def test_codes_of_a_codebook(build, corpus, teacher, tmp_path):
    """A teacher without codes: `colld cluster` makes them, and the classes are its clusters."""
    layers = ["--layer-map", "1:2,2:4", "--code-head", "linear"]
    with pytest.raises(TeacherError, match="colld cluster"):
        build(*layers, teacher=teacher)
    book = tmp_path / "codes.safetensors"
    arguments = ["--manifest", corpus / "train.tsv", "--teacher", teacher, "--layer", "3", "--num-clusters", "6"]
    assert colld(["cluster", *map(str, arguments), "--out", str(book)]) == 0
    run = build(*layers, "--teacher-codes", book, teacher=teacher)
    assert run.task.teachers.first.teacher.layers == (2, 3, 4)
    _, log = loss_of(run)
    assert log["kl"] > 0 and run.model(**run.sample["net_input"]).code_output.size(-1) == 6


ADAPTATION = ["--front-end-updates", "3", "--front-end-weight", "0.5", "--code-head", "linear"]


def test_front_end_adaptation(build, coded_teacher):
    run = build(*ADAPTATION, "--layer-map", "1:2,2:4")
    world = World(run, coded_teacher)
    run.model.set_num_updates(2)
    blocks = run.model.encoder.blocks
    handles = [block.register_forward_hook(lambda *_: pytest.fail("a student block was run")) for block in blocks]
    teacher_blocks = run.task.teachers.first.teacher.module.blocks
    handles += [b.register_forward_hook(lambda *_: pytest.fail("a teacher block was run")) for b in teacher_blocks]
    loss, size, log = run.criterion(run.model, run.sample)

    head, front_end = run.model.heads.front_end, run.model.encoder.front_end
    f, _ = front_end(run.sample["net_input"]["src_tokens"], run.sample["net_input"]["src_lengths"])
    predicted = f @ head.weight.T + head.bias
    expected = world.mean(lambda u, t: float((predicted[u, t] - world.features[0][u][t]).abs().mean()))
    assert float(log["front_end"]) / int(size) == pytest.approx(expected, rel=1e-4)
    assert float(loss) / int(size) == pytest.approx(0.5 * expected, rel=1e-4)

    loss.backward()
    assert set(gradients(run.model)) == {
        name for name, _ in run.model.named_parameters() if name.startswith(("encoder.front_end.", "heads.front_end."))
    }
    for handle in handles:
        handle.remove()


def test_after_the_adaptation_the_loss_is_that_of_a_run_without(build):
    plain = build("--code-head", "linear", "--layer-map", "1:2,2:4")
    run = build(*ADAPTATION, "--layer-map", "1:2,2:4")
    run.model.load_state_dict(plain.model.state_dict(), strict=False)
    run.model.set_num_updates(3)
    loss, log = loss_of(run)
    assert (loss, log["kl"]) == pytest.approx((loss_of(plain)[0], loss_of(plain)[1]["kl"]))
    assert "front_end" not in log, "its head is not even run, or distributed training would wait for its gradient"


def test_validation_is_on_the_whole_loss_from_the_first_update(build):
    run = build(*ADAPTATION, "--layer-map", "1:2,2:4")
    run.model.set_num_updates(0)
    in_training = loss_of(run)[1]["front_end"]
    run.model.eval(), run.criterion.eval()
    loss, log = loss_of(run)
    assert loss == pytest.approx(log["l1"] + log["log_sigmoid_cosine"] + log["kl"], rel=1e-5)
    assert log["front_end"] == pytest.approx(in_training, rel=1e-5)


@pytest.mark.parametrize("stage", ["adaptation", "whole loss"])
def test_padding_included_as_in_the_authors_code(stage, build, coded_teacher):
    """Plain means over whole tensors [B, T, ...], whatever the networks make of the padding."""
    options = [*ADAPTATION, "--layer-map", "1:2,2:4"]
    run = build(*options, "--pad-frames", "include")
    run.model.set_num_updates(0 if stage == "adaptation" else 3)
    loss, log = loss_of(run)

    features = load_teacher(coded_teacher, [0, 2, 4])(**run.sample["teacher_input"], keep_padding=True).features
    teacher_frames = features[0].size(1)
    assert all(value[0, -1].abs().sum() > 0 for value in features.values()), (
        "the shortest utterance's padding is computed"
    )
    if stage == "adaptation":
        with plain_operators():
            front_end = run.model(**run.sample["net_input"], front_end_only=True).front_end[:, :teacher_frames]
        expected = 0.5 * (front_end - features[0][:, : front_end.size(1)]).abs().mean()
    else:
        with plain_operators():
            output = run.model(**run.sample["net_input"])
        frames = min(output.code_output.size(1), teacher_frames)
        expected = 0.0
        for prediction, layer in zip(output.predictions, (2, 4)):
            p, z = prediction[:, :frames], features[layer][:, :frames]
            cosine = torch.cosine_similarity(p, z, dim=-1)
            expected = expected + ((p - z).abs().mean() - torch.nn.functional.logsigmoid(cosine).mean()) / 2
        q_t = run.task.code_logits(features, 0.1)[:, :frames].log_softmax(-1)
        q_s = output.code_output[:, :frames].log_softmax(-1)
        expected = expected + (q_t.exp() * (q_t - q_s)).sum(-1).mean()
    assert loss == pytest.approx(float(expected), rel=1e-4)
    excluded = build(*options)
    excluded.model.set_num_updates(run.model.num_updates)
    assert loss_of(excluded)[0] != pytest.approx(loss, rel=1e-3)


def test_padding_needs_the_teacher_itself(build, corpus, coded_teacher, tmp_path):
    arguments = ["features", "--manifest", str(corpus / "test.tsv"), "--teacher", coded_teacher, "--layers", "0,2,4"]
    assert colld([*arguments, "--out", str(tmp_path)]) == 0
    options = [*ADAPTATION, "--layer-map", "1:2,2:4"]
    cached, online = build(*options, "--teacher-cache", tmp_path), build(*options)
    for update in (0, 3):
        for run in (cached, online):
            run.model.set_num_updates(update)
        assert loss_of(cached)[0] == pytest.approx(loss_of(online)[0], rel=1e-3)
    with pytest.raises(ConfigError, match="leave out --teacher-cache"):
        build(*options, "--teacher-cache", tmp_path, "--pad-frames", "include")


WRONG = {
    "give --code-head none": [*REGRESSION, "--code-head", "linear"],
    "every weight of the loss is 0": NO_REGRESSION,
    "are of --teacher-kind layer, not ffn": ["--code-head", "linear", "--teacher-kind", "ffn"],
    "needs the teacher's layer 0": ["--front-end-updates", "5", "--teacher-kind", "ffn"],
    "at its teacher's 50 Hz, not at 25 Hz": ["--front-end-updates", "5", "--encoder-preset", "fithubert"],
    "take --criterion hubert_distillation": ["--code-head", "linear", "--criterion", "feature_regression"],
}


@pytest.mark.parametrize("message", WRONG)
def test_options_that_contradict_each_other(message, build):
    with pytest.raises(ConfigError, match=message):
        build(*WRONG[message])


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.fixture
def distributed(tmp_path):
    """distributed(model, find_unused_parameters) -> the model as fairseq wraps it for torch's own backend.

    One gloo process shows all of it; fairseq itself starts this backend on GPUs only.
    """
    file = f"file://{tmp_path}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=file, world_size=1, rank=0)
    yield lambda model, find: ModuleProxyWrapper(DistributedDataParallel(model, find_unused_parameters=find))
    torch.distributed.destroy_process_group()


def test_distributed_training_through_both_stages(build, distributed):
    run = build(*ADAPTATION, "--layer-map", "1:2,2:4")
    model = distributed(run.model, True)
    for update in (1, 2, 3, 4):
        model.set_num_updates(update)
        run.model.zero_grad()
        run.criterion(run.model, run.sample)[0].backward()
        expected = gradients(run.model)
        run.model.zero_grad()
        run.criterion(model, run.sample)[0].backward()
        own = gradients(run.model)
        assert own.keys() == expected.keys() and any(name.startswith("heads.heads") for name in own) == (update > 2)
        assert all(torch.allclose(own[name], expected[name], atol=1e-6) for name in own)


def test_distributed_training_that_would_wait_for_gradients_is_refused(build, distributed):
    run = build(*ADAPTATION)
    with pytest.raises(ConfigError, match="--find-unused-parameters or --ddp-backend legacy_ddp"):
        run.criterion(distributed(run.model, False), run.sample)
    run = build("--code-head", "linear", *NO_REGRESSION)
    with pytest.raises(ConfigError, match="legacy_ddp"):
        run.criterion(distributed(run.model, True), run.sample)


def test_logged_means(build):
    run = build("--code-head", "linear")
    _, size, log = run.criterion(run.model, run.sample)
    with metrics.aggregate(new_root=True) as totals:
        HubertDistillationCriterion.reduce_metrics([log, log])
    assert totals["kl"].avg == pytest.approx(float(log["kl"]) / int(size), rel=1e-6)
    assert totals["agreement"].avg == pytest.approx(100 * int(log["agree"]) / int(size), abs=0.01)
    assert totals["loss"].avg == pytest.approx(
        totals["l1"].avg + totals["log_sigmoid_cosine"].avg + totals["kl"].avg, rel=1e-5
    )
