"""When an utterance of a stream is over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EndpointRules:
    """Seconds after which an utterance ends; math.inf turns a rule off. Defaults of Kaldi and sherpa-onnx.

    Attributes:
        silence_without_text: of audio in which nothing was recognized.
        silence_after_text: since the last label, once there is one.
        longest: of the utterance, whatever is said.
    """

    silence_without_text: float = 2.4
    silence_after_text: float = 1.2
    longest: float = 20.0

    def reached(self, has_text: bool, silence: float, length: float) -> bool:
        """Whether an utterance of `length` seconds is over, of which the last `silence` gave no label."""
        patience = self.silence_after_text if has_text else self.silence_without_text
        return silence >= patience or length >= self.longest
