"""multi_codebook on a real student and two real teachers of other rates, against loops over single frames."""

import numpy as np
import pytest
import torch
from commands import TINY_ENCODER
from fairseq.logging import metrics
from task_setup import assemble, configure, set_up, vary

from colld_fairseq.cli import main
from colld_fairseq.criterions.multi_codebook import MultiCodebookCriterion
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.teachers import load_teacher
from colld_fairseq.teachers.quantizer import ResidualQuantizer

RATES = {"slow": 2, "fast": 4}  # teacher frames to one of the student, of 25 Hz
LAYERS = {"slow": 2, "fast": 3}
HEADS = {"slow": (0, 1), "fast": (2,)}
UTTERANCES = 4


@pytest.fixture(scope="module")
def specs(teacher, fast_teacher):
    return {"slow": teacher, "fast": fast_teacher}


@pytest.fixture(scope="module")
def books(corpus, specs, tmp_path_factory):
    """{name: (file, folder of its indexes)}: 3 codebooks of 8 entries, and 2."""
    folder, made = tmp_path_factory.mktemp("books"), {}
    manifests = f"{corpus}/train.tsv,{corpus}/valid.tsv"
    for name, count in (("slow", 3), ("fast", 2)):
        made[name] = f"{folder}/{name}.safetensors", f"{folder}/{name}"
        command = f"codebooks --teacher {specs[name]} --layer {LAYERS[name]} --num-codebooks {count} --num-codes 8"
        command += f" --manifest {manifests} --out {made[name][0]} --indexes {made[name][1]} --device cpu"
        assert main(command.split()) == 0
    return made


def each(values):
    return ",".join(f"{name}={value}" for name, value in values.items())


@pytest.fixture(scope="module")
def options(corpus, specs, books):
    return [
        *[corpus, "--task", "speech_distillation", "--teacher", each(specs), "--arch", "colld_student", *TINY_ENCODER],
        *["--teacher-codebooks", each({name: files[0] for name, files in books.items()}), "--fbank-stack", "4"],
        *["--layer-map", "slow=1:2,2:2,fast=2:3", "--criterion", "multi_codebook", "--mask-prob", "0.4"],
        *["--teacher-weights", "slow=3,fast=1"],
    ]


@pytest.fixture(scope="module")
def plain(options):
    """The options as a configuration, which `vary` changes faster than a command line."""
    return configure(*options)


def loss_of(run, training=False):
    """(loss, frames, log) of four utterances, and the student's output for them."""
    run.task.load_dataset("valid")
    dataset = run.task.dataset("valid")
    sample = dataset.collater([dataset[index] for index in range(UTTERANCES)])
    torch.manual_seed(1)
    run.model.train(training), run.criterion.train(training)
    with torch.no_grad():
        return run.criterion(run.model, sample), run.model(**sample["net_input"]), sample


@pytest.fixture(scope="module")
def indexes(specs, books, corpus):
    """{name: {utterance: uint8 [frames of the student, n * C]}}, each utterance by itself."""
    rows, made = read_manifest(str(corpus / "valid.tsv")), {}
    for name, spec in specs.items():
        teacher, quantizer = load_teacher(spec, [LAYERS[name]]), ResidualQuantizer.load(books[name][0])
        made[name] = {}
        for row in range(len(rows)):
            waveform = torch.from_numpy(read_audio(rows.audio_path(row)))
            frames = teacher(waveform[None], torch.tensor([len(waveform)])).features[LAYERS[name]][0]
            own, n = quantizer.encode(frames), RATES[name]
            whole = [torch.cat([own[t * n + k] for k in range(n)]) for t in range(len(own) // n)]
            made[name][rows.text("id", row)] = torch.stack(whole)
    return made


def frames_of(indexes, output, sample, row):
    sizes = [len(indexes[name][sample["utt_id"][row]]) for name in RATES]
    return min(*sizes, int(output.lengths[row]))


@pytest.mark.parametrize("masked", [False, True])
def test_equals_a_loop(masked, options, indexes):
    run = set_up(*options, "--codebook-frames", "masked" if masked else "all", "--layer-weights", "0.2,0.8,1")
    (loss, size, log), output, sample = loss_of(run)
    expected, agree, counted = 0.0, 0.0, 0
    for row in range(UTTERANCES):
        for t in range(frames_of(indexes, output, sample, row)):
            if masked and not output.mask[row, t]:
                continue
            counted += 1
            for name, share in (("slow", 0.75), ("fast", 0.25)):
                wanted = indexes[name][sample["utt_id"][row]][t].long()
                for head in HEADS[name]:
                    logits = output.predictions[head][row, t].view(len(wanted), 8)
                    weight = share * (0.2, 0.8, 1)[head] / len(wanted)
                    expected -= weight * float(logits.log_softmax(-1)[range(len(wanted)), wanted].sum())
                    agree += weight * int((logits.argmax(-1) == wanted).sum())
    assert int(size) == counted and float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(log["agree"]) == pytest.approx(agree, rel=1e-4)
    assert float(log["cross_entropy"]) == pytest.approx(expected, rel=1e-4)


def test_cached_indexes_are_the_same_targets(options, books):
    caches = each({name: files[1] for name, files in books.items()})
    torch.manual_seed(5)
    (online, size, _), *_ = loss_of(set_up(*options))
    torch.manual_seed(5)
    run = set_up(*options, "--teacher-cache", caches)
    (cached, count, _), *_ = loss_of(run)
    assert run.task.teachers.any_online is False and int(size) == int(count)
    assert float(cached) == pytest.approx(float(online), rel=2e-3)  # a few frames lie between two entries


def test_what_the_student_keeps(options, indexes, books):
    """Linear CKA with the features that the indexes stand for; what is logged of the rest."""
    run = set_up(*options)
    (_, size, log), output, sample = loss_of(run)
    with metrics.aggregate(new_root=True) as totals:
        MultiCodebookCriterion.reduce_metrics([log])
        values = totals.get_smoothed_values()
    quantizer, measured = ResidualQuantizer.load(books["slow"][0]), []
    for head in HEADS["slow"]:
        x, y = [], []
        for row in range(UTTERANCES):
            frames = frames_of(indexes, output, sample, row)
            own = indexes["slow"][sample["utt_id"][row]][:frames]
            x.append(output.layers[head][row, :frames])
            y.append(torch.cat([quantizer.decode(own[:, :3]), quantizer.decode(own[:, 3:])], -1))
        x, y = (torch.cat(one).double().numpy() for one in (x, y))
        x, y = x - x.mean(0), y - y.mean(0)
        norms = [np.linalg.norm(one) for one in (x.T @ y, x.T @ x, y.T @ y)]
        measured.append(norms[0] ** 2 / norms[1] / norms[2])
    assert values["cka_slow"] == pytest.approx(np.mean(measured), abs=1e-3)
    assert values["share_slow"] + values["share_fast"] == pytest.approx(1, abs=2e-3)
    assert values["agreement"] == pytest.approx(100 * float(log["agree"]) / int(size), abs=0.01)


def test_random_trains_each_utterance_on_one_teacher(options):
    run = set_up(*options, "--teacher-combination", "random")
    (loss, size, log), *_ = loss_of(run, training=True)
    assert int(log["frames_slow"]) + int(log["frames_fast"]) == int(size)
    assert float(loss) == pytest.approx(float(log["loss_slow"] + log["loss_fast"]), rel=1e-6)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(layer_map="slow=1:2,2:4,fast=2:3"), ConfigError, "the codebooks of slow are of layer 2, not 2, 4: write"),
        (dict(layer_map="slow=1:2-3,fast=2:3"), ConfigError, "of layer 2, not 2, 3"),
        (
            dict(teacher_kind="slow=ffn"),
            ConfigError,
            "--teacher-kind: the codebooks of slow are of kind layer, not ffn",
        ),
        (dict(frame_rule="slow=concat_tanh"), ConfigError, "--frame-rule concat_tanh: slow has --teacher-codebooks"),
        (dict(target_norm="slow=instance"), ConfigError, "leave out --target-norm"),
        (dict(teacher_combination="average"), ConfigError, "one width|indexes have no mean"),
        (dict(head="none"), ConfigError, "--head none"),
        (dict(teacher_codebooks="/x"), ConfigError, "they are of one teacher; write slow=/x"),
        (dict(teacher_codebooks="slow=/x"), TeacherError, "/x: cannot be read as codebooks"),
    ],
)
def test_mistakes_are_named(change, error, message, plain):
    with pytest.raises(error, match=message):
        assemble(vary(plain, **change))


def test_codebooks_and_criterion_belong_together(options, books, plain):
    with pytest.raises(ConfigError, match="--teacher-codebooks: this criterion learns features"):
        set_up(*options, "--criterion", "multi_teacher")
    with pytest.raises(ConfigError, match="--teacher-codebooks has none of teacher 'fast'"):
        assemble(vary(plain, teacher_codebooks=f"slow={books['slow'][0]}"))
    swapped = f"slow={books['fast'][0]},fast={books['slow'][0]}"
    with pytest.raises(TeacherError, match="whose files differ from teacher"):
        assemble(vary(plain, teacher_codebooks=swapped))
