"""Streams for tests: audio, and what a recogniser makes of it in pieces."""

import numpy as np

SECONDS = (1.4, 0.9, 0.06, 1.13)


def speech(seconds, seed=0):
    """Noise that changes every 60 ms: float32 [N]."""
    generator = np.random.default_rng(seed)
    loudness = np.repeat(generator.uniform(0.01, 1.0, 1 + int(seconds / 0.06)), 960)[: int(seconds * 16000)]
    return (0.3 * loudness * generator.standard_normal(len(loudness))).astype(np.float32)


UTTERANCES = [speech(seconds, seed) for seed, seconds in enumerate(SECONDS)]


def streamed(recogniser, waveform, piece=1000):
    """Results after each step of one stream, whose audio comes in pieces."""
    stream, results = recogniser.create_stream(), []
    for at in range(0, len(waveform) + piece, piece):
        if at < len(waveform):
            stream.accept_waveform(waveform[at : at + piece])
        else:
            stream.finish()
        while recogniser.decode([stream]):
            results.append(recogniser.result(stream))
    return results
