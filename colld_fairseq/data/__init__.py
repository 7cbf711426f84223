"""Manifests, audio reading, filterbanks, augmentation, sampling and the checks that run before training.

Everything here but ``datasets`` works without fairseq and torch (numpy, pyarrow, soundfile, soxr,
kaldi-native-fbank), so that loader workers stay light and the parts can be used alone.
"""
