"""The lines of a transducer's card, run as they stand there; and graphs of students that no client takes."""

import re
import subprocess
import sys

import pytest
import soundfile
from checkpoints import save_untrained
from commands import TINY_ENCODER
from students import EXTRACTOR, STATELESS, TRANSFORMER
from task_setup import set_up
from test_transducer_folders import transcripts
from test_transducer_streams import STREAMS, streamed

from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions, first_difference
from colld_fairseq.export.folder import write_folder
from colld_fairseq.recogniser import load_recogniser


def printed(folder, waveform, tmp_path):
    """Output of the first Python lines of a card, in a folder with a copy of the files and speech.wav."""
    for path in folder.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    soundfile.write(tmp_path / "speech.wav", waveform, 16000, subtype="FLOAT")
    (lines,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    command = [sys.executable, "-c", lines]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=100).stdout


def test_the_lines_for_whole_utterances(exported, waveforms, tmp_path):
    folder = exported("stateless", "sherpa-onnx")
    (text,) = transcripts(folder.family.recogniser, waveforms[:1])
    assert len(text) > 3 and printed(folder, waveforms[0], tmp_path).strip().startswith(f"{text} [")


@pytest.mark.parametrize("shape", STREAMS)
def test_the_lines_for_streams(shape, exported, waveforms, tmp_path):
    folder = exported(shape, "sherpa-onnx", **STREAMS[shape])
    text = streamed(folder.family.recogniser, waveforms[0], STREAMS[shape])
    assert len(text) > 3 and printed(folder, waveforms[0], tmp_path).strip() == text


@pytest.mark.parametrize("front_end", [["--fbank", "kaldi"], [*EXTRACTOR, *TRANSFORMER, "--normalize-waveform"]])
def test_students_that_no_client_takes(front_end, corpus, vocab, waveforms, tmp_path):
    """50 Hz, Kaldi's filterbanks; waveforms. Several labels per frame, as trained."""
    task = [corpus, "--task", "multilingual_speech_to_text", "--vocab", vocab, "--criterion", "transducer"]
    run = set_up(*task, "--arch", "transducer_student", *TINY_ENCODER, *STATELESS, *front_end)
    recogniser = load_recogniser(str(save_untrained(run, tmp_path / "model.pt")), device="cpu")
    family = family_of(recogniser, ExportOptions("onnx"))
    folder = write_folder(tmp_path / "m", family, True, "torchscript")
    ((best,),) = recogniser.transcribe(waveforms[:1])
    frames = family.runtime_frames(folder, family.features(waveforms[0]))
    assert family.runtime(folder).greedy(frames) == best.tokens
    assert first_difference(family.stages(folder, waveforms[0])) is None
    assert f"range({recogniser.task.cfg.max_symbols})" in (folder.folder / "README.md").read_text(encoding="utf-8")
