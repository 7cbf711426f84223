"""The web page of examples/device: its filterbanks beside ours in node, its text beside ours in Chromium."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import soundfile
from commands import REPOSITORY

from colld_fairseq.data.fbank import VARIANTS, fbank_length, log_mel_fbank
from examples.device.make_page import MODEL_FILES, RUNTIME_FILES

DEVICE = REPOSITORY / "examples" / "device"
NODE, CHROMIUM = shutil.which("node"), shutil.which(os.environ.get("CHROMIUM", "chromium"))
ORT_WEB = os.environ.get("ONNXRUNTIME_WEB")  # folder of the npm package onnxruntime-web


def written(path, waveform):
    """As a WAV file of 16 bits; returns what those bits say."""
    soundfile.write(path, waveform, 16000, subtype="PCM_16")
    return soundfile.read(path, dtype="float32")[0]


def make_page(*arguments):
    command = [sys.executable, "-m", "examples.device.make_page", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.fixture
def runtime(tmp_path):
    """A folder like that of onnxruntime-web, with nothing in its files."""
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in RUNTIME_FILES:
        (folder / "dist" / name).touch()
    return folder


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("variant", VARIANTS)
def test_filterbanks_of_the_page(variant, waveforms, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    for waveform in (waveforms[0], noise, np.zeros(3000), noise[:400], noise[:399], noise[:90], noise[:0]):
        samples = written(tmp_path / "a.wav", waveform)
        command = [NODE, str(DEVICE / "fbank_of_wav.mjs"), str(tmp_path / "a.wav"), variant]
        theirs = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert theirs["frames"] == fbank_length(len(samples), variant)
        features = np.array(theirs["data"]).reshape(theirs["frames"], theirs["bins"])
        np.testing.assert_allclose(features, log_mel_fbank(samples, variant=variant), atol=1e-3)


def test_the_page_knows_the_same_kinds_of_filterbanks():
    source = (DEVICE / "web" / "fbank.js").read_text()
    kinds = re.findall(r"(\w+): \{ scale: (\d+), highHz: (\d+), snipEdges: (\w+) \}", source)
    theirs = {name: (float(scale), float(high), edges == "true") for name, scale, high, edges in kinds}
    expected = {
        name: (own.scale, own.high_freq + 8000 * (own.high_freq <= 0), own.snip_edges) for name, own in VARIANTS.items()
    }
    assert theirs == expected


def test_the_page_gives_the_graph_what_it_takes(exported):
    graph = onnx.load(exported("conformer", "sherpa-onnx").graph("model")).graph
    source = (DEVICE / "web" / "recognizer.js").read_text()
    given = re.findall(r"(\w+): new ort.Tensor", source)
    read = re.findall(r"output\.(\w+)\.", source)
    assert given == [value.name for value in graph.input]
    assert set(read) == {value.name for value in graph.output}


def test_the_folder_of_the_page_is_complete(exported, runtime, tmp_path):
    site = tmp_path / "site"
    done = make_page(site, "--model", exported("conformer", "sherpa-onnx").tokens.parent, "--runtime", runtime)
    assert done.returncode == 0, done.stderr
    assert {*MODEL_FILES, "model.int8.onnx", "input.json"} == {path.name for path in (site / "model").iterdir()}
    loaded = re.findall(r'(?:src|from)=? ?"\.?/?([\w/.-]+)"', (site / "index.html").read_text())
    loaded += [name for path in site.glob("*.js") for name in re.findall(r'from "\./([^"]+)"', path.read_text())]
    assert len(loaded) >= 6 and all((site / name).is_file() for name in loaded)


@pytest.mark.parametrize("shape, fbank", [("conformer", "kaldi"), ("icefall", "icefall")])
def test_the_page_is_told_its_filterbanks(shape, fbank, exported, runtime, tmp_path):
    done = make_page(tmp_path, "--model", exported(shape, "onnx").tokens.parent, "--runtime", runtime)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "model" / "input.json").read_text()) == {"fbank": fbank, "bins": 80}


@pytest.mark.parametrize("shape, message", [("hubert", "reads waveform, lengths; the page gives filterbanks")])
def test_students_that_the_page_cannot_run_are_refused(shape, message, exported, runtime, tmp_path):
    folder = exported(shape, "onnx").tokens.parent
    done = make_page(tmp_path / "site", "--model", folder, "--runtime", runtime)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "site").exists()


def test_what_is_missing_is_named(exported, runtime, tmp_path):
    (runtime / "dist" / RUNTIME_FILES[1]).unlink()
    done = make_page(tmp_path / "site", "--model", exported("conformer", "onnx").tokens.parent, "--runtime", runtime)
    assert done.returncode == 2 and RUNTIME_FILES[1] in done.stderr and not (tmp_path / "site").exists()


@pytest.mark.skipif(
    not (NODE and CHROMIUM and ORT_WEB), reason="needs node, chromium, and onnxruntime-web in $ONNXRUNTIME_WEB"
)
@pytest.mark.parametrize("graph", ["model.onnx", "model.int8.onnx"])
def test_text_of_the_page(graph, recogniser, exported, waveforms, tmp_path):
    ours, folder = recogniser("conformer"), exported("conformer", "sherpa-onnx").tokens.parent
    site = tmp_path / "site"
    assert make_page(site, "--model", folder, "--runtime", ORT_WEB).returncode == 0
    samples = written(site / "speech.wav", max(waveforms, key=len))
    command = [NODE, str(DEVICE / "try_page.mjs"), str(site), f"index.html?wav=speech.wav&model={graph}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ((own,),) = ours.transcribe([samples])
    assert len(own.text) > 3
    if graph == "model.onnx":
        assert done.stdout.strip() == own.text
    else:  # 8 bits may differ from 32; they write something
        assert done.stdout.strip()


@pytest.mark.skipif(not (NODE and CHROMIUM), reason="needs node and chromium")
def test_a_page_without_its_model_says_so(exported, runtime, tmp_path):
    site = tmp_path / "site"
    assert make_page(site, "--model", exported("conformer", "onnx").tokens.parent, "--runtime", runtime).returncode == 0
    shutil.rmtree(site / "model")
    (site / "runtime" / RUNTIME_FILES[0]).write_text("export const env = { wasm: {} };\n")
    command = [NODE, str(DEVICE / "try_page.mjs"), str(site), "index.html?wav=speech.wav"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "model/tokens.txt: 404" in done.stderr
