import pytest
import torch

from colld_fairseq.modules.lengths import lengths_to_padding_mask


def test_padding_mask():
    expected = torch.tensor([[False, False, True], [False, False, False], [True, True, True]])
    assert torch.equal(lengths_to_padding_mask(torch.tensor([2, 3, 0])), expected)


def test_frames_of_the_padded_tensor():
    assert lengths_to_padding_mask(torch.tensor([2, 1]), 4).tolist() == [
        [False, False, True, True],
        [False, True, True, True],
    ]
    assert lengths_to_padding_mask(torch.tensor([], dtype=torch.long)).shape == (0, 0)


def test_values_are_not_looked_at():
    """Lengths on the meta device have no values: reading one would raise."""
    lengths = torch.empty(3, dtype=torch.long, device="meta")
    assert lengths_to_padding_mask(lengths, 5).shape == (3, 5)
    with pytest.raises(RuntimeError):
        lengths_to_padding_mask(lengths)
