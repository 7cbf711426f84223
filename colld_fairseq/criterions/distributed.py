"""What training on several GPUs asks of a criterion."""

from colld_fairseq.errors import ConfigError


def check_unused_parameters(model) -> None:
    """ConfigError before torch's DistributedDataParallel waits for gradients that an encoder does not get: while it is
    frozen, or of the blocks that LayerDrop leaves out."""
    if getattr(model, "find_unused_parameters", None) is not False:  # no such wrapper, or one that looks for them
        return
    remedy = "on several GPUs give --find-unused-parameters or --ddp-backend legacy_ddp as well"
    if model.encoder.freeze_updates:
        raise ConfigError(f"--freeze-encoder-updates {model.encoder.freeze_updates}: {remedy}")
    if model.encoder.config.layerdrop:
        raise ConfigError(f"--encoder-layerdrop {model.encoder.config.layerdrop:g}: {remedy}")
