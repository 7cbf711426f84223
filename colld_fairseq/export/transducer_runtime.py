"""An exported transducer in ONNX Runtime, decoded as its clients do."""

from typing import List, Sequence

import numpy as np

from colld_fairseq.export.comparison import Session

BLANK = 0


class RuntimeTransducer:
    """Decoder and joiner of a folder.

    Args:
        context: symbols that the decoder is given.
        labels_per_frame: after which the next frame follows.
    """

    def __init__(self, decoder: Session, joiner: Session, context: int, labels_per_frame: int) -> None:
        self.decoder, self.joiner, self.context = decoder, joiner, context
        self.labels_per_frame = labels_per_frame

    def predict(self, tokens: Sequence[int]) -> np.ndarray:
        """The decoder's output [J] after a hypothesis."""
        symbols = [*[-1] * self.context, BLANK, *tokens][-self.context :]
        return self.decoder(np.array([symbols], dtype=np.int64))[0][0]

    def join(self, frames: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """Logits [N, V] of N frames [N, J], and of as many decoder outputs."""
        return self.joiner(frames, symbols)[0]

    def greedy(self, frames: np.ndarray) -> List[int]:
        """Tokens of the most probable symbol at every step; frames [F, J]."""
        tokens: List[int] = []
        symbols = self.predict(tokens)
        for frame in frames:
            for _ in range(self.labels_per_frame):
                best = int(self.join(frame[None], symbols[None])[0].argmax())
                if best == BLANK:
                    break
                tokens.append(best)
                symbols = self.predict(tokens)
        return tokens
