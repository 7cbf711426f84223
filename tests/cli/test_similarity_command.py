"""`colld similarity` on tiny models, against features taken from them one utterance at a time."""

import csv

import numpy as np
import pytest
import torch

from colld_fairseq import load_student
from colld_fairseq.cli import main
from colld_fairseq.cli.similarity import plot
from colld_fairseq.cli.similarity.models import StudentLayers, TeacherLayers, paired_frames
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.fbank import GlobalCmvn
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import ColldError, TeacherError
from colld_fairseq.teachers import load_teacher

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def checkpoint(distillation, tmp_path):
    """checkpoint(options of the training) -> path of what fairseq would save."""
    from omegaconf import OmegaConf

    def save(*options, name="student.pt"):
        torch.manual_seed(7)
        run = distillation(*options)
        path = tmp_path / name
        cfg = OmegaConf.to_container(run.cfg, resolve=True, enum_to_str=True)
        torch.save({"cfg": cfg, "model": run.model.state_dict()}, path)
        return str(path)

    return save


@pytest.fixture
def compare(corpus, tmp_path, monkeypatch):
    """compare(arguments) -> {(row layer, column layer): row of the table, as numbers}; the picture is not drawn."""

    def run(*arguments, picture=False):
        if not picture:
            monkeypatch.setattr(plot, "png", lambda figure: PNG_MAGIC)
        out = tmp_path / "new" / "out"
        command = ["similarity", "--manifest", f"{corpus}/valid.tsv", "--out", str(out), "--device", "cpu"]
        assert main([*command, *map(str, arguments)]) == 0
        assert (tmp_path / "new" / "out.png").read_bytes().startswith(PNG_MAGIC)
        assert sorted(path.name for path in out.parent.iterdir()) == ["out.png", "out.tsv"]
        with open(f"{out}.tsv", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
        return {
            (int(row.pop("row_layer")), int(row.pop("column_layer"))): {
                name: value if name.endswith("model") else float(value) for name, value in row.items()
            }
            for row in rows
        }

    return run


def one_by_one(corpus, student_path, teacher_spec, layers):
    """Features of student and teacher layers, [frames of all utterances, D], from utterances that are never padded."""
    manifest = read_manifest(str(corpus / "valid.tsv"))
    student = load_student(student_path)
    prepare = StudentInput(student.config.input)
    teacher = load_teacher(teacher_spec, layers=[layers[1]])
    pairs = []
    for row in range(len(manifest)):
        waveform = torch.from_numpy(read_audio(manifest.audio_path(row)))
        with torch.no_grad():
            ours = student(torch.from_numpy(prepare(waveform.numpy()))[None], layers=[layers[0]])
        theirs = teacher(waveform[None], torch.tensor([len(waveform)]))
        x, y = ours.features[layers[0]][0], theirs.features[layers[1]][0]
        frames = min(len(x), len(y))
        pairs.append((x[:frames].numpy(), y[:frames].numpy()))
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*pairs)]


def linear_cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def test_student_and_teacher_over_a_manifest(checkpoint, teacher, compare, corpus, capsys):
    path = checkpoint()
    table = compare("--student", path, "--teacher", teacher, picture=True)
    assert sorted(table) == [(row, column) for row in range(3) for column in range(5)]
    for layers in ((0, 0), (2, 4)):
        x, y = one_by_one(corpus, path, teacher, layers)
        assert table[layers]["frames"] == len(x)
        assert table[layers]["cka"] == pytest.approx(linear_cka(x, y), abs=1e-4)
    assert (table[1, 1]["row_model"], table[1, 1]["column_model"]) == (path, teacher)
    printed = capsys.readouterr().out
    assert f"down: layers of student {path}" in printed and f"across: layers of teacher {teacher}" in printed
    for measure in ("cka", "cca"):
        assert f"{table[2, 4][measure]:.2f}" in printed


def test_the_same_model_twice(teacher, compare):
    table = compare("--teacher", teacher, teacher)
    for layer in range(5):
        assert table[layer, layer]["cka"] == pytest.approx(1.0, abs=1e-6)
        assert table[layer, layer]["cca"] == pytest.approx(1.0, abs=1e-6)
        assert table[layer, 1]["cka"] == pytest.approx(table[1, layer]["cka"], abs=1e-6)
    assert table[0, 4]["cka"] < 0.99


def test_batches_and_padding_do_not_matter(checkpoint, teacher, compare):
    models = ["--student", checkpoint(), "--teacher", teacher]
    alone = compare(*models, "--batch-seconds", "0.1")
    together = compare(*models, "--batch-seconds", "1000")
    for pair in alone:
        for measure in ("cka", "cca", "frames"):
            assert alone[pair][measure] == pytest.approx(together[pair][measure], abs=2e-4)


@pytest.mark.parametrize("order", ["slow student", "slow row"])
def test_frame_rates_are_aligned_by_averaging(order, checkpoint, corpus):
    slow, fast = (
        StudentLayers(checkpoint("--fbank-stack", stack, "--frame-rule", "average", name=f"{stack}.pt"), [1], "cpu")
        for stack in ("4", "2")
    )
    waveform = torch.from_numpy(read_audio(str(corpus / "valid-0.wav")))
    rows, columns = (slow, fast) if order == "slow student" else (fast, slow)
    x, y = paired_frames(rows, columns, ["valid-0"], [waveform])
    assert len(x) == len(y)
    features = dict(zip((rows, columns), (x, y)))
    torch.testing.assert_close(features[slow], slow([waveform]).layers[0, : len(x)])
    expected = fast([waveform]).layers[0, : 2 * len(x)].view(len(x), 2, -1).mean(1)
    torch.testing.assert_close(features[fast], expected, atol=1e-5, rtol=1e-5)


def test_rates_that_do_not_fit_name_the_faster_model_first(checkpoint, teacher, corpus):
    """The student has 100 / 3 frames per second, the teacher 50; the faster one is the one to be averaged."""
    student = StudentLayers(checkpoint("--fbank-stack", "3"), [1], "cpu")
    utterance = [torch.zeros(16000)]
    with pytest.raises(TeacherError, match="the teacher's 50 Hz are no whole multiple of the student's 33.3333 Hz"):
        paired_frames(student, TeacherLayers(teacher, [1], "cpu"), ["a"], utterance)
    student.frame_rate_hz = 75.0
    with pytest.raises(TeacherError, match="the student's 75 Hz are no whole multiple of the teacher's 50 Hz"):
        paired_frames(TeacherLayers(teacher, [1], "cpu"), student, ["a"], utterance)


def test_a_utterance_has_the_same_frames_in_any_company(checkpoint, teacher, corpus):
    rows, columns = StudentLayers(checkpoint(), None, "cpu"), TeacherLayers(teacher, None, "cpu")
    utterances = [
        torch.from_numpy(read_audio(str(corpus / f"valid-{i}.{end}"))) for i, end in ((0, "wav"), (1, "flac"))
    ]
    utterances[1] = utterances[1][:5000]
    together = paired_frames(rows, columns, ["a", "b"], utterances)
    alone = [paired_frames(rows, columns, ["a"], [utterance]) for utterance in utterances]
    for side in (0, 1):
        torch.testing.assert_close(together[side], torch.cat([pair[side] for pair in alone]), atol=1e-4, rtol=1e-4)


def test_layers_seconds_seed_and_variance(teacher, compare):
    models = ["--teacher", teacher, teacher, "--row-layers", "1", "--column-layers", "2,4"]
    whole = compare(*models, "--max-seconds", "0")
    assert sorted(whole) == [(1, 2), (1, 4)] and whole == compare(*models)
    some = compare(*models, "--max-seconds", "5")
    assert some[1, 2]["frames"] <= 250 < whole[1, 2]["frames"] and some == compare(*models, "--max-seconds", "5")
    other = compare(*models, "--max-seconds", "5", "--seed", "2")
    assert other[1, 2]["cka"] != some[1, 2]["cka"]
    half = compare(*models, "--cca-variance", "0.5")
    assert half[1, 2]["row_rank"] < whole[1, 2]["row_rank"] and half[1, 2]["cka"] == whole[1, 2]["cka"]


def test_the_students_normalization_is_that_of_its_training(checkpoint, teacher, compare, corpus, tmp_path, capsys):
    statistics = tmp_path / "stats.npz"
    GlobalCmvn(np.linspace(-3.0, 3.0, 80), np.linspace(0.5, 2.0, 80)).save(str(statistics))
    trained = checkpoint("--cmvn", statistics)
    models = ["--student", trained, "--teacher", teacher, "--row-layers", "2", "--column-layers", "4"]
    recorded = compare(*models)
    assert recorded == compare(*models, "--cmvn", statistics)
    statistics.unlink()
    assert recorded == compare(*models)
    models[1] = checkpoint()
    assert recorded[2, 4]["cka"] != compare(*models)[2, 4]["cka"]
    there = ["--manifest", f"{corpus}/valid.tsv", "--out", str(tmp_path / "x")]
    assert main(["similarity", *map(str, models), *there, "--cmvn", "none"]) == 2
    assert "--cmvn none asks for kaldi filterbanks as they are" in " ".join(capsys.readouterr().err.split())


def test_heat_maps_name_axes_layers_and_numbers():
    values = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.125, 0.75]])
    name = "runs/" + "a-long-way-to/" * 4 + "student.pt"
    figure = plot.heat_maps({"linear CKA": values, "CCA": values}, name, [0, 6], "hf:teacher", [0, 3, 12])
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["linear CKA", "CCA"]
    assert len(figure.axes) == 4  # each with a color bar
    for axes in panels:
        assert axes.get_xlabel() == "layer of hf:teacher"
        assert axes.get_ylabel().endswith("student.pt") and len(axes.get_ylabel()) <= 60
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "3", "12"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "6"]
        cells = {text.get_position(): text.get_text() for text in axes.texts}
        assert cells == {(j, i): f"{values[i, j]:.2f}" for i in range(2) for j in range(3)}
        assert axes.images[0].get_clim() == (0.0, 1.0)
    wide = plot.heat_maps({"CKA": torch.zeros(13, 25)}, "a", range(13), "b", range(25))
    assert wide.get_figwidth() > 11 and wide.get_figheight() > 5.5  # a number has room in its cell


def test_bad_utterances_are_left_out_or_fatal(teacher, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plot, "png", lambda figure: PNG_MAGIC)
    manifest = read_manifest(str(corpus / "valid.tsv"))
    good = [f"{manifest.audio_path(row)}\t{manifest.n_samples[row]}" for row in range(len(manifest))]
    (tmp_path / "list.tsv").write_text("\n".join(["/", *good, f"{tmp_path}/none.wav\t16000"]) + "\n")
    command = f"similarity --manifest {tmp_path}/list.tsv --teacher {teacher} {teacher} --out {tmp_path}/o".split()
    assert main([*command, "--row-layers", "1", "--column-layers", "1"]) == 0
    assert "1 of 11 utterances cannot be used, left out" in capsys.readouterr().out
    (tmp_path / "all.tsv").write_text(f"{tmp_path}\nnone.wav\t16000\n")
    assert main([*command[:2], f"{tmp_path}/all.tsv", *command[3:]]) == 2
    assert "not one utterance that both models can use" in capsys.readouterr().err


def test_too_little_audio(teacher, corpus, tmp_path, capsys):
    manifest = read_manifest(str(corpus / "valid.tsv"))
    shortest = int(np.argmin(manifest.n_samples))
    (tmp_path / "list.tsv").write_text(f"/\n{manifest.audio_path(shortest)}\t{manifest.n_samples[shortest]}\n")
    command = f"similarity --manifest {tmp_path}/list.tsv --teacher {teacher} {teacher} --out {tmp_path}/o".split()
    assert main([*command, "--cca-variance", "1"]) == 2
    assert "frames are too few for layers of" in (error := capsys.readouterr().err) and "--max-seconds" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--teacher", "TEACHER"], "give two models"),
        (["--teacher", "TEACHER", "TEACHER", "TEACHER"], "give two models"),
        (["--teacher", "TEACHER", "TEACHER", "--row-layers", "9"], "layer 9 does not exist"),
        (["--teacher", "TEACHER", "TEACHER", "--column-layers", "1,x"], "--column-layers: 'x' is not a whole number"),
        (
            ["--teacher", "TEACHER", "TEACHER", "--cca-variance", "1.5"],
            "--cca-variance: '1.5' is not a finite number",
        ),
        (["--student", "none.pt", "--teacher", "TEACHER"], "none.pt: no such file"),
    ],
)
def test_errors_name_what_to_give(arguments, message, teacher, corpus, tmp_path, capsys):
    given = [teacher if argument == "TEACHER" else argument for argument in arguments]
    assert main(["similarity", "--manifest", f"{corpus}/valid.tsv", "--out", str(tmp_path / "o"), *given]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("o.*"))


def test_a_student_layer_that_does_not_exist(checkpoint):
    with pytest.raises(ColldError, match="student.pt: layer 3 does not exist; there are 0 to 2"):
        StudentLayers(checkpoint(), [1, 3], "cpu")


def test_fine_tuned_and_waveform_students(checkpoint, finetuning, compare, tmp_path):
    """Any stage of training, any front-end; the encoder of a fine-tuned model is that of its checkpoint."""
    from omegaconf import OmegaConf

    run = finetuning()
    path = tmp_path / "finetuned.pt"
    cfg = OmegaConf.to_container(run.cfg, resolve=True, enum_to_str=True)
    torch.save({"cfg": cfg, "model": run.model.state_dict()}, path)
    normalized = checkpoint("--front-end", "waveform", "--normalize-waveform")
    table = compare("--student", path, normalized, "--row-layers", "2", "--column-layers", "0,1")
    assert sorted(table) == [(2, 0), (2, 1)]
    assert all(0.0 < row["cka"] < 1.0 and 0.0 < row["cca"] <= 1.0 for row in table.values())
