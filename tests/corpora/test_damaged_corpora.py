"""Corpora that were damaged at random: prepared or refused in one message, never a fault of the program."""

import json
import random

import pytest
from miniatures import MINIATURES

from colld_fairseq.cli import main as colld

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")
INSERTED = (b"\x00", b"\xff", b"\t", b"\n", b"\r", b'"', b",", b"/", b"[", b"{", b" ", b"-1", b"1e999", b"9" * 400)


def damage(content, generator):
    """One of: bytes inserted, cut out, repeated, or the end cut off."""
    start = generator.randrange(len(content))
    end = min(len(content), start + generator.randrange(1, 12))
    kinds = [
        content[:start] + generator.choice(INSERTED) + content[start:],
        content[:start] + content[end:],
        content[:end] + content[start:end] + content[end:],
        content[:start],
    ]
    return generator.choice(kinds)


@pytest.mark.parametrize("name", [name for name in MINIATURES if "dataset" not in name])
def test_damaged_tables(name, tmp_path, capsys):
    layout, make = MINIATURES[name]
    miniature = make(tmp_path / "corpus")
    files = [path for path in sorted((tmp_path / "corpus").rglob("*")) if path.is_file() and path.suffix not in AUDIO]
    generator = random.Random(name)
    for attempt in range(6):
        path = generator.choice(files)
        intact = path.read_bytes()
        path.write_bytes(damage(intact, generator))
        out = tmp_path / f"data{attempt}"
        words = ["prepare", layout, str(miniature.folder), "--out", str(out), "--workers", "1", "--max-bad", "1"]
        code = colld([*words, *miniature.options])
        message = capsys.readouterr().err
        path.write_bytes(intact)
        assert code in (0, 2), message
        if code == 2:
            assert message.startswith("colld prepare: error: ") and str(tmp_path) in message
        else:
            record = json.loads((out / "prepared.json").read_text())
            assert sum(record["left_out"].values()) == (out / "left_out.tsv").read_text().count("\n") - 1


@pytest.mark.parametrize("name", ["saved-dataset", "hub-dataset"])
def test_truncated_tables_of_arrow(name, tmp_path, capsys):
    layout, make = MINIATURES[name]
    miniature = make(tmp_path / "corpus")
    path = next(path for path in sorted(miniature.folder.rglob("*")) if path.suffix in (".arrow", ".parquet"))
    content = path.read_bytes()
    for share in (0, 0.3, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        assert colld(["prepare", layout, str(miniature.folder), "--out", str(tmp_path / "data"), "--max-bad", "1"]) == 2
        assert str(path) in capsys.readouterr().err
