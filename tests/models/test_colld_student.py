"""Which student layer each head reads, from hooks on the encoder's blocks."""

import pytest
import torch
from commands import TINY_ENCODER
from task_setup import set_up

SHAPE = ["--encoder-layers", "4", "--task", "speech_distillation", "--arch", "colld_student"]
MAPS = ["dense", "sparse:2", "4:1,0:2,2:3-4"]


def make(corpus, teacher, layer_map, *more):
    torch.manual_seed(2)
    run = set_up(corpus, *TINY_ENCODER, *SHAPE, "--teacher", teacher, "--layer-map", layer_map, *more)
    run.model.eval()
    return run


def read(run):
    """The model's output, and what its encoder's layers gave: layer -> [T, D] of one utterance."""
    run.task.load_dataset("valid")
    dataset = run.task.dataset("valid")
    sample = dataset.collater([dataset[3]])
    layers = {}
    for index, block in enumerate(run.model.encoder.blocks):
        block.register_forward_hook(lambda module, inputs, output, k=index + 1: layers.update({k: output[0]}))
    before = lambda module, inputs: layers.update({0: inputs[0]})  # noqa: E731
    run.model.encoder.blocks[0].register_forward_pre_hook(before)
    output = run.model(**sample["net_input"])
    return output, {layer: value.reshape(-1, value.shape[-1]) for layer, value in layers.items()}


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("layer_map", MAPS)
def test_head_k_reads_the_student_layer_of_pair_k(layer_map, head, corpus, teacher):
    run = make(corpus, teacher, layer_map, "--head", head, "--criterion", "feature_regression")
    output, layers = read(run)
    heads = run.model.heads.heads
    assert len(output.predictions) == len(heads) == len(run.model.pairs)
    for k, pair in enumerate(run.model.pairs):
        assert torch.allclose(output.predictions[k][0], heads[k](layers[pair.student_layer]), atol=1e-6)
    students = {"dense": [1, 2, 3, 4], "sparse:2": [2, 4], "4:1,0:2,2:3-4": [4, 0, 2]}
    assert [pair.student_layer for pair in run.model.pairs] == students[layer_map]


@pytest.mark.parametrize("layer", [2, 4])
def test_shared_heads_read_their_one_layer(layer, corpus, teacher):
    maps = f"{layer}:4,{layer}:1,{layer}:2"
    run = make(corpus, teacher, maps, "--head", "shared", "--criterion", "feature_regression")
    output, layers = read(run)
    trunk = run.model.heads.trunk(layers[layer]).chunk(3, dim=-1)
    for k in range(3):
        assert torch.allclose(output.predictions[k][0], run.model.heads.heads[k](trunk[k]), atol=1e-6)


@pytest.mark.parametrize("layer_map, last", [("sparse:2", 4), ("3:1,1:4", 3), ("0:2,2:3-4,1:1", 2)])
@pytest.mark.parametrize("code_head", ["linear", "cosine"])
def test_the_code_head_reads_the_last_layer(code_head, layer_map, last, corpus, coded_teacher):
    run = make(corpus, coded_teacher, layer_map, "--code-head", code_head, "--criterion", "hubert_distillation")
    output, layers = read(run)
    assert torch.allclose(output.code_output[0], run.model.heads.code(layers[last]), atol=1e-6)


def test_the_front_end_head_reads_what_the_blocks_get_before_positions(corpus, coded_teacher):
    options = ["--front-end-updates", "1", "--criterion", "hubert_distillation"]
    run = make(corpus, coded_teacher, "2:2", "--code-head", "linear", *options)
    output, _ = read(run)
    dataset = run.task.dataset("valid")
    embedded, _ = run.model.encoder.embed(*dataset.collater([dataset[3]])["net_input"].values())
    assert torch.allclose(output.front_end, run.model.heads.front_end(embedded), atol=1e-6)
