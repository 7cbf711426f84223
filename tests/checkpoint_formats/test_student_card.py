"""The card of a converted student: read by the hub's library, true, and marked where nothing is known."""

import json

import pytest
import torch
import transformers
import yaml
from checkpoints import save_untrained
from commands import TINY_ENCODER
from huggingface_hub import ModelCard
from task_setup import set_up

from colld_fairseq.cli import main as colld
from colld_fairseq.scoring.report import build_report
from colld_fairseq.scoring.sentences import Sentence

SMALL = ["--encoder-preset", "half_l2l", *TINY_ENCODER[:-2], "--conv-feature-layers", "[(8,10,5)]+[(8,8,8)]+[(8,8,8)]"]


@pytest.fixture(scope="module")
def distilled(corpus, teacher, tmp_path_factory):
    """Checkpoint of a student in HuBERT's shape."""
    arguments = [corpus, "--task", "speech_distillation", "--teacher", teacher, "--criterion", "colld"]
    run = set_up(*arguments, "--arch", "colld_student", "--layer-map", "2:4", *SMALL, "--lr", "0.003")
    return save_untrained(run, tmp_path_factory.mktemp("distilled") / "student.pt")


@pytest.fixture(scope="module")
def recognizer(corpus, tagged_vocab, distilled, tmp_path_factory):
    """Checkpoint of a CTC recognizer on that encoder."""
    arguments = [corpus, "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention"]
    run = set_up(*arguments, "--vocab", tagged_vocab, "--arch", "student_ctc", "--student", distilled)
    return save_untrained(run, tmp_path_factory.mktemp("recognizer") / "ctc.pt")


@pytest.fixture
def scores(tmp_path):
    pairs = [("ab cd", "ab cd", "xx"), ("ab", "ab cd", "xx"), ("аб", "аб", "yy")]
    report = build_report([Sentence(hypothesis, reference, lang, lang) for hypothesis, reference, lang in pairs])
    (tmp_path / "scores.json").write_text(json.dumps(report))
    return tmp_path / "scores.json"


def test_of_an_encoder(distilled, teacher, tmp_path):
    assert colld(["convert", "--from", f"colld:{distilled}", "--to", f"hf:{tmp_path}/student"]) == 0
    card = ModelCard.load(tmp_path / "student" / "README.md")
    fields = card.data.to_dict()
    assert (fields["library_name"], fields["pipeline_tag"]) == ("transformers", "feature-extraction")
    written = (tmp_path / "student" / "README.md").read_text()
    assert "# license: to be filled in" in written and "| objective | `colld` |" in written
    assert f"| teacher | `{teacher}` |" in card.text and "| learning rate | `[0.003]` |" in card.text
    model = transformers.AutoModel.from_pretrained(tmp_path / "student")
    parameters = sum(value.numel() for name, value in model.named_parameters() if name != "masked_spec_embed")
    assert f"| parameters | {parameters:,} |" in card.text
    code = card.text.partition("```python\n")[2].partition("```")[0].replace("DIRECTORY", f"{tmp_path}/student")
    names = {"waveform": torch.randn(4000).numpy()}
    exec(code, names)
    assert names["features"].shape[-1] == model.config.hidden_size


def test_of_a_recognizer(recognizer, tagged_vocab, scores, tmp_path):
    words = ["convert", "--from", f"colld:{recognizer}", "--to", f"hf:{tmp_path}/student", "--head"]
    assert colld([*words, "--scores", str(scores)]) == 0
    card = ModelCard.load(tmp_path / "student" / "README.md")
    languages = yaml.safe_load((tagged_vocab / "config.yaml").read_text())["languages"]
    assert languages and card.data.language == languages and card.data.pipeline_tag == "automatic-speech-recognition"
    assert "| objective | `ctc_attention` |" in card.text and "### The encoder" in card.text
    assert "| objective | `colld` |" in card.text  # of the checkpoint that it was started from
    assert "| xx | 2 | 25.00 |" in card.text and "| all | 3 | 20.00 |" in card.text
    assert "characters" in card.text and "trust_remote_code" not in card.text
    model = transformers.AutoModelForCTC.from_pretrained(tmp_path / "student")
    parameters = sum(value.numel() for name, value in model.named_parameters() if "masked_spec_embed" not in name)
    assert f"| parameters | {parameters:,} |" in card.text
    # written again, over what was there
    assert colld([*words, "--overwrite"]) == 0
    path = tmp_path / "student" / "README.md"
    again = path.read_text()
    assert "`colld score --json`" in again and "| all |" not in again
    path.write_text(again.replace("# license: to be filled in", "license: mit"))
    assert colld([*words, "--overwrite"]) == 2  # what somebody filled in is not lost
    assert "license: mit" in path.read_text()


def test_scores_that_are_none(recognizer, scores, tmp_path, capsys):
    def message(*more):
        assert colld(["convert", "--from", f"colld:{recognizer}", "--to", f"hf:{tmp_path}/x", *more]) == 2
        assert not (tmp_path / "x").exists()
        return capsys.readouterr().err

    assert "--scores are for the card of a recognizer" in message("--scores", str(scores))
    assert "no such file" in message("--head", "--scores", str(tmp_path / "none.json"))
    scores.write_text("[1, 2]")
    assert "not what `colld score --json` writes" in message("--head", "--scores", str(scores))
    scores.write_text("{")
    assert "not readable as JSON" in message("--head", "--scores", str(scores))
