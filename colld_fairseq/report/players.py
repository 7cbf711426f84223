"""Audio inside the page: utterances encoded small, until the page is as large as was allowed."""

import base64
import io
from typing import NamedTuple

import soundfile

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.data.audio import read_audio
from colld_fairseq.errors import AudioError

# What libsndfile writes and every browser plays, the better first: format, subtype, media type.
_ENCODINGS = (("MP3", "MPEG_LAYER_III", "audio/mpeg"), ("OGG", "VORBIS", "audio/ogg"), ("WAV", "PCM_16", "audio/wav"))
_COMPRESSION = 0.7  # of 0 to 1: about 4 kB per second as MP3


class Player(NamedTuple):
    """`source`: a data URL, or "" and why there is none."""

    source: str
    problem: str = ""


class Players:
    """Players of utterances, at most `megabytes` (10^6 bytes) of the page in all."""

    def __init__(self, megabytes: float):
        self.limit, self.bytes = megabytes * 1e6, 0
        self._made = {}

    def of(self, audio: str) -> Player:
        """The player of a manifest's audio; of the same audio the same one, which counts again where it is shown."""
        if not audio:
            return Player("", "no audio: its manifest is not known, or holds filterbanks")
        if self.bytes >= self.limit:
            return Player("", "audio left out: the page may hold no more (--audio-mb)")
        if audio not in self._made:
            try:
                self._made[audio] = Player(encode(audio))
            except AudioError as error:
                self._made[audio] = Player("", str(error))
        player = self._made[audio]
        if self.bytes + len(player.source) > self.limit:
            return Player("", "audio left out: the page may hold no more (--audio-mb)")
        self.bytes += len(player.source)
        return player


def encode(audio: str) -> str:
    """Audio as `read_audio` takes it as a data URL of 16 kHz, mono. Raises AudioError."""
    waveform = read_audio(audio)
    for container, subtype, media in _ENCODINGS:
        if container not in soundfile.available_formats():
            continue
        buffer = io.BytesIO()
        how = {} if container == "WAV" else {"compression_level": _COMPRESSION}
        soundfile.write(buffer, waveform, SAMPLE_RATE, format=container, subtype=subtype, **how)
        return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    raise AudioError(
        f"{audio}: soundfile can write none of MP3, Ogg and WAV; install its wheel (pip install soundfile)"
    )
