"""Features of a module's blocks, noted while it runs."""

from typing import Dict, Sequence

from torch import Tensor, nn


class FeatureTap:
    """Forward hooks that note raw block outputs (or feed-forward outputs) while a module runs.

    blocks are the encoder's, in order; feed_forward maps a block to its feed-forward module.
    """

    def __init__(self, blocks: Sequence[nn.Module], layers: Sequence[int], kind: str, feed_forward):
        self.features: Dict[int, Tensor] = {}
        for layer in layers:
            if layer == 0:
                blocks[0].register_forward_pre_hook(self._note_input)
            elif kind == "layer":
                blocks[layer - 1].register_forward_hook(self._noting(layer))
            else:
                feed_forward(blocks[layer - 1]).register_forward_hook(self._noting(layer))

    def _note_input(self, module, arguments) -> None:
        self.features[0] = arguments[0]

    def _noting(self, layer: int):
        def note(module, arguments, output) -> None:
            self.features[layer] = output[0] if isinstance(output, tuple) else output

        return note

    def take(self) -> Dict[int, Tensor]:
        """What the last forward pass left here, in the order of the layers; forgets it."""
        features, self.features = self.features, {}
        return dict(sorted(features.items()))
