"""The teacher's frozen decoder as a distillation term: transformers' own numbers, from which students learn."""

import pretrained
import pytest
import torch
import transformers
from device_cases import STILL, step
from second_device import DEVICE, second_device
from task_setup import set_up

from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.errors import ConfigError

SHAPE = [
    *["--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "64", "--encoder-attention-heads", "2"],
    *["--encoder-layers", "2", "--task", "speech_distillation", "--arch", "colld_student_whisper_base"],
]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """Directory of a random Whisper of two layers."""
    return pretrained.write_whisper(tmp_path_factory.mktemp("whisper"), encoder_ffn_dim=64, encoder_attention_heads=2)


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """Manifests with transcripts and translations, in languages that Whisper knows."""
    folder = tmp_path_factory.mktemp("data")
    manifest = read_manifest(str(corpus / "test.tsv"))
    pairs = [("es", "es"), ("ru", "en"), ("en", "en")]
    rows = [
        manifest.row(index)._replace(src_lang=source, tgt_lang=target)
        for index, (source, target) in zip(range(len(manifest)), pairs * 3)
    ]
    for split in ("train", "valid"):
        write_manifest(folder / f"{split}.tsv", rows)
    return folder


def distil(data, whisper, *more):
    return set_up(
        *[data, *SHAPE, "--init-from", f"hf:{whisper}", "--teacher", f"hf:{whisper}", "--head", "none"],
        *["--layer-map", "1:1,out:out", "--mask-prob", "0", "--criterion", "feature_regression"],
        *["--teacher-decoder", f"hf:{whisper}", "--decoder-weight", "0.5", "--target-norm", "instance", *more],
    )


def batch_of(run, rows):
    run.task.load_dataset("valid")
    dataset = run.task.dataset("valid")
    return dataset.collater([dataset[row] for row in rows])


def test_cross_entropy_is_that_of_transformers(data, whisper):
    """Of the student that is its teacher, in windows as transformers has them."""
    run = distil(data, whisper, "--tail-seconds", "30")
    run.model.eval()
    sample = batch_of(run, range(3))
    loss, frames, log = run.criterion(run.model, sample)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    total, count = 0.0, 0
    for row in range(3):
        prefix = sample["net_input"]["prefix_tokens"][row]
        target = sample["target"][row]
        target = target[target != run.task.frozen_decoder.vocabulary.dictionary.pad()]
        given = torch.cat([prefix, target[:-1]])
        with torch.no_grad():
            logits = model(
                input_features=sample["net_input"]["src_tokens"][row : row + 1].transpose(1, 2),
                decoder_input_ids=given[None],
            ).logits[0, len(prefix) - 1 :]
        total += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
        count += len(target)
    assert log["decoder_tokens"] == count
    assert float(log["decoder"]) == pytest.approx(total, rel=1e-4)
    without = float(loss) - 0.5 * float(frames) * total / count
    assert without / float(frames) == pytest.approx(
        float(log["l1"] + log["log_sigmoid_cosine"]) / float(frames), abs=1e-3
    )


def test_divergence_from_itself_is_zero_and_grows(data, whisper):
    run = distil(data, whisper, "--decoder-term", "kl")
    run.model.eval()
    sample = batch_of(run, range(3))
    assert float(run.criterion(run.model, sample)[2]["decoder"]) < 1e-3
    with torch.no_grad():
        run.model.encoder.blocks[0].ffn.linear_out.weight.mul_(3)
    assert float(run.criterion(run.model, sample)[2]["decoder"]) > 1e-2


@pytest.mark.parametrize("term", ["cross_entropy", "kl"])
def test_tokens_beyond_the_decoders_positions_are_left_out(term, data, whisper, tmp_path):
    """A teacher that goes in circles writes more of them than it has positions for, once the text is tokens again."""
    manifest = read_manifest(str(data / "train.tsv"))
    row = manifest.row(2)
    longest = distil(data, whisper).task.frozen_decoder.module.max_positions()
    losses = []
    for count in (longest - 3, longest, 3 * longest):
        write_manifest(tmp_path / "valid.tsv", [row._replace(tgt_text="x" * count)])
        torch.manual_seed(1)
        run = distil(tmp_path, whisper, "--decoder-term", term, "--encoder-layers", "1", "--layer-map", "1:1,out:out")
        run.model.eval()
        log = run.criterion(run.model, batch_of(run, [0]))[2]
        losses.append((float(log["decoder"]), int(log["decoder_tokens"])))
    assert losses[1] == losses[2] and losses[0] != losses[1]
    assert [tokens for _, tokens in losses] == [longest - 1, longest, longest]


@pytest.mark.parametrize("term", ["cross_entropy", "kl"])
def test_the_student_gets_the_gradient_and_the_decoder_none(term, data, whisper):
    run = distil(
        data, whisper, "--encoder-layers", "1", "--init-layers", "2", "--layer-map", "out:out", "--decoder-term", term
    )
    sample = batch_of(run, range(3))
    run.model.train()
    loss, _, _ = run.criterion(run.model, sample)
    weights = [p for p in run.model.parameters() if p.requires_grad]
    loss.backward()
    assert all(weight.grad is not None for weight in weights)
    assert not any(p.requires_grad or p.grad is not None for p in run.task.frozen_decoder.module.parameters())
    assert not [name for name in run.model.state_dict() if "decoder" in name]


def test_fitting_the_decoder_lowers_what_it_loses(data, whisper):
    run = distil(data, whisper, "--encoder-layers", "1", "--layer-map", "out:out", "--decoder-weight", "10")
    sample = batch_of(run, range(3))
    optimizer = torch.optim.Adam([p for p in run.model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(12):
        loss, frames, log = run.criterion(run.model, sample)
        optimizer.zero_grad()
        (loss / frames).backward()
        optimizer.step()
        losses.append(float(log["decoder"]))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--decoder-weight", "0"], "need each other"),
        (["--head", "linear"], "--head none"),
        (["--layer-map", "1:1,2:2"], "out:out"),
    ],
)
def test_what_it_needs_is_said(options, message, data, whisper):
    with pytest.raises(ConfigError, match=message):
        distil(data, whisper, *options)


def test_divergence_is_from_one_teacher(data, whisper):
    teachers = f"a=hf:{whisper},b=hf:{whisper}"
    several = ["--teacher", teachers, "--criterion", "multi_teacher"]
    distil(data, whisper, *several)
    with pytest.raises(ConfigError, match="one teacher"):
        distil(data, whisper, *several, "--decoder-term", "kl")


def test_a_pair_of_languages_that_whisper_cannot_write_is_refused(data, whisper, tmp_path):
    manifest = read_manifest(str(data / "valid.tsv"))
    write_manifest(tmp_path / "valid.tsv", [manifest.row(0)._replace(tgt_lang="ru")])
    run = distil(data, whisper)
    run.task.cfg.data = str(tmp_path)
    with pytest.raises(ConfigError, match="from 'es' into 'ru'"):
        batch_of(run, [0])


def test_a_window_that_would_cut_an_utterance_and_not_its_transcript_is_refused(data, whisper):
    manifest = read_manifest(str(data / "train.tsv"))
    longest = int(manifest.n_samples.argmax())
    seconds = manifest.n_samples[longest] / 16000 - 0.1
    task = distil(data, whisper, "--join-seconds", seconds).task
    with pytest.raises(ConfigError, match=f"utterance {manifest.ids[longest]} of .* s is longer than --join-seconds"):
        task.load_dataset("train")
    distil(data, whisper, "--join-seconds", seconds + 0.2).task.load_dataset("train")


@pytest.mark.parametrize("term", ["cross_entropy", "kl"])
def test_on_a_device_that_is_not_the_cpu(term, data, whisper):
    run = distil(data, whisper, "--decoder-term", term, *STILL)
    loss, norms, _ = step(run, batch_of(run, range(3)), "cpu")
    with second_device():
        there = step(run, batch_of(run, range(3)), DEVICE)
    assert there[0] == pytest.approx(loss, rel=1e-3) and there[1] == pytest.approx(norms, rel=2e-2, abs=1e-3)
