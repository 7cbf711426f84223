"""Distillation of transducers: node by node against the two models run on single pairs, and what the teacher may be."""

import json
import math
from pathlib import Path

import pytest
import torch
from checkpoints import enlarged, save_untrained
from commands import TINY_ENCODER
from task_setup import assemble, configure, vary

from colld_fairseq.errors import ConfigError, ManifestError

BASE = [
    *["--task", "multilingual_speech_to_text", "--arch", "transducer_student", "--criterion", "transducer"],
    *["--predictor-embed-dim", "16", "--joiner-dim", "24", "--predictor-dropout", "0", "--front-end", "conv2d"],
    *TINY_ENCODER,
]
KINDS = ["one_best", "three_class", "lattice"]
PRUNED = {"prune_range": 4}


@pytest.fixture(scope="module")
def base(corpus, vocab):
    return configure(corpus, *BASE, "--vocab", vocab)


@pytest.fixture
def build(base):
    """A student and a batch of training utterances; `nbest` stands for the n-best lists of the training rows."""

    def make(nbest=None, **options):
        torch.manual_seed(6)
        run = assemble(vary(base, **{name: str(v) if isinstance(v, Path) else v for name, v in options.items()}))
        if nbest is not None:
            run.task.nbest_of = lambda rows: nbest
        run.task.load_dataset("train")
        dataset = run.task.dataset("train")
        run.batch = dataset.collater([dataset[index] for index in range(3)])
        return run

    return make


@pytest.fixture(scope="module")
def teacher(base, tmp_path_factory):
    """Path of an untrained transducer; each made once."""
    folder, made = tmp_path_factory.mktemp("teachers"), {}

    def make(**options):
        key = str(options)
        if key not in made:
            torch.manual_seed(1)
            run = assemble(vary(base, **{"predictor": "stateless", "joiner_dim": 20, **options}))
            made[key] = save_untrained(run, folder / f"{len(made)}.pt")
        return made[key]

    return make


class List:
    """Stands for NBestTargets: row 1 has two hypotheses."""

    HYPOTHESES = {1: [("abc", 0.7), ("ad", 0.3)]}

    def of(self, index):
        return self.HYPOTHESES.get(index, [])

    def __len__(self):
        return 2


def distributions(network, source, lengths, labels, utterances):
    """[M][T][U+1] log-probabilities [V], every pair joined alone, symbols read one by one."""
    frames, lengths = network.encode_for_search(source, lengths)
    tables = []
    for text, utterance in zip(labels, utterances):
        symbols = [network.start(1)]
        for label in text:
            symbols.append(network.extend(torch.tensor([label]), symbols[-1][1]))
        rows = [
            [network.join(frames[utterance, t], s[0]).double() for s, _ in symbols] for t in range(lengths[utterance])
        ]
        tables.append(rows)
    return tables


def kl(teacher, student, temperature=1.0):
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return float((p * (p.log() - q.log())).sum())


def three(logits, label):
    p = logits.softmax(-1)
    return torch.stack([p[0], p[label], p.sum() - p[0] - p[label]]).log()


def expected_losses(kind, teacher, student, targets, cells, shift=0, window=1, temperature=1.0):
    """KL sums and node counts of each target, by walking its teacher's and student's tables."""
    sums, counts = [], []
    for m, (text, known, mine) in enumerate(zip(targets, teacher, student)):
        total, count = 0.0, 0
        if kind == "one_best":
            t = u = 0
            while t < len(known):
                tries = range(t + shift - window + 1, t + shift + 1)
                values = [kl(known[t][u], mine[s][u], temperature) for s in tries if 0 <= s < len(mine)]
                if values:
                    total, count = total + min(values), count + 1
                if u < len(text) and int(known[t][u].argmax()) != 0:
                    u += 1
                else:
                    t += 1
        else:
            for t in range(min(len(mine), len(known) + shift) - shift):
                for u in range(len(text) + 1):
                    if not cells(m, t + shift, u) or (kind == "three_class" and u == len(text)):
                        continue
                    pair = known[t][u], mine[t + shift][u]
                    pair = pair if kind == "lattice" else [three(logits, text[u]) for logits in pair]
                    total, count = total + kl(*pair, temperature), count + 1
        sums.append(total)
        counts.append(count)
    return sums, counts


CASES = [
    *[(kind, {}, {}, None) for kind in KINDS],
    *[(kind, {"shift": 2}, PRUNED, List()) for kind in KINDS],
    ("one_best", {"temperature": 2.0, "shift": 1, "window": 3}, {}, List()),
    ("lattice", {"temperature": 0.5}, PRUNED, None),
]


@pytest.mark.parametrize("kind, options, pruned, nbest", CASES)
def test_node_by_node(kind, options, pruned, nbest, build, teacher):
    named = {f"kd_{name}": value for name, value in options.items()}
    run = build(nbest, kd=kind, teacher_transducer=teacher(), **named, **pruned)
    model = run.model.eval()
    torch.manual_seed(5)
    model.load_state_dict({name: enlarged(value) for name, value in model.state_dict().items()})
    loss, _, log = run.criterion(model, run.batch)
    loss.backward()
    source = run.batch.get("nbest", run.batch)
    sizes, utterances = source["target_lengths"] - 1, source.get("utterances", torch.arange(3)).tolist()
    targets = [row[:size].tolist() for row, size in zip(source["target"], sizes)]
    inputs = run.batch["net_input"]["src_tokens"], run.batch["net_input"]["src_lengths"]
    with torch.no_grad():
        mine = distributions(model, *inputs, targets, utterances)
        known = distributions(run.task.teacher_transducer.network, *inputs, targets, utterances)
    ranges = chosen_ranges(run) if pruned else None

    def in_range(m, t, u):
        return not pruned or u in ranges[m, t].tolist()

    sums, counts = expected_losses(kind, known, mine, targets, in_range, **options)
    weights = source["weights"].tolist() if nbest else [1.0] * 3
    assert float(log["kd_nodes"]) == pytest.approx(sum(w * n for w, n in zip(weights, counts)), rel=1e-5)
    assert float(log["kd_loss"]) == pytest.approx(sum(w * s for w, s in zip(weights, sums)), rel=2e-4)
    assert len(targets) == (4 if nbest else 3) and sum(counts) > 0


def chosen_ranges(run):
    """The symbols at every frame that the student's simple joiner chooses."""
    seen = []
    pruned_range = run.criterion.pruned_range

    def spy(model, sequences):
        chooser = pruned_range(model, sequences)

        def choose(*arguments):
            seen.append(chooser(*arguments))
            choose.simple = chooser.simple
            return seen[-1]

        return choose

    run.criterion.pruned_range = spy
    run.criterion(run.model, run.batch)
    return seen[0]


ONESELF = [*[(kind, {}) for kind in KINDS], *[(kind, PRUNED) for kind in KINDS]]
ONESELF += [("one_best", {"topology": "modified"}), ("one_best", {"vocab": "tags"}), ("lattice", {"vocab": "tags"})]


@pytest.mark.parametrize("kind, options", ONESELF)
def test_nothing_to_learn_from_oneself(kind, options, build, teacher, tagged_vocab):
    """The loss is 0, and its gradient, where the student is its teacher; then the total is that of the text."""
    if "vocab" in options:
        options = {"vocab": str(tagged_vocab)}
    path = teacher(predictor="lstm", joiner_dim=24, **options)
    run = build(kd=kind, teacher_transducer=path, **options)
    assert run.task.teacher_transducer.network.topology == options.get("topology", "regular")
    run.model.load_state_dict(torch.load(path, weights_only=True)["model"])
    loss, tokens, log = run.criterion(run.model, run.batch)
    assert float(log["kd_loss"]) == pytest.approx(0.0, abs=0.05) and float(log["kd_nodes"]) > 0
    loss.backward()
    plain = build(**options)
    plain.model.load_state_dict(run.model.state_dict())
    expected, same, _ = plain.criterion(plain.model, plain.batch)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-3) and tokens == same
    for (name, own), wanted in zip(run.model.named_parameters(), plain.model.parameters()):
        if wanted.grad is not None:
            assert torch.allclose(own.grad, wanted.grad, atol=2e-3 * float(wanted.grad.abs().max()) + 1e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_student_comes_nearer_to_its_teacher(kind, build, teacher):
    run = build(List(), kd=kind, teacher_transducer=teacher(), kd_weight=100.0, kd_mean="node")
    optimizer, losses = torch.optim.Adam(run.model.parameters(), lr=0.01), []
    for _ in range(12):
        loss, tokens, log = run.criterion(run.model, run.batch)
        losses.append(float(log["kd_loss"]))
        optimizer.zero_grad()
        (loss / tokens).backward()
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0], losses


def test_weight_and_mean(build, teacher):
    """loss = text + weight * (sum, or mean over nodes times tokens)."""
    path, text = teacher(), build()
    run = build(kd="one_best", teacher_transducer=path, kd_weight=0.3)
    mean = build(kd="one_best", teacher_transducer=path, kd_weight=0.3, kd_mean="node")
    for other in (run, mean):
        other.model.load_state_dict(text.model.state_dict())
    (base, tokens, _), (loss, _, log), (per_node, *_) = (r.criterion(r.model, r.batch) for r in (text, run, mean))
    kd, nodes = float(log["kd_loss"]), float(log["kd_nodes"])
    assert float(loss) == pytest.approx(float(base) + 0.3 * kd, rel=1e-5)
    assert float(per_node) == pytest.approx(float(base) + 0.3 * kd / nodes * tokens, rel=1e-5)


def test_weights_of_an_nbest_list(build):
    """The transducer loss too is the weighted sum over hypotheses; tokens are those of the manifest's targets."""
    run, plain = build(List()), build()
    plain.model.load_state_dict(run.model.state_dict())
    loss, tokens, _ = run.criterion(run.model, run.batch)
    batch, total = plain.batch, 0.0
    assert tokens == plain.criterion(plain.model, batch)[1]
    for row in range(3):
        own = [("", 1.0)] if row != 1 else List.HYPOTHESES[1]
        for text, weight in own:
            target = batch["target"][row, : batch["target_lengths"][row]]
            if text:
                target = plain.task.vocabulary.encode(text, append_eos=True)
            alone = dict(batch, target=target[None], target_lengths=torch.tensor([len(target)]), utt_id=["x"])
            inputs = {name: value[row : row + 1] for name, value in batch["net_input"].items()}
            alone["net_input"] = dict(inputs, prev_output_tokens=torch.cat((target[-1:], target[:-1]))[None])
            total += weight * float(plain.criterion(plain.model, alone)[0])
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_teacher_stays_out_of_the_student(build, teacher):
    run = build(kd="lattice", teacher_transducer=teacher())
    network = run.task.teacher_transducer.network
    run.model.train()
    run.criterion.train()
    run.criterion(run.model, run.batch)[0].backward()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())
    inside = {id(parameter) for module in (run.model, run.criterion) for parameter in module.parameters()}
    assert not inside & {id(parameter) for parameter in network.parameters()}
    record = run.task.state_dict()
    assert record["teacher_transducer"] == str(teacher()) and len(record["teacher_transducer_hash"]) == 64


def test_teacher_is_given_clean_audio_of_its_own_kind(build, teacher):
    """No SpecAugment, its own normalization, and nothing that half-precision training would round."""
    for more in ({}, {"cmvn": "none"}):
        masked = build(kd="one_best", teacher_transducer=teacher(**more), specaug_freq_masks=2, specaug_time_masks=2)
        clean = build(**more)
        given = masked.batch["teacher_input"]
        assert given["src_tokens"].dtype == torch.float64
        assert torch.equal(given["src_tokens"].float(), clean.batch["net_input"]["src_tokens"])
        assert torch.equal(given["src_lengths"], clean.batch["net_input"]["src_lengths"])
        assert not torch.equal(given["src_tokens"].float(), masked.batch["net_input"]["src_tokens"])
        same = masked.task.teacher_transducer.student_input == masked.task.student_input
        assert same == (not more)


def test_utterances_without_frames(build, teacher):
    for kind in KINDS:
        for pruned in ({}, PRUNED):
            run = build(kd=kind, teacher_transducer=teacher(), **pruned)
            run.batch["net_input"]["src_lengths"][1] = run.batch["teacher_input"]["src_lengths"][1] = 2
            loss, _, log = run.criterion(run.model, run.batch)
            loss.backward()
            assert log["no_path"] == 1 and math.isfinite(float(loss)) and float(log["kd_nodes"]) > 0
            assert all(torch.isfinite(p.grad).all() for p in run.model.parameters() if p.grad is not None)


WRONG = {
    "--kd needs": dict(kd="one_best"),
    "nowhere.pt": dict(kd="one_best", teacher_transducer="nowhere.pt"),
    "three classes": dict(kd="three_class", kd_temperature=2.0),
    "--kd-window": dict(kd="lattice", kd_window=3),
    "at least": dict(kd="one_best", kd_shift=-1),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_options(message, build):
    with pytest.raises(ConfigError, match=message):
        build(**WRONG[message])


def test_options_without_effect_are_told(build, caplog):
    build(kd_weight=2.0, kd_shift=3, ctc_kd_delay=2)
    assert "--kd-weight, --kd-shift: without effect, as --kd is none" in caplog.text
    assert "--ctc-kd-delay: without effect, as --ctc-kd is none" in caplog.text
    caplog.clear()
    build()
    assert "without effect" not in caplog.text


def test_wrong_teachers(build, teacher, tagged_vocab, finetuning, tmp_path):
    """Another vocabulary; no transducer; another frame rate."""
    ctc = save_untrained(finetuning(), tmp_path / "ctc.pt")
    for path, message in ((teacher(vocab=str(tagged_vocab)), "one vocabulary"), (ctc, "no transducer")):
        with pytest.raises(ConfigError, match=message):
            build(kd="one_best", teacher_transducer=path)
    run = build(kd="one_best", teacher_transducer=teacher(front_end="fbank_stack"))  # 50 Hz, the student has 25
    with pytest.raises(ConfigError, match="train-[0-9].*frame rate"):
        run.criterion(run.model, run.batch)


def test_lists_beside_the_manifest(base, corpus, tmp_path):
    """Weights are the softmax of the best scores; a row without a list keeps its text; validation has none."""
    for split in ("train", "valid"):
        (tmp_path / f"{split}.tsv").write_text((corpus / f"{split}.tsv").read_text())
    scores = {"a": -3.0, "ab": -1.0, "": -1.5}
    entry = {"id": "train-0", "hypotheses": [{"text": t, "score": s} for t, s in scores.items()]}
    (tmp_path / "train.hypotheses.jsonl").write_text(json.dumps(entry) + "\n")

    def load(count, *splits):
        run = assemble(vary(base, data=str(tmp_path), audio_root=str(corpus), nbest_targets=count))
        for split in splits:
            run.task.load_dataset(split)
        return run.task

    task = load(2, "train", "valid")
    dataset = task.dataset("train")
    batch = dataset.collater([dataset[1], dataset[0]])["nbest"]
    assert batch["utterances"].tolist() == [0, 1, 1]
    higher = 1 / (1 + math.exp(-0.5))
    assert batch["weights"].tolist() == pytest.approx([1.0, higher, 1 - higher])
    targets = [row[:size] for row, size in zip(batch["target"], batch["target_lengths"])]
    wanted = [task.encode_target(dataset.rows.row(1)), *(task.vocabulary.encode(t, True) for t in ("ab", ""))]
    assert all(torch.equal(own, expected) for own, expected in zip(targets, wanted))
    assert "nbest" not in task.dataset("valid").collater([task.dataset("valid")[0]])
    assert "nbest" not in load(1, "train").dataset("train").collater([dataset[1]])
    (tmp_path / "train.hypotheses.jsonl").write_text(json.dumps({**entry, "id": "other"}) + "\n")
    with pytest.raises(ManifestError, match="none of its 1 ids .*'other'.* is one of .*train.tsv .*'train-0'"):
        load(2, "train")
    (tmp_path / "train.hypotheses.jsonl").unlink()
    with pytest.raises(ConfigError, match="colld transcribe --nbest"):
        load(2, "train")
