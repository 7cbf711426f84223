"""The size of a student on the command line of an example: LAYERSxWIDTH/FFN/HEADS."""

import sys
from typing import List, NamedTuple


class Shape(NamedTuple):
    """Of the Transformer; written LAYERSxWIDTH/FFN/HEADS."""

    layers: int
    width: int
    ffn: int
    heads: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        try:
            layers, rest = text.split("x")
            return cls(int(layers), *(int(number) for number in rest.split("/")))
        except (TypeError, ValueError):
            sys.exit(f"{text!r} is no shape: write LAYERSxWIDTH/FFN/HEADS, such as 12x480/480/12")

    def options(self) -> List[str]:
        return [
            "--encoder-layers", str(self.layers), "--encoder-embed-dim", str(self.width),
            "--encoder-ffn-embed-dim", str(self.ffn), "--encoder-attention-heads", str(self.heads),
        ]  # fmt: skip
