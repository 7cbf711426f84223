"""Utterances of different length behind one another in one row: what works frame by frame never sees padding."""

from typing import List, NamedTuple

from torch import Tensor


class Packing(NamedTuple):
    """Where the frames of a padded batch stand.

    frames: of each utterance; rows: int64 [F], indices of the valid frames in the flattened batch; batch, length: B, T.
    """

    frames: List[int]
    rows: Tensor
    batch: int
    length: int

    @classmethod
    def of(cls, padding_mask: Tensor) -> "Packing":
        """bool [B, T], True on padding -> Packing. Waits for the device."""
        valid = ~padding_mask
        return cls(valid.sum(1).tolist(), valid.flatten().nonzero().squeeze(1), *valid.shape)

    def parts(self, frames: int) -> List[List[int]]:
        """The utterances' frames in groups of neighbors that have at least `frames` each, but for the last."""
        groups: List[List[int]] = [[]]
        for utterance in self.frames:
            if sum(groups[-1]) >= frames:
                groups.append([])
            groups[-1].append(utterance)
        return groups

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [1, F, D]."""
        return x.flatten(0, 1).index_select(0, self.rows).unsqueeze(0)

    def unpack(self, x: Tensor) -> Tensor:
        """[1, F, D] -> [B, T, D], 0 on padding."""
        out = x.new_zeros(self.batch * self.length, x.size(-1)).index_copy(0, self.rows, x[0])
        return out.view(self.batch, self.length, -1)
