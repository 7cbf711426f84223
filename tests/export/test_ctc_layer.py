"""The CTC layer of a joint model on its way to a device and back."""

import pytest
import soundfile
import torch
from students import DECODER, ICEFALL, MODIFIED, STATELESS, train

from colld_fairseq.cli import main
from colld_fairseq.models.student_ctc import StudentCtc
from colld_fairseq.recogniser import load_recogniser

JOINT = {
    "student_s2t": [*DECODER, "--decoder-attention-heads", "2", "--ctc-weight", "0.5"],
    "transducer_student": [*STATELESS, *ICEFALL, *MODIFIED, "--auxiliary-ctc", "--ctc-weight", "0.5"],
}


def log_probs(recogniser, waveform):
    source = torch.from_numpy(recogniser.input(waveform))[None]
    with torch.no_grad():
        return recogniser.models[0].get_ctc_log_probs(source, torch.tensor([source.size(1)]))[0]


@pytest.mark.parametrize("arch", JOINT)
def test_there_and_back(arch, corpus, vocab, waveforms, tmp_path, capsys):
    joint = train(tmp_path / "joint.pt", corpus, vocab, *JOINT[arch], "--front-end", "conv2d", arch=arch, updates=40)
    soundfile.write(tmp_path / "a.wav", waveforms[0], 16000)
    words = ["export", "--checkpoint", joint, "--to", "sherpa-onnx", str(tmp_path / "ctc"), "--decoder", "ctc"]
    assert main([*words, "--wav", str(tmp_path / "a.wav"), "--exporter", "torchscript"]) == 0, capsys.readouterr()
    assert main(["import", f"onnx:{tmp_path / 'ctc'}", "--out", str(tmp_path / "alone.pt")]) == 0
    before, after = (load_recogniser(path, device="cpu", decoder="ctc") for path in (joint, str(tmp_path / "alone.pt")))
    assert type(after.models[0]) is StudentCtc and type(before.models[0]) is not StudentCtc
    for waveform in waveforms[:3]:
        torch.testing.assert_close(log_probs(after, waveform), log_probs(before, waveform), atol=1e-5, rtol=0)
    written = [[best.text for (best,) in one.transcribe(waveforms)] for one in (before, after)]
    assert written[0] == written[1] and any(written[0])


def test_a_client_without_the_decoder_says_what_it_can_take(exported, checkpoint, tmp_path, capsys):
    words = ["export", "--checkpoint", checkpoint("attention"), "--to", "sherpa-onnx", str(tmp_path / "folder")]
    assert main(words) == 2
    assert "--to onnx, or --decoder ctc for its CTC layer" in capsys.readouterr().err
