"""speech_distillation with two teachers: one of 50 Hz and width 24, one of 100 Hz and width 16."""

import json

import pytest
import torch
from commands import TINY_ENCODER
from fairseq.distributed import ModuleProxyWrapper
from task_setup import set_up

from colld_fairseq.cli import main as colld
from colld_fairseq.errors import ConfigError, TeacherError


@pytest.fixture
def two(corpus, teacher, fast_teacher):
    def build(*more, criterion="multi_teacher", layer_map="slow=1:2,2:4,fast=2:3", names=(teacher, fast_teacher)):
        return set_up(
            *[corpus, "--task", "speech_distillation", "--teacher", f"slow={names[0]},fast={names[1]}"],
            *["--arch", "colld_student", *TINY_ENCODER, "--fbank-stack", "4", "--mask-prob", "0"],
            *["--layer-map", layer_map, "--criterion", criterion, *more],
        )

    return build


def batch_of(run, count=3):
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    return dataset.collater([dataset[i] for i in range(count)])


def loss_of(run):
    loss, sample_size, log = run.criterion.eval()(run.model.eval(), batch_of(run))
    return float(loss.detach() / sample_size), log


def test_training_from_caches_is_training_online(two, corpus, teacher, fast_teacher, tmp_path):
    """To the precision of float16; one teacher from its cache and one online is possible too."""
    for name, spec, layers in (("slow", teacher, "2,4"), ("fast", fast_teacher, "3")):
        arguments = ["--manifest", str(corpus / "test.tsv"), "--teacher", spec, "--layers", layers]
        assert colld(["features", *arguments, "--out", str(tmp_path / name)]) == 0
    both = f"slow={tmp_path}/slow,fast={tmp_path}/fast"
    small = ["--manifest", str(corpus / "test.tsv"), "--teacher", teacher, "--layers", "2,4", "--storage", "uint8"]
    assert colld(["features", *small, "--out", str(tmp_path / "small")]) == 0
    losses = []
    for caches in ("", both, f"fast={tmp_path}/fast", f"slow={tmp_path}/small"):
        torch.manual_seed(0)
        run = two(*(["--teacher-cache", caches] if caches else []))
        losses.append(loss_of(run)[0])
        assert ("teacher_input" in batch_of(run)) == (caches != both)
        assert run.task.crops_long_utterances == (not caches)
    assert losses[1] == pytest.approx(losses[0], rel=2e-3) and losses[1] != losses[0]
    assert losses[2:] == pytest.approx(losses[:1] * 2, rel=2e-3) and losses[3] != losses[0]
    with pytest.raises(
        TeacherError, match="was made from another manifest .*train.tsv:2: train-0 is not in it, and 23 m"
    ):
        two("--teacher-cache", both).task.load_dataset("train")


def test_a_utterance_without_cached_features_is_left_out(two, corpus, fast_teacher, tmp_path, caplog):
    arguments = ["--manifest", str(corpus / "test.tsv"), "--teacher", fast_teacher, "--layers", "3"]
    assert colld(["features", *arguments, "--out", str(tmp_path)]) == 0
    for path in (tmp_path / "index.json", tmp_path / "part-00000.json"):
        content = json.loads(path.read_text())
        part = content["parts"][0] if "parts" in content else content
        part["ids"][part["ids"].index("test-1")] = "of-another-name"
        part["bad"]["test-1"] = "12 samples are too few for one frame"
        path.write_text(json.dumps(content))
    batch = batch_of(two("--teacher-cache", f"fast={tmp_path}"))
    assert batch["utt_id"] == ["test-0", "test-2"]
    assert "skipping unreadable utterance test-1 (1 so far, limit 1): 12 samples are too few" in caplog.text


def test_drawn_teachers_under_distributed_data_parallel(two, tmp_path):
    """It raises at the second batch where a parameter got no gradient; of one utterance, one teacher has no target."""
    run = two("--teacher-combination", "random", "--frame-rule", "concat_tanh")
    batch = batch_of(run, 1)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        model = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(run.model.train()))
        names = set()
        for _ in range(6):
            loss, _, log = run.criterion.train()(model, batch)
            names |= {name for name in ("slow", "fast") if log.get(f"frames_{name}", 0) > 0}
            loss.backward()
        assert names == {"slow", "fast"}  # else the test has shown nothing
    finally:
        torch.distributed.destroy_process_group()


def test_weights_change_the_loss(two):
    values = []
    for weights in ("slow=1,fast=1", "slow=9,fast=1"):
        torch.manual_seed(0)
        loss, log = loss_of(two("--teacher-weights", weights))
        frames = float(log["frames_slow"])
        share = 0.5 if weights == "slow=1,fast=1" else 0.9
        parts = [float(log[f"loss_{name}"]) / frames for name in ("slow", "fast")]
        assert loss == pytest.approx(share * parts[0] + (1 - share) * parts[1], rel=1e-5)
        values.append(loss)
    assert values[0] != values[1]


def test_average_has_one_head_for_all(two, teacher, coded_teacher):
    options = dict(layer_map="2:4", names=(teacher, coded_teacher))
    run = two("--teacher-combination", "average", **options)
    assert len(run.model.heads.heads) == 1 and len(run.model.pairs) == 2
    loss, log = loss_of(run)
    assert loss == pytest.approx(float(log["l1"]) / float(log["sample_size"]), rel=1e-5)
    with pytest.raises(ConfigError, match="one width, not slow 24, fast 16"):
        two("--teacher-combination", "average", layer_map="2:4")


def test_shared_heads_and_adapters(two):
    run = two("--frame-rule", "concat_tanh", "--head", "shared", layer_map="slow=2:2,2:4,fast=2:3")
    assert [head.out_features for head in run.model.heads.heads] == [24, 24, 16]
    assert [adapter.encode.in_features for adapter in run.model.heads.adapters.values()] == [48, 48, 64]
    assert loss_of(run)[0] > 0
    run.model.find_unused_parameters = True
    with pytest.raises(ConfigError, match="leave out --find-unused-parameters"):
        loss_of(run)


@pytest.mark.parametrize("criterion", ["feature_regression", "colld", "hubert_distillation"])
def test_criterions_of_one_teacher_refuse_two(two, criterion):
    with pytest.raises(ConfigError, match="for one teacher, not 2: --criterion multi_teacher"):
        two(criterion=criterion)


def test_code_classes_are_of_one_teacher(two):
    with pytest.raises(ConfigError, match="one teacher, not for slow, fast"):
        two("--code-head", "linear")


def test_one_teacher_is_feature_regression(distillation):
    """With L1 alone the two criterions are the same number."""
    options = ["--mask-prob", "0", "--l1-weight", "1", "--log-sigmoid-cosine-weight", "0"]
    values = []
    for criterion in ("feature_regression", "multi_teacher"):
        torch.manual_seed(0)
        values.append(loss_of(distillation("--criterion", criterion, *options))[0])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_unlabeled_manifests_join_with_a_weight(distillation, corpus):
    """9 rows of test.tsv get two thirds of the 33 rows of an epoch."""
    both = ["--train-subset", "train,test"]
    run = distillation("--sampling-weights", "train=1,test=2", *both)
    run.task.load_dataset("train,test")
    dataset = run.task.dataset("train,test")
    drawn = [dataset.rows.row(int(index)).id for index in dataset.options.epoch_rows(1)]
    assert len(drawn) == 33 and sum(name.startswith("test-") for name in drawn) == 22
    with pytest.raises(ConfigError, match="no 'dev'"):
        distillation("--sampling-weights", "train=1,dev=2", *both).task.load_dataset("train,test")
    with pytest.raises(ConfigError, match="every weight must be above 0"):
        distillation("--sampling-weights", "train=1,test=0", *both).task.load_dataset("train,test")
    with pytest.raises(ConfigError, match="give one"):
        distillation("--sampling-weights", "train=1,test=2", "--sampling-alpha", "0.5", *both).task.load_dataset(
            "train,test"
        )
