"""What layouts give: utterances, and what is listed but cannot be one."""

from typing import Dict, Mapping, NamedTuple, Optional, Union

from colld_fairseq.corpora.arrow_audio import ArrowAudio

#: Why something is left out -> whether it is a fault of the corpus, which counts towards --max-bad.
KINDS: Dict[str, bool] = {
    "malformed row": True,
    "missing audio": True,
    "unreadable audio": True,
    "segment outside its file": True,
    "audio that is not a file": True,
    "one channel of several": True,
    "no text": True,
    "duplicate id": True,
    "name that no manifest can hold": True,
    "marked as not to be used": False,
}


class Utterance(NamedTuple):
    """One utterance as its corpus has it.

    audio: a file or `archive.zip:offset:length`, or a cell of an Arrow table; of it, `seconds` from `start` (seconds),
    to its end where that is None. text: the transcript, "" where there is none. translations: by language. language:
    that is spoken, "" where the corpus does not say. split: as the corpus calls it.
    """

    id: str
    audio: Union[str, ArrowAudio]
    text: str = ""
    language: str = ""
    split: str = "train"
    speaker: str = ""
    translations: Mapping[str, str] = {}
    start: float = 0.0
    seconds: Optional[float] = None

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its audio."""
        return self.start == 0 and self.seconds is None


class LeftOut(NamedTuple):
    """What is not taken: its name (an id, or file:line), one of KINDS, and what exactly is wrong."""

    id: str
    kind: str
    reason: str


Listed = Union[Utterance, LeftOut]
