"""What every search offers, so that utterances and streams are decoded by the same code."""

from typing import Any, Optional

from torch import Tensor

from colld_fairseq.decoding.hypothesis import NBest


class Search:
    """A way of searching the output of a transducer or of CTC, with its settings: whole utterances at once, or streams
    piece by piece.

    state = search.start(scorer, rows)
    state = search.proceed(scorer, frames, lengths, state)    # as often as there are more frames
    n_best = search.n_best(state)                             # at any time: as if the utterances ended there

    The scorer is what a transducer's search asks about symbols; CTC's frames hold all there is to know: None.

    States are of N utterances; `state.split()` gives one of each, and the `join` of their class makes one of several:
    any utterances may be searched as one batch.
    """

    def start(self, scorer: Any, rows: int, tags: Optional[Tensor] = None) -> Any:
        """The state before the first frame; tags int64 [N] of the target languages."""
        raise NotImplementedError

    def proceed(self, scorer: Any, frames: Tensor, lengths: Tensor, state: Any) -> Any:
        """The state after more frames [N, T, J] (CTC: log-probabilities [N, T, V]), of which `lengths` [N] (0 or more)
        are valid; the one given stays as it is. In pieces the result is the same as over all frames at once."""
        raise NotImplementedError

    def n_best(self, state: Any) -> NBest:
        """Hypotheses of each utterance so far, best first: at least one."""
        raise NotImplementedError

    def __call__(self, scorer: Any, frames: Tensor, lengths: Tensor, tags: Optional[Tensor] = None) -> NBest:
        """n-best lists of whole utterances: frames as in `proceed`, lengths int64 [B], tags int64 [B]."""
        return self.n_best(self.proceed(scorer, frames, lengths, self.start(scorer, len(frames), tags)))
