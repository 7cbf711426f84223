"""pretrain_hubert.sh in miniature: its checkpoint is a teacher, code classes included, that a student starts from."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import REPOSITORY, environment, log_records

from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.teachers import load_teacher
from colld_fairseq.teachers.codes import load_codes

SMALL = [
    *["--conv-feature-layers", "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2", "--final-dim", "6"],
    *["--encoder-layers", "2", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "20", "--conv-pos", "8"],
    *["--encoder-attention-heads", "2", "--max-update", "2", "--min-sample-size", "1000", "--max-tokens", "100000"],
    *["--num-workers", "0", "--log-interval", "1"],
]


@pytest.mark.slow
def test_its_checkpoint_is_a_teacher(corpus, teacher, tmp_path):
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    run = subprocess.run(
        [
            *["bash", str(REPOSITORY / "examples/hubert_asr/pretrain_hubert.sh"), str(tmp_path)],
            *[str(corpus / "train.tsv"), str(corpus / "valid.tsv"), teacher, *SMALL],
        ],
        cwd=REPOSITORY,
        env=environment(PATH=path, LAYER="2", CLUSTERS="5"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert [record["num_updates"] for record in log_records(run.stdout, "train_inner")] == ["1", "2"]

    spec = f"fairseq:{tmp_path}/hubert/checkpoint_best.pt"
    config = read_encoder(spec).config
    assert (config.layers, config.embed_dim, config.conv_pos, config.conv_layers[0]) == (2, 16, 8, [8, 10, 5])
    codes = load_codes(spec)
    assert (codes.layer, codes.num_codes, codes.code_dim) == (2, 5 + 4, 6)  # fairseq's own four symbols too
    features = load_teacher(spec, layers=[2])(torch.randn(1, 8000), torch.tensor([8000])).features[2]
    logits = codes.logits(features, temp=0.1)
    assert logits.shape == (1, 24, 9) and logits.isfinite().all() and logits.abs().max() <= 10.001  # cosines / 0.1
