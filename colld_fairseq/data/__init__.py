"""Manifests, audio reading, filterbanks, augmentation, sampling and the checks that run before training.

Manifests, audio, filterbanks, augmentation, sampling and checks import neither fairseq nor torch; the fairseq
datasets are built on top of them.
"""
