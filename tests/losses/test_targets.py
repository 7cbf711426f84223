import pytest
import torch

from colld_fairseq.losses import average_layers, normalize_targets


def inputs():
    torch.manual_seed(0)
    padding_mask = torch.zeros(3, 9, dtype=torch.bool)
    padding_mask[1, 6:] = True
    padding_mask[2, 1:] = True
    return 3 + 2 * torch.randn(3, 9, 4, dtype=torch.float64), padding_mask


def test_instance_is_per_utterance_and_channel_over_valid_frames():
    targets, padding_mask = inputs()
    out = normalize_targets(targets, padding_mask, "instance", eps=0.0)
    for u, valid in ((0, 9), (1, 6)):
        torch.testing.assert_close(out[u, :valid].mean(0), torch.zeros(4, dtype=torch.float64))
        torch.testing.assert_close(out[u, :valid].var(0, unbiased=False), torch.ones(4, dtype=torch.float64))
    assert out[1, 6:].eq(0).all()


def test_instance_of_a_single_frame_is_zero():
    targets, padding_mask = inputs()
    assert normalize_targets(targets, padding_mask, "instance")[2].eq(0).all()


def test_layer_is_per_frame_over_channels():
    targets, padding_mask = inputs()
    out = normalize_targets(targets, padding_mask, "layer", eps=0.0)
    expected = (targets - targets.mean(-1, keepdim=True)) / targets.std(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(out[~padding_mask], expected[~padding_mask])
    assert out[padding_mask].eq(0).all()


@pytest.mark.parametrize("how", ["none", "instance", "layer"])
def test_other_utterances_and_padding_do_not_matter(how):
    targets, padding_mask = inputs()
    alone = normalize_targets(targets[1:2, :6], None, how)
    dirty = targets.masked_fill(padding_mask[..., None], float("nan"))
    in_batch = normalize_targets(dirty, padding_mask, how)[1:2, :6]
    torch.testing.assert_close(in_batch, alone, rtol=1e-12, atol=1e-12)


def test_half_precision_is_normalized_in_float32():
    targets, padding_mask = inputs()
    targets = targets.half()
    for how in ("instance", "layer"):
        out = normalize_targets(targets, padding_mask, how)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, normalize_targets(targets.float(), padding_mask, how))
    assert normalize_targets(targets, padding_mask) is targets


def test_unknown_normalization():
    with pytest.raises(ValueError, match="batch"):
        normalize_targets(torch.randn(1, 2, 3), None, "batch")


@pytest.mark.parametrize("how", ["none", "instance", "layer"])
def test_average_normalizes_each_layer_first(how):
    targets, padding_mask = inputs()
    layers = [targets, targets * 5 + 1, torch.randn_like(targets)]
    expected = torch.stack([normalize_targets(layer, padding_mask, how) for layer in layers]).mean(0)
    torch.testing.assert_close(average_layers(layers, padding_mask, how), expected)


def test_average_of_half_precision_is_float32():
    layers = [torch.randn(1, 2, 3).half() for _ in range(3)]
    out = average_layers(layers)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.stack(layers).float().mean(0))


def test_average_of_nothing():
    with pytest.raises(ValueError, match="empty"):
        average_layers([])
