"""What was prepared trains and decodes as it is: every miniature, with the vocabulary that was made along with it."""

import re

import pytest
from commands import PACKAGE, TINY_ENCODER, TRAINING, call
from miniatures import MINIATURES

from colld_fairseq.cli import main as colld
from colld_fairseq.data.manifest import read_manifest

DECODER = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "48"]
TASK = ["--user-dir", PACKAGE, "--task", "multilingual_speech_to_text"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIATURES)
def test_trains_and_decodes(name, tmp_path):
    layout, make = MINIATURES[name]
    miniature, data = make(tmp_path / "corpus"), tmp_path / "data"
    words = ["prepare", layout, str(miniature.folder), "--out", str(data), "--max-bad", "1", "--vocab-kind", "char"]
    assert colld([*words, *miniature.options]) == 0
    split = next(manifest.removesuffix(".tsv") for manifest in miniature.rows if manifest.startswith("train"))
    subsets = ["--train-subset", split, "--valid-subset", split]
    call(
        *("train", data, *TASK, *subsets, "--arch", "student_s2t", *TINY_ENCODER, *DECODER, "--max-update", "1"),
        *("--criterion", "ctc_attention", *TRAINING[2:], "--disable-validation", "--save-dir", tmp_path / "saved"),
    )
    model = ["--path", tmp_path / "saved/checkpoint_last.pt", "--gen-subset", split, "--max-tokens", "60000"]
    output = call("generate", data, *TASK, *model, "--beam", "1", "--max-len-a", "0", "--max-len-b", "3")
    rows = len(read_manifest(str(data / f"{split}.tsv")))
    assert sorted(map(int, re.findall(r"^D-(\d+)\t", output, re.MULTILINE))) == list(range(rows))
