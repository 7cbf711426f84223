"""fairseq-train takes --bf16 for a TPU's option and then fails without torch_xla, GPU or not."""

from commands import PACKAGE, TINY_ENCODER, call, losses

from colld_fairseq import load_student


def test_bf16_trains_on_what_there_is(corpus, teacher, tmp_path):
    output = call(
        "train", corpus, "--user-dir", PACKAGE, "--task", "speech_distillation", "--teacher", teacher, "--bf16",
        *["--arch", "colld_student", *TINY_ENCODER, "--criterion", "colld", "--layer-map", "sparse:1", "--cpu"],
        *["--on-cpu-convert-precision", "--optimizer", "adam", "--lr", "0.001", "--max-tokens", "60000"],
        *["--max-update", "2", "--num-workers", "0", "--log-format", "json", "--log-interval", "1"],
        *["--no-epoch-checkpoints", "--save-dir", tmp_path],
    )  # fmt: skip
    assert len(losses(output)) == 2
    assert load_student(str(tmp_path / "checkpoint_last.pt")).num_layers == 2
