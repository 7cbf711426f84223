"""HubertDataset seeks to byte offsets and reads that many characters: text runs into the next line. Ours does not."""

from colld_fairseq.data.manifest import read_manifest


def test_every_row_keeps_its_own_text(finetuning, corpus):
    run = finetuning()
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    lines = (corpus / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    expected = [line.split("\t")[3] for line in lines]
    assert any("а" <= c <= "я" for text in expected for c in text)
    for i in (8, 1, 5, 0):
        assert run.task.vocabulary.decode(dataset[i]["target"]) == expected[i]


def test_right_to_left_text_keeps_its_order(corpus, tmp_path, vocab):
    from colld_fairseq.data.vocabulary import Vocabulary

    rows = read_manifest(str(corpus / "test.tsv"))
    arabic = rows.row(3).src_text
    assert arabic.startswith("ا") and not arabic.isascii()
    (tmp_path / "ar.tsv").write_text(f"id\taudio\tn_frames\ttgt_text\n1\ta.wav\t1\t{arabic}\n", encoding="utf-8")
    from colld_fairseq.data.vocabulary_making import make_vocabulary

    make_vocabulary([str(tmp_path / "ar.tsv")], tmp_path / "vocab")
    vocabulary = Vocabulary(str(tmp_path / "vocab"))
    assert vocabulary.decode(vocabulary.encode(arabic, append_eos=True)) == arabic
