"""`colld profile`: figures against formulas written out by hand, and what each option changes."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from colld_fairseq import profiling
from colld_fairseq.cli import main
from colld_fairseq.cli.profile import Subject, measure
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder

CPU = torch.device("cpu")
D, FFN, LAYERS, STACK = 16, 40, 3, 4


@pytest.fixture
def student(tmp_path):
    """student(dtype, **fields) -> (path of a checkpoint with a head beside the encoder, encoder)."""

    def save(dtype=torch.float32, **fields):
        shape = dict(layers=LAYERS, embed_dim=D, ffn_dim=FFN, attention_heads=2, fbank_stack=STACK)
        config = EncoderConfig(**{**shape, "block": "transformer", "position": "none", **fields})
        encoder = StudentEncoder(config)
        state = {f"encoder.{name}": value.to(dtype) for name, value in encoder.state_dict().items()}
        state["heads.0.weight"] = torch.zeros(D, 1000, dtype=dtype)
        cfg = {"model": {"encoder_config": json.dumps(config.to_dict())}}
        path = tmp_path / "student.pt"
        torch.save({"cfg": cfg, "model": state}, path)
        return str(path), encoder

    return save


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(1)
    config = transformers.HubertConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        num_conv_pos_embeddings=6,
        num_conv_pos_embedding_groups=2,
        conv_dim=(8, 8, 8),
        conv_kernel=(10, 3, 2),
        conv_stride=(5, 4, 2),
    )
    model = transformers.HubertModel(config)
    model.half().save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "preprocessor_config.json").write_text('{"do_normalize": false}')
    return f"hf:{tmp_path / 'teacher'}", model


def profile(tmp_path, *arguments):
    path = tmp_path / "new" / "profile.json"
    quick = ["--seconds", "0.5", "--runs", "2", "--batch-sizes", "1"]
    assert main(["profile", *quick, *arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text(encoding="utf-8"))


def test_student_counts_by_hand(student, tmp_path):
    (model,) = profile(tmp_path, "--student", student()[0])["models"]
    norm = 2 * D
    front_end = 2 * 80 * STACK + (80 * STACK * D + D)
    block = 4 * (D * D + D) + (2 * D * FFN + FFN + D) + 2 * norm
    assert model["parameters"] == front_end + norm + LAYERS * block
    assert model["mb_float32"] == pytest.approx(4 * model["parameters"] / 1e6)
    frames = 998 // STACK  # 10 s at 100 Hz without the last partial window
    attention = 2 * frames * frames * D
    macs = frames * 80 * STACK * D + LAYERS * (frames * (4 * D * D + 2 * D * FFN) + attention)
    assert model["gmacs_per_10s"] == pytest.approx(macs / 1e9, rel=1e-9)
    assert (model["role"], model["layers"], model["width"], model["frame_rate_hz"]) == (
        "student",
        LAYERS,
        D,
        25.0,
    )


def test_waveform_student(student, tmp_path):
    path, encoder = student(front_end="waveform", conv_layers=[[8, 10, 5], [8, 64, 64]])
    (model,) = profile(tmp_path, "--student", path)["models"]
    assert model["parameters"] == encoder.num_parameters()
    assert model["frame_rate_hz"] == 16000 / 320


def test_stored_size_follows_the_dtype_of_the_file(student, tmp_path):
    full = profile(tmp_path, "--student", student()[0])["models"][0]
    half = profile(tmp_path, "--student", student(torch.float16)[0])["models"][0]
    assert full["mb_stored"] == full["mb_float32"] == half["mb_float32"]
    assert half["mb_stored"] == pytest.approx(full["mb_stored"] / 2)


def test_teacher_beside_student(student, teacher, tmp_path, capsys):
    spec, model = teacher
    report = profile(tmp_path, "--student", student()[0], "--teacher", spec)
    assert [entry["role"] for entry in report["models"]] == ["student", "teacher"]
    entry = report["models"][1]
    assert entry["parameters"] == model.num_parameters() - model.masked_spec_embed.numel()
    assert entry["mb_stored"] == pytest.approx(entry["mb_float32"] / 2)
    assert (entry["layers"], entry["width"], entry["frame_rate_hz"]) == (2, 24, 16000 / 40)
    printed = capsys.readouterr().out
    assert f"{entry['parameters']:,}" in printed and "2 × 24" in printed


def test_whisper_is_counted_as_the_library_has_its_encoder(tmp_path):
    """The last norm included, which no layer's features pass."""
    config = transformers.WhisperConfig(
        d_model=24, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=40, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=8, max_source_positions=100, vocab_size=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = transformers.WhisperModel(config)
    model.save_pretrained(tmp_path / "whisper")
    entry = profile(tmp_path, "--teacher", f"hf:{tmp_path}/whisper")["models"][0]
    assert entry["parameters"] == sum(value.numel() for value in model.encoder.parameters())


def test_options_are_what_is_measured(student, tmp_path):
    path, threads = student()[0], torch.get_num_threads()
    try:
        options = "--batch-sizes 3,1 --runs 4 --threads 1 --device cpu".split()
        report = profile(tmp_path, "--student", path, *options)
    finally:
        torch.set_num_threads(threads)
    assert (report["threads"], report["device"], report["utterance_seconds"]) == (1, "cpu", 0.5)
    assert report["machine"]["cpu"] and report["machine"]["torch"] == torch.__version__
    speed = report["models"][0]["speed"]
    assert [(s["batch_size"], len(s["seconds"])) for s in speed] == [(3, 4), (1, 4)]


def test_measure_feeds_utterances_of_the_asked_shape_and_divides_by_their_audio(monkeypatch):
    """By a clock that goes on in the runs alone."""
    shapes, now, seconds = [], 0.0, iter([9.0, 9.0, 0.1, 0.3, 0.2, 9.0])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now)

    def run(waveforms):
        nonlocal now
        shapes.append(waveforms.shape)
        now += next(seconds)
        return torch.zeros(1)

    subject = Subject("student", "x", run, 10, 20, 1, 1, 50.0)
    entry = measure(subject, seconds=0.25, batch_sizes=[4], runs=3, device=CPU)
    assert set(shapes) == {(4, 4000), (1, 160000)}
    assert shapes.count((4, 4000)) == 5  # a warm-up, one for memory, three timed
    (speed,) = entry["speed"]
    assert speed["seconds"] == pytest.approx([0.1, 0.3, 0.2]) and speed["rtf"] == pytest.approx(0.2 / (4 * 0.25))


def test_fused_attention_is_counted():
    q = torch.randn(2, 3, 50, 8)
    macs = profiling.count_macs(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert macs == 2 * (2 * 3) * 50 * 50 * 8


def test_working_memory_is_the_peak_not_what_remains():
    def work():
        return torch.ones(25_000_000).sum()  # 100 MB, freed at once

    torch.ones(50_000_000)  # an earlier, higher peak must not count
    measured = profiling.working_memory(work, CPU)
    if measured is None:
        pytest.skip("this system does not tell the memory of a process")
    assert 95e6 < measured < 120e6


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give --student"),
        (["--student", "no.pt"], "no.pt: no such file"),
        (["--teacher", "hf:./no-such-dir"], "no such directory"),
        (["--student", "no.pt", "--batch-sizes", "1,x"], "--batch-sizes: 'x' is not a whole number"),
        (["--student", "no.pt", "--batch-sizes", "0"], "--batch-sizes: '0' is not a whole number at least 1"),
        (["--student", "no.pt", "--seconds", "0"], "--seconds: '0' is not"),
    ],
)
def test_errors_name_what_to_give(arguments, message, capsys):
    assert main(["profile", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_plot_replaces_no_model(student, tmp_path, capsys):
    path, _ = student()
    model = tmp_path / "model.png"
    model.write_bytes(content := Path(path).read_bytes())
    for plot, message in ((path, "ends in .png"), (str(model), "is an input")):
        assert main(["profile", "--student", str(model), "--plot", plot, "WER", "4"]) == 2
        assert f"--plot {plot}" in (said := capsys.readouterr().err) and message in said
    assert model.read_bytes() == content


def test_a_gpu_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["profile", "--student", "no.pt", "--device", "cuda"]) == 2
    assert "sees no GPU" in capsys.readouterr().err


def test_convolutions_count_as_such_whatever_computes_them():
    """10 s through the front-end and position convolution of HuBERT, one layer, by their formulas."""
    config = EncoderConfig(
        front_end="waveform", block="transformer", position="conv", layers=1, embed_dim=D, ffn_dim=FFN,
        attention_heads=2, conv_layers=[[8, 10, 5], [8, 3, 2], [4, 2, 2]], conv_pos=64, conv_pos_groups=2,
    )  # fmt: skip
    encoder = StudentEncoder(config).eval()
    x = torch.zeros(1, 4000)
    first, second, frames = 799, 399, 199
    macs = first * 8 * 10 + second * 8 * 8 * 3 + frames * 4 * 8 * 2 + frames * 4 * D
    macs += (frames + 1) * D * (D // 2) * 64  # the position convolution computes one frame more than it uses
    macs += frames * (4 * D * D + 2 * D * FFN) + 2 * frames * frames * D
    assert profiling.count_macs(lambda: encoder(x)) == macs
