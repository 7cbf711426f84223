"""Which family of exports a recogniser belongs to."""

from colld_fairseq.errors import ConfigError
from colld_fairseq.export.ctc import Ctc
from colld_fairseq.export.ctc_layer import ctc_alone
from colld_fairseq.export.ctc_onnx_asr import OnnxAsrCtc
from colld_fairseq.export.family import ExportOptions, Family
from colld_fairseq.export.transducer import transducer_family
from colld_fairseq.export.whisper import attention_family
from colld_fairseq.recogniser import Recogniser


def ctc_family(recogniser: Recogniser, options: ExportOptions) -> Ctc:
    """For the client that was asked for."""
    return (OnnxAsrCtc if options.target == "onnx-asr" else Ctc)(ctc_alone(recogniser), options)


FAMILIES = {
    "ctc": ctc_family,
    "transducer": transducer_family,
    "attention": attention_family,
}  # by `Recogniser.decoder`


def family_of(recogniser: Recogniser, options: ExportOptions) -> Family:
    """The recogniser as an export. Raises ConfigError with the reason where there is none."""
    if recogniser.decoder not in FAMILIES:
        raise ConfigError(
            f"this model decodes with {recogniser.decoder}, which has no export yet; what is exported:"
            f" {', '.join(FAMILIES)}"
        )
    if recogniser.added_languages:
        names = ", ".join(recogniser.added_languages)
        raise ConfigError(f"a model with added languages ({names}) has no export yet: export the one it was made from")
    if options.streaming and recogniser.decoder != "transducer":
        raise ConfigError(
            f"--streaming: only transducers are exported for streams; this model decodes with {recogniser.decoder}"
        )
    return FAMILIES[recogniser.decoder](recogniser, options)
