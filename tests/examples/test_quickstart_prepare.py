"""Manifests of a corpus table."""

import zipfile

import pytest

from colld_fairseq.data.manifest import read_manifest
from examples.quickstart import prepare

TABLE = """id\tfile\tseconds\tspeaker\tlang\tsplit\ttext\ttrans_en\ttrans_fr
a\ta.ogg\t1.5\tanna\tde\ttrain\tguten Tag\tgood day\tbonjour
b\tb.ogg\t2\tben\ten\ttrain\tthank you\t\tmerci
c\tc.ogg\t2\tanna\tde\ttrain\tdanke\t\tmerci
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """`prepare` of the table above with some --pairs: (id, target text) of a manifest's rows."""

    def run(pairs, name):
        table, archive, out = tmp_path / "t.tsv", tmp_path / "t.zip", tmp_path / "out"
        table.write_text(TABLE, encoding="utf-8")
        with zipfile.ZipFile(archive, "w") as file:
            for member in "abc":
                file.writestr(f"{member}.ogg", b"sound")
        given = ["prepare.py", str(out), "--table", str(table), "--zip", str(archive), "--pairs", pairs]
        monkeypatch.setattr("sys.argv", given)
        prepare.main()
        if not (out / name).exists():
            return None
        manifest = read_manifest(str(out / name))
        return [(row.id, row.tgt_text) for row in map(manifest.row, range(len(manifest)))]

    return run


def test_a_recording_with_several_targets_has_a_row_for_each(written):
    assert written("de-de,de-en,de-fr,en-fr", "train.tsv") == [
        *(("a-de", "guten Tag"), ("c-de", "danke"), ("a-en", "good day"), ("a-fr", "bonjour"), ("c-fr", "merci")),
        ("b", "merci"),
    ]


def test_one_target_leaves_ids_as_they_are(written):
    assert written("de-en,en-en", "train.tsv") == [("a", "good day"), ("b", "thank you")]
    assert written("de-en,en-en", "train_asr.tsv") == [("a", "guten Tag"), ("b", "thank you"), ("c", "danke")]


def test_no_translations_no_manifest_of_them(written):
    assert written("de-de,en-en", "train_st.tsv") is None
