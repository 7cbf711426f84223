"""Errors a user can act on: each message names the file, the line or utterance, and the remedy."""


class ColldError(ValueError):
    """Base of every error this package raises on bad input."""


class ManifestError(ColldError):
    """A manifest, or a row of one, cannot be used."""


class AudioError(ColldError):
    """An audio file cannot be read or holds no usable signal."""


class TeacherError(ColldError):
    """A teacher checkpoint, a layer number or teacher features cannot be used."""


class ConfigError(ColldError):
    """Options that contradict each other or the data."""


class CheckpointError(ConfigError):
    """A checkpoint is missing, damaged, or lacks weights that its configuration asks for."""
