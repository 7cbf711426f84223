import pytest
import torch

from colld_fairseq.modules.lengths import lengths_to_padding_mask


def test_padding_mask():
    expected = torch.tensor([[False, False, True], [False, False, False], [True, True, True]])
    assert torch.equal(lengths_to_padding_mask(torch.tensor([2, 3, 0])), expected)


def test_max_length():
    assert lengths_to_padding_mask(torch.tensor([2, 1]), 4).tolist() == [
        [False, False, True, True],
        [False, True, True, True],
    ]
    assert lengths_to_padding_mask(torch.tensor([], dtype=torch.long)).shape == (0, 0)


def test_longer_than_max_length():
    with pytest.raises(ValueError, match="5 frames does not fit into 4"):
        lengths_to_padding_mask(torch.tensor([5]), 4)
