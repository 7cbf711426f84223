"""Training and decoding on data directories of fairseq's own scripts, by the commands of docs/fairseq_data.md."""

import re
import shlex

import fairseq_layouts
import pytest
from commands import PACKAGE, REPOSITORY, TINY_ENCODER, TRAINING, call, losses

PAGE = (REPOSITORY / "docs" / "fairseq_data.md").read_text()
NAMES = {"train_st": "train", "dev_st": "dev", "tst-COMMON_st": "dev", "config_st.yaml": "config.yaml"}
TINY_DECODER = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "48"]


def command(program, folder, save_dir):
    """The page's command on a folder of data and one of checkpoints."""
    (text,) = re.findall(rf"^{program} (.*?[^\\])$", PAGE.split("```bash\n")[1], re.DOTALL | re.MULTILINE)
    words = [NAMES.get(word, word) for word in shlex.split(text.replace("\\\n", " "))]
    places = {"data": folder, "colld_fairseq": PACKAGE, "runs/st": save_dir}
    places["runs/st/checkpoint_best.pt"] = save_dir / "checkpoint_last.pt"
    return [places.get(word, word) for word in words]


def without(words, option):
    index = words.index(option)
    return words[:index] + words[index + 2 :]


def hypotheses(output):
    return dict(re.findall(r"^D-(\d+)\t[^\t]+\t(.*)$", output, re.MULTILINE))


@pytest.mark.parametrize("arch, more", [("student_s2t", TINY_DECODER), ("student_ctc", [])])
def test_train_and_decode(arch, more, fairseq_data, tmp_path):
    train = without(command("fairseq-train", fairseq_data, tmp_path), "--student")
    output = call(
        "train", *train, *TRAINING, "--warmup-updates", "1", "--arch", arch, *TINY_ENCODER, *more, "--max-update", "3"
    )
    assert len(losses(output)) == 3 and "done training" in output and "skipping unreadable" not in output
    decode = command("fairseq-generate", fairseq_data, tmp_path)[:-2]
    output = call("generate", *decode)
    assert set(hypotheses(output)) == {str(index) for index in range(10)}
    targets = re.findall(r"^T-(\d+)\t(.*)$", output, re.MULTILINE)
    rows = (fairseq_data / "dev.tsv").read_text().splitlines()[1:]
    assert all(text == rows[int(index)].split("\t")[3] for index, text in targets) and len(targets) == 10
    alone = call("generate", *decode, "--batch-size", "1")
    assert hypotheses(alone) == hypotheses(output)


def test_letters_of_wav2vec_manifests(tmp_path):
    fairseq_layouts.write_letters(tmp_path, 6)
    fairseq_layouts.write_letters(tmp_path / "more", 4, "valid")
    for suffix in ("tsv", "ltr"):
        (tmp_path / "more" / f"valid.{suffix}").rename(tmp_path / f"valid.{suffix}")
    task = [tmp_path, "--user-dir", PACKAGE, "--task", "multilingual_speech_to_text"]
    model = ["--arch", "student_ctc", "--criterion", "ctc_attention", *TINY_ENCODER]
    output = call("train", *task, *model, *TRAINING, "--max-update", "2", "--save-dir", tmp_path)
    assert len(losses(output)) == 2 and '"valid_wer"' in output
    output = call("generate", *task, "--gen-subset", "valid", "--path", tmp_path / "checkpoint_last.pt")
    assert len(hypotheses(output)) == 4
