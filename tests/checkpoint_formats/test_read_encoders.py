"""Checkpoints of other libraries in the student encoder: the same features, layer by layer."""

import pytest
import torch

from colld_fairseq.checkpoints import names_fairseq, names_hf
from colld_fairseq.checkpoints.encoder import every_kth, take_layers
from colld_fairseq.checkpoints.names_fairseq import config_from_fairseq, parse_conv_layers
from colld_fairseq.checkpoints.names_hf import config_from_hf
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.layer_map import parse_layer_map
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder

KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
SMALL = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=[16] * 7,
    conv_kernel=KERNELS,
    conv_stride=STRIDES,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=4,
)
POST_NORM = dict(feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False)
PRE_NORM = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)


def shake(model):
    """Move norms and biases from their neutral start, so that a swapped pair is seen."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def hf_model(family, **changes):
    import transformers

    config = getattr(transformers, f"{family}Config")(**{**SMALL, **changes})
    torch.manual_seed(0)
    return shake(getattr(transformers, f"{family}Model")(config))


def of_hf(state, config):
    return names_hf.layout_of(config).names.to_ours(state, config, None, "there")


def of_fairseq(state, config):
    state = names_fairseq.with_projection(state, config)
    return names_fairseq.WAV2VEC.to_ours(state, config, None, "there")


def student_of(state, config):
    encoder = StudentEncoder(config)
    encoder.load_state_dict(state)
    return encoder.eval()


def assert_same_layers(output, hidden_states, last):
    """All but the last layer from the hidden states, which some versions replace by the normalized output."""
    for layer, theirs in enumerate(hidden_states[:-1]):
        torch.testing.assert_close(output.features[layer], theirs, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.x, last, atol=1e-4, rtol=0)


def ffn_outputs(blocks, name):
    """Forward hooks that collect the feed-forward outputs of each block."""
    collected = []
    for block in blocks:
        getattr(block, name).register_forward_hook(lambda _module, _args, y: collected.append(y))
    return collected


@pytest.mark.parametrize("changes", [POST_NORM, PRE_NORM], ids=["post_norm", "pre_norm"])
@pytest.mark.parametrize("family", ["Hubert", "Wav2Vec2"])
@torch.no_grad()
def test_hf_wav2vec_family(family, changes):
    model = hf_model(family, **changes)
    config = config_from_hf(model.config.to_dict())
    encoder = student_of(of_hf(model.state_dict(), config), config)
    ffn = ffn_outputs(model.encoder.layers, "feed_forward")
    source = torch.randn(2, 4000)
    theirs = model(source, output_hidden_states=True)
    output = encoder(source, layers=range(4))
    assert_same_layers(output, theirs.hidden_states, theirs.last_hidden_state)
    ours = encoder(source, layers=(1, 2, 3), kind="ffn").features
    for layer in (1, 2, 3):
        torch.testing.assert_close(ours[layer], ffn[layer - 1], atol=1e-4, rtol=0)
    # A padded batch gives what their model gives each utterance alone.
    padded = encoder(source, torch.tensor([4000, 2600])).x[1, :7]
    alone = model(source[1:, :2600]).last_hidden_state[0]
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=0)


@torch.no_grad()
def test_hf_without_projection_norm_and_old_weight_norm_names():
    model = hf_model("Hubert", feat_proj_layer_norm=False)
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        state["hubert." + name.replace("parametrizations.weight.original1", "weight_v")] = tensor
    state["lm_head.weight"] = torch.zeros(5, 32)
    config = config_from_hf(model.config.to_dict())
    assert not config.feature_norm
    encoder = student_of(of_hf(state, config), config)
    source = torch.randn(1, 3000)
    torch.testing.assert_close(encoder(source).x, model(source).last_hidden_state, atol=1e-4, rtol=0)


def w2v_bert(**changes):
    values = dict(
        feature_projection_input_dim=160,
        left_max_position_embeddings=6,
        right_max_position_embeddings=3,
        conv_depthwise_kernel_size=5,
        add_adapter=False,
        **changes,
    )
    return hf_model("Wav2Vec2Bert", **values)


@torch.no_grad()
def test_hf_w2v_bert():
    model = w2v_bert()
    config = config_from_hf(model.config.to_dict())
    encoder = student_of(of_hf(model.state_dict(), config), config)
    ffn = ffn_outputs(model.encoder.layers, "ffn2")
    fbank = torch.randn(2, 40, 80)
    theirs = model(fbank.view(2, 20, 160), output_hidden_states=True)
    output = encoder(fbank, layers=range(4))
    assert_same_layers(output, theirs.hidden_states, theirs.last_hidden_state)
    ours = encoder(fbank, layers=(1, 2, 3), kind="ffn").features
    for layer in (1, 2, 3):
        torch.testing.assert_close(ours[layer], ffn[layer - 1], atol=1e-4, rtol=0)
    lengths = torch.tensor([40, 24])
    mask = (torch.arange(20) < lengths[:, None] // 2).long()
    padded = model(fbank.view(2, 20, 160), attention_mask=mask).last_hidden_state
    torch.testing.assert_close(encoder(fbank, lengths).x[1, :12], padded[1, :12], atol=1e-4, rtol=0)


def fairseq_model(name, **changes):
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

    values = dict(
        encoder_layers=3,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=48,
        encoder_attention_heads=4,
        conv_feature_layers="[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2",
        conv_pos=8,
        conv_pos_groups=4,
    )
    values.update(changes)
    torch.manual_seed(0)
    if name == "wav2vec2":
        cfg = Wav2Vec2Config(**values)
        return shake(Wav2Vec2Model(cfg)), {"model": vars(cfg)}
    cfg = HubertConfig(**values, label_rate=50.0)
    return shake(HubertModel(cfg, HubertPretrainingConfig(), [range(10)])), {"model": vars(cfg)}


FAIRSEQ_VARIANTS = [
    dict(extractor_mode="default", layer_norm_first=False),
    dict(extractor_mode="layer_norm", layer_norm_first=True, conv_bias=True),
    dict(encoder_embed_dim=16),
]


@pytest.mark.parametrize("changes", FAIRSEQ_VARIANTS, ids=["post_norm", "pre_norm", "no_projection"])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
@torch.no_grad()
def test_fairseq_wav2vec_family(name, changes):
    model, cfg = fairseq_model(name, **changes)
    config = config_from_fairseq(cfg)
    encoder = student_of(of_fairseq(model.state_dict(), config), config)
    source = torch.randn(2, 4000)
    output = encoder(source, layers=range(4))
    ffn = encoder(source, layers=(1, 2, 3), kind="ffn").features
    inputs = []
    model.encoder.layers[0].register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    blocks = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda _module, _args, result: blocks.append(result))
    theirs = model(source, mask=False, features_only=True, padding_mask=None)
    torch.testing.assert_close(output.features[0], inputs[0].transpose(0, 1), atol=1e-4, rtol=0)
    for layer, (x, (_, layer_result)) in enumerate(blocks, start=1):
        torch.testing.assert_close(output.features[layer], x.transpose(0, 1), atol=1e-4, rtol=0)
        torch.testing.assert_close(ffn[layer], layer_result.transpose(0, 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.x, theirs["x"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_fine_tuned_fairseq_checkpoint_names_its_encoder():
    model, cfg = fairseq_model("hubert")
    state = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in model.state_dict().items()}
    config = config_from_fairseq({"model": {"_name": "hubert_ctc", "w2v_args": cfg}})
    encoder = student_of(of_fairseq(state, config), config)
    source = torch.randn(1, 2000)
    theirs = model.extract_features(source)[0]
    torch.testing.assert_close(encoder(source).x, theirs, atol=1e-4, rtol=0)


def test_wavlm_weights_map_without_their_gates():
    model = hf_model("WavLM", num_buckets=8, max_bucket_distance=16)
    config = config_from_hf(model.config.to_dict())
    state = of_hf(model.state_dict(), config)
    StudentEncoder(config).load_state_dict(state)
    ours, theirs = state["blocks.1.attention.out.weight"], model.encoder.layers[1].attention.out_proj.weight
    assert torch.equal(ours, theirs)


def teacher(**changes):
    config = EncoderConfig(
        front_end="waveform",
        block="transformer",
        layers=6,
        embed_dim=32,
        ffn_dim=48,
        attention_heads=4,
        position="conv",
        conv_pos=8,
        conv_pos_groups=4,
        conv_layers=[[16, k, s] for k, s in zip(KERNELS, STRIDES)],
    )
    torch.manual_seed(0)
    return shake(StudentEncoder(config)), config, EncoderConfig(**{**config.to_dict(), **changes})


@pytest.mark.parametrize("layers, chosen", [(None, [2, 4, 6]), ([1, 2, 5], [1, 2, 5])])
@torch.no_grad()
def test_take_layers_copies_the_chosen_blocks_and_all_around_them(layers, chosen):
    encoder, config, student_config = teacher(layers=3)
    state = take_layers(encoder.state_dict(), config, student_config, layers)
    student = StudentEncoder(student_config)
    student.load_state_dict(state)
    student.eval()
    source = torch.randn(1, 3000)
    x = encoder(source, layers=(0,)).features[0]
    for layer in chosen:
        x, _ = encoder.blocks[layer - 1](x)
    torch.testing.assert_close(student(source).x, x)
    state["mask_emb"].zero_()
    assert encoder.mask_emb.abs().sum() > 0, "the copy must not share the teacher's memory"


@pytest.mark.parametrize(
    "count, depth, layers",
    [
        (8, 12, [2, 3, 5, 6, 8, 9, 11, 12]),  # halves up: 4.5 and 10.5
        (4, 6, [2, 3, 5, 6]),
        (3, 6, [2, 4, 6]),
        (16, 24, [2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24]),
        (1, 12, [12]),
        (12, 12, list(range(1, 13))),
    ],
)
def test_every_kth_layer_is_the_same_for_start_and_layer_map(count, depth, layers):
    assert every_kth(count, depth) == layers
    pairs = parse_layer_map("dense", count, depth)
    assert [str(pair) for pair in pairs] == [f"{k}<-{layer}" for k, layer in enumerate(layers, start=1)]
    config = EncoderConfig(
        front_end="waveform", block="transformer", position="none", layers=depth, embed_dim=4, ffn_dim=4,
        attention_heads=1, conv_layers=[[4, 400, 320]],
    )  # fmt: skip
    state = {f"blocks.{k}.final_layer_norm.bias": torch.full((4,), k + 1.0) for k in range(depth)}
    taken = take_layers(state, config, EncoderConfig(**{**config.to_dict(), "layers": count}))
    assert [int(taken[f"blocks.{k}.final_layer_norm.bias"][0]) for k in range(count)] == layers


def test_take_layers_of_another_width_or_front_end():
    encoder, config, narrow = teacher(layers=3, embed_dim=16, attention_heads=2)
    with pytest.raises(ConfigError, match=r"embed_dim \(teacher 32, student 16\), attention_heads"):
        take_layers(encoder.state_dict(), config, narrow)
    state = take_layers(encoder.state_dict(), config, narrow, layers=())
    assert "front_end.layers.6.conv.weight" in state and "front_end.projection.weight" not in state
    assert not any(name.startswith("blocks.") for name in state)
    _, _, fbank = teacher(front_end="fbank")
    state = take_layers(encoder.state_dict(), config, fbank)
    assert not any(name.startswith("front_end.") for name in state) and "pos_conv.weight_v" in state
    with pytest.raises(ConfigError, match=r"blocks \[7\] do not exist; the teacher has 1\.\.6"):
        take_layers(encoder.state_dict(), config, config, [1, 2, 3, 4, 5, 7])
    with pytest.raises(ConfigError, match="2 teacher blocks given for 6"):
        take_layers(encoder.state_dict(), config, config, [1, 2])
    with pytest.raises(ConfigError, match="norm_first"):
        take_layers(encoder.state_dict(), config, EncoderConfig(**{**config.to_dict(), "norm_first": True}))


@torch.no_grad()
def test_half_of_w2v_bert_starts_from_every_second_block():
    model = w2v_bert(num_hidden_layers=4)
    config = config_from_hf(model.config.to_dict())
    state = of_hf(model.state_dict(), config)
    half = EncoderConfig(**{**config.to_dict(), "layers": 2})
    student = student_of(take_layers(state, config, half), half)
    weight = model.encoder.layers[3].conv_module.depthwise_conv.weight
    assert torch.equal(student.blocks[1].conv.depthwise.weight, weight)


def test_misfitting_checkpoints_are_named():
    model = hf_model("Hubert")
    config = config_from_hf(model.config.to_dict())
    state = model.state_dict()
    short = {name: tensor for name, tensor in state.items() if "layers.2.feed_forward" not in name}
    with pytest.raises(ConfigError, match="4 missing .encoder.layers.2.feed_forward.intermediate_dense.weight"):
        of_hf(short, config)
    with pytest.raises(ConfigError, match="1 without a place .encoder.layers.0.adapter.weight"):
        of_hf({**state, "encoder.layers.0.adapter.weight": torch.zeros(1)}, config)
    wide = EncoderConfig(**{**config.to_dict(), "ffn_dim": 64})
    with pytest.raises(ConfigError, match=r"9 of another shape.*dense.weight is \[48, 32\], expected \[64, 32\]"):
        of_hf(state, wide)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "data2vec-audio"}, "'data2vec-audio' cannot start a student"),
        ({"model_type": "hubert", "conv_pos_batch_norm": True}, "conv_pos_batch_norm=True"),
        ({"model_type": "wav2vec2", "adapter_attn_dim": 16}, "adapter_attn_dim"),
        ({"model_type": "wav2vec2-bert", "position_embeddings_type": "rotary"}, "'rotary' has no exact"),
    ],
)
def test_unsupported_hf_variants_are_named(config, message):
    with pytest.raises(ConfigError, match=message):
        config_from_hf(config)


def test_unsupported_fairseq_variants_are_named():
    with pytest.raises(ConfigError, match="layer_type='conformer'"):
        config_from_fairseq({"layer_type": "conformer"})
    with pytest.raises(ConfigError, match="pos_conv_depth=5"):
        config_from_fairseq({"pos_conv_depth": 5})


def test_published_shapes_without_their_files():
    """The defaults alone are HuBERT Base and w2v-BERT 2.0."""
    hubert = config_from_hf({"model_type": "hubert"})
    assert hubert.to_dict() == {
        **config_from_fairseq({}).to_dict(),
        "activation_dropout": 0.1,
        "layerdrop": 0.1,
        "input": dict(hubert.to_dict()["input"], normalization="utterance", variance_floor=1e-7),
    }
    bert = config_from_hf({"model_type": "wav2vec2-bert"})
    with torch.device("meta"):
        count = StudentEncoder(bert).num_parameters()
    assert (bert.layers, bert.embed_dim, bert.fbank_stack) == (24, 1024, 2)
    assert 575e6 < count < 585e6


def test_conv_layers_are_parsed_not_evaluated():
    text = "[(512,10,5)] + [(512, 3, 2)] * 2 + [(512,2,2)]"
    assert parse_conv_layers(text) == [list(layer) for layer in eval(text)]
    assert len(parse_conv_layers("[(1,1,1)] * 10 * 10")) == 100
    wrong = ["__import__('os').getcwd()", "[(512, 10", "[3]", "[(1,1,1)] * 101", "[(1,1,1)] * 51 * 2", "9 * 101 * [3]"]
    for text in wrong:
        with pytest.raises(ConfigError, match="conv_feature_layers"):
            parse_conv_layers(text)
