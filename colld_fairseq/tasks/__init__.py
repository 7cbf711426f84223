"""fairseq tasks; importing the package registers them."""

from colld_fairseq.tasks import multilingual_speech_to_text, speech_distillation  # noqa: F401
