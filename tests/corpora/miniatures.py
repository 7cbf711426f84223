"""Corpora of a few utterances of 0.2 s, laid out as they are published, each with one corrupt member of every kind that
its layout can have. Written by hand from the corpora's own descriptions, not by the code that reads them."""

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import soundfile

RATE = 16000


class Expected(NamedTuple):
    """A row that a manifest must have: its audio is samples `start` to `end` of a file at 16 kHz."""

    id: str
    text: str
    source: str
    target: str
    speaker: str
    file: Path
    start: int = 0
    end: Optional[int] = None


@dataclass
class Miniature:
    """folder: what the command is given. rows: by manifest. left_out: kinds, sorted, of what must be left out."""

    folder: Path
    rows: Dict[str, List[Expected]]
    left_out: List[str]
    options: List[str] = field(default_factory=list)


def sound(path: Path, seconds: float = 0.2, seed: Optional[int] = None) -> Path:
    """An audio file of noise; its ending says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.name)) if seed is None else seed
    waveform = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    how = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    soundfile.write(path, waveform.clip(-1, 1), RATE, **how)
    return path


def broken(path: Path) -> Path:
    """A file that begins like the audio it should be, and ends too early."""
    sound(path)
    path.write_bytes(path.read_bytes()[:60])
    return path


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def damage(path: Path, line: int) -> None:
    """A byte that is no UTF-8 at the end of a line (from 0)."""
    lines = path.read_bytes().split(b"\n")
    lines[line] += b"\xff"
    path.write_bytes(b"\n".join(lines))


def librispeech(root: Path) -> Miniature:
    clean, other = root / "train-clean-100/19/198", root / "dev-other/84/121"
    files = [sound(clean / f"19-198-000{i}.flac") for i in range(2)] + [sound(other / "84-121-0000.flac")]
    broken(clean / "19-198-0002.flac"), sound(clean / "19-198-0005.flac")
    transcripts = write(
        clean / "19-198.trans.txt",
        "19-198-0000 NORTHANGER ABBEY",
        "19-198-0001 THIS LITTLE WORK",
        "19-198-0002 WAS FINISHED",
        "19-198-0003 IN THE YEAR",
        "19-198-0004 INTENDED",
        "19-198-0005",
    )
    damage(transcripts, 4)
    write(other / "84-121.trans.txt", "84-121-0000 BUT IT IS")
    write(
        root / "SPEAKERS.TXT", "; ID |SEX| SUBSET |MINUTES| NAME", "19 | F | train-clean-100 | 25.1 | Kara Shallenberg"
    )
    row = lambda file, text: Expected(file.stem, text, "en", "en", file.stem.split("-")[0], file)  # noqa: E731
    return Miniature(
        root,
        {
            "train-clean-100.tsv": [row(files[0], "NORTHANGER ABBEY"), row(files[1], "THIS LITTLE WORK")],
            "dev-other.tsv": [row(files[2], "BUT IT IS")],
        },
        ["malformed row", "missing audio", "no text", "unreadable audio"],
    )


def multilingual_librispeech(root: Path) -> Miniature:
    rows: Dict[str, List[Expected]] = {"train.tsv": [], "test.tsv": []}
    for name, language, suffix in (("mls_german", "de", ".flac"), ("mls_polish_opus", "pl", ".opus")):
        for split, text, index in (("train", "zwölf Ä", 0), ("test", "dzień", 7)):
            folder = root / name / split
            file = sound(folder / f"audio/252/10087/252_10087_00000{index}{suffix}")
            write(folder / "transcripts.txt", f"{file.stem}\t{text}")
            write(folder / "segments.txt", f"{file.stem}\thttp://www.archive.org/x.mp3\t0.0\t0.2")
            rows[f"{split}.tsv"].append(Expected(f"{language}-{file.stem}", text, language, language, "252", file))
    with open(root / "mls_german/train/transcripts.txt", "a") as handle:
        handle.write("252_10087\tno name of three parts\n252_10087_000001\tmissing\n252_10087_000002\tbroken\n")
    broken(root / "mls_german/train/audio/252/10087/252_10087_000002.flac")
    return Miniature(root, rows, ["malformed row", "missing audio", "unreadable audio"])


CV_HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"


def cv_row(client: str, path: str, sentence: str, locale: str) -> str:
    return f"{client}\t{path}\t{sentence}\t2\t0\t\t\t\t\t{locale}\t"


def common_voice(root: Path) -> Miniature:
    rows: Dict[str, List[Expected]] = {"train.tsv": [], "test.tsv": []}
    for language in ("de", "fr"):
        folder = root / language
        files = [sound(folder / f"clips/common_voice_{language}_1{i}.mp3") for i in range(2)]
        write(folder / "train.tsv", CV_HEADER, cv_row("s1", files[0].name, 'Sagt "er"  doch,', language))
        write(folder / "test.tsv", CV_HEADER, cv_row("s2", files[1].name, "Ja.", language))
        for split, client, text, file in (("train", "s1", 'Sagt "er" doch,', 0), ("test", "s2", "Ja.", 1)):
            rows[f"{split}.tsv"].append(Expected(files[file].stem, text, language, language, client, files[file]))
        write(folder / "invalidated.tsv", CV_HEADER, cv_row("s9", "nothing.mp3", "Nein.", language))
    for name in ("empty", "broken"):
        broken(root / f"de/clips/{name}.mp3")
    (root / "de/clips/empty.mp3").write_bytes(b"")
    with open(root / "de/train.tsv", "a", encoding="utf-8") as handle:
        for name, sentence in (("lost.mp3", "Weg"), ("empty.mp3", "Leer"), ("broken.mp3", "Kaputt")):
            handle.write(cv_row("s3", name, sentence, "de") + "\n")
        handle.write("s3\tonly-three.mp3\tfields\n")
        handle.write(cv_row("s3", "common_voice_de_11.mp3", "Nochmal", "de") + "\n")
    left_out = ["duplicate id", "malformed row", "missing audio", "unreadable audio", "unreadable audio"]
    # the later of two with one name is left out: files are read in the order of their names, test before train
    return Miniature(root, rows, left_out)


def covost(root: Path) -> Miniature:
    folder = root / "de"
    files = [sound(folder / f"clips/common_voice_de_2{i}.mp3") for i in range(3)]
    sentences = ["Guten Tag.", "Bis morgen.", "Nein."]
    rows = [cv_row("s1", file.name, text, "de") for file, text in zip(files, sentences)]
    write(folder / "validated.tsv", CV_HEADER, *rows)
    write(
        root / "covost_v2.de_en.tsv",
        "path\ttranslation\tsplit\tclient_id",
        f"{files[0].name}\tGood day.\ttrain\ts1",
        f"{files[1].name}\tSee you tomorrow.\ttest\ts1",
        "common_voice_de_99.mp3\tGone.\ttrain\ts1",
    )
    recognition = lambda i: Expected(files[i].stem, sentences[i], "de", "de", "s1", files[i])  # noqa: E731
    translation = lambda i, text: Expected(f"{files[i].stem}-en", text, "de", "en", "s1", files[i])  # noqa: E731
    train, test = translation(0, "Good day."), translation(1, "See you tomorrow.")
    return Miniature(
        folder,
        {
            "train.tsv": [recognition(0), train],
            "train_asr.tsv": [recognition(0)],
            "train_st.tsv": [train],
            "test.tsv": [recognition(1), test],
            "test_asr.tsv": [recognition(1)],
            "test_st.tsv": [test],
        },
        ["malformed row"],
        ["--translate-into", "en"],
    )


def fleurs(root: Path) -> Miniature:
    de, en, zh = (root / "data" / name for name in ("de_de", "en_us", "cmn_hans_cn"))
    german = sound(de / "audio/train/10004088536354799741.wav"), sound(de / "audio/train/777.wav")
    english, chinese = sound(en / "audio/train/123.wav"), sound(zh / "audio/dev/456.wav")
    broken(de / "audio/train/13.wav")
    write(
        de / "train.tsv",
        "11\t10004088536354799741.wav\tEin Satz, in Berlin.\tein satz in berlin\te i n |\t3200\tMALE",
        '12\t777.wav\tNoch "einer"!\tnoch einer\tn o c h |\t3200\tFEMALE',
        "13\t13.wav\tKaputt.\tkaputt\tk a |\t3200\tFEMALE",
        "14\t14.wav\tFehlt.\tfehlt\tf e |\t3200\tFEMALE",
        "15\tzu wenige Felder",
    )
    write(en / "train.tsv", "11\t123.wav\tA sentence, in Berlin.\ta sentence in berlin\ta |\t3200\tMALE")
    write(zh / "dev.tsv", "21\t456.wav\t你好，世界\t你好世界\t你 |\t3200\tMALE")
    rows = [
        Expected("de_de-10004088536354799741", "ein satz in berlin", "de", "de", "", german[0]),
        Expected("de_de-777", "noch einer", "de", "de", "", german[1]),
        Expected("en_us-123", "a sentence in berlin", "en", "en", "", english),
    ]
    st = [Expected("de_de-10004088536354799741-en", "A sentence, in Berlin.", "de", "en", "", german[0])]
    dev = [Expected("cmn_hans_cn-456", "你好世界", "zh", "zh", "", chinese)]
    return Miniature(
        root,
        {"train.tsv": rows + st, "train_asr.tsv": rows, "train_st.tsv": st, "dev.tsv": dev},
        ["malformed row", "missing audio", "unreadable audio"],
        ["--translate-into", "en"],
    )


def table_csv(root: Path) -> Miniature:
    files = [sound(root / f"wavs/{name}") for name in ("a.wav", "b.flac", "c.ogg")]
    broken(root / "wavs/d.wav")
    write(
        root / "train.csv",
        "path,sentence,client_id,locale,translation_en,duration_note",
        'wavs/a.wav,"Ja, ""sicher""",s1,de,"Yes, sure",x',
        "wavs/b.flac,Nein,s2,de,,x",
        "wavs/d.wav,Kaputt,s2,de,,x",
        "wavs/e.wav,Fehlt,s2,de,,x",
        ",Ohne,s2,de,,x",
        "wavs/b.flac",
    )
    write(
        root / "test.csv", "path,sentence,client_id,locale,translation_en,duration_note", "wavs/c.ogg,Doch,s3,de,Yes,x"
    )
    row = lambda i, text, client: Expected(  # noqa: E731
        f"wavs/{files[i].name}", text, "de", "de", client, files[i]
    )
    train = [row(0, 'Ja, "sicher"', "s1"), row(1, "Nein", "s2")]
    train_st = [Expected("wavs/a.wav-en", "Yes, sure", "de", "en", "s1", files[0])]
    test, test_st = [row(2, "Doch", "s3")], [Expected("wavs/c.ogg-en", "Yes", "de", "en", "s3", files[2])]
    return Miniature(
        root,
        {
            **{"train.tsv": train + train_st, "train_asr.tsv": train, "train_st.tsv": train_st},
            **{"test.tsv": test + test_st, "test_asr.tsv": test, "test_st.tsv": test_st},
        },
        ["malformed row", "malformed row", "missing audio", "unreadable audio"],
        ["--translate-into", "en"],
    )


def table_jsonl(root: Path) -> Miniature:
    talk = sound(root / "talk.wav", 1.0)
    lines = [
        {"audio": "talk.wav", "start": 0.1, "end": 0.4, "text": "eins", "split": "train", "id": "t1"},
        {"audio": "talk.wav", "start": 0.5, "duration": 0.25, "text": "zwei", "split": "dev", "id": "t2"},
        {
            "audio": "talk.wav",
            "start": 0.9,
            "end": 1.05,
            "text": "bis kurz hinter das Ende",
            "split": "dev",
            "id": "t3",
        },
        {"audio": "talk.wav", "start": 0.9, "end": 2.0, "text": "hinter dem Ende", "split": "train", "id": "t4"},
        {"audio": "talk.wav", "start": "früh", "end": 2.0, "text": "keine Zeit", "split": "train", "id": "t5"},
        {"audio": "talk.wav", "start": 0.5, "end": 0.4, "text": "rückwärts", "split": "train", "id": "t6"},
    ]
    path = write(root / "all.jsonl", *map(json.dumps, lines), '{"audio": "talk', "[1, 2]")
    spans = {"t1": (1600, 6400), "t2": (8000, 12000), "t3": (14400, 16000)}
    rows = {
        line["id"]: Expected(line["id"], line["text"], "de", "de", "", talk, *spans[line["id"]]) for line in lines[:3]
    }
    return Miniature(
        path,
        {"train.tsv": [rows["t1"]], "dev.tsv": [rows["t2"], rows["t3"]]},
        ["malformed row"] * 3 + ["segment outside its file"] * 2,
        ["--languages", "de"],
    )


def nemo(root: Path) -> Miniature:
    talk, other = sound(root / "audio/talk.wav", 1.0), sound(root / "audio/other.wav")
    broken(root / "audio/broken.wav")
    lines = [
        {"audio_filepath": "audio/other.wav", "duration": 0.2, "text": "whole", "lang": "en"},
        {"audio_filepath": str(talk), "offset": 0.25, "duration": 0.5, "text": "a part", "lang": "en", "speaker": "s"},
        {
            "audio_filepath": "audio/talk.wav",
            "duration": 0.5,
            "text": "hallo",
            "source_lang": "en",
            "target_lang": "de",
        },
        {"audio_filepath": "audio/broken.wav", "duration": 0.2, "text": "broken", "lang": "en"},
        {"audio_filepath": "audio/lost.wav", "duration": 0.2, "text": "lost", "lang": "en"},
        {"audio_filepath": "audio/other.wav", "offset": 0.1, "duration": 5, "text": "too long", "lang": "en"},
        {"audio_filepath": "x.wav", "duration": 0.2, "text": "in a tar", "lang": "en", "shard_id": 0},
        {"audio_filepath": "audio/other.wav", "offset": 0.05, "duration": 0.1, "text": 7, "lang": "en"},
        {"audio_filepath": "audio/other.wav", "offset": 0.15, "duration": 0.05, "text": "", "lang": "en"},
    ]
    write(root / "train_manifest.json", *map(json.dumps, lines))
    asr = [
        Expected("audio/other.wav", "whole", "en", "en", "", other),
        Expected(f"{talk}-0.25", "a part", "en", "en", "s", talk, 4000, 12000),
    ]
    st = [Expected("audio/talk.wav-de", "hallo", "en", "de", "", talk, 0, 8000)]
    return Miniature(
        root,
        {"train.tsv": asr + st, "train_asr.tsv": asr, "train_st.tsv": st},
        [
            *("audio that is not a file", "malformed row", "missing audio", "no text"),
            *("segment outside its file", "unreadable audio"),
        ],
        ["--translate-into", "de"],
    )


def kaldi(root: Path) -> Miniature:
    talk, flac = sound(root / "wavs/talk.wav", 1.0), sound(root / "wavs/b.flac")
    broken(root / "wavs/broken.wav")
    train = root / "data/train"
    write(
        train / "wav.scp",
        f"rec1 {talk}",
        "rec2 sph2pipe -f wav -p -c 1 talk.sph |",
        "rec3 raw.ark:15",
        f"rec4 {root}/wavs/lost.wav",
        f"rec5 {root}/wavs/broken.wav",
    )
    write(
        train / "segments",
        "s1-talk-0 rec1 0.10 0.35",
        "s1-talk-1 rec1 0.50 -1",
        "s1-talk-2 rec1 0.50 3.00",
        "s1-talk-3 rec1 0.50",
        "s2-a rec2 0.0 0.1",
        "s3-a rec3 0.0 0.1",
        "s4-a rec4 0.0 0.1",
        "s5-a rec5 0.0 0.1",
        "s6-a rec6 0.0 0.1",
    )
    names = ["s1-talk-0", "s1-talk-1", "s1-talk-2", "s1-talk-3", "s2-a", "s3-a", "s4-a", "s5-a", "s6-a"]
    write(train / "text", *(f"{name} say {name}" for name in names))
    write(train / "text.tc.de", "s1-talk-0 Sag es")
    write(train / "utt2spk", *(f"{name} {name[:2]}" for name in names))
    write(root / "data/dev/wav.scp", f"b flac -c -d -s {flac} |")
    write(root / "data/dev/text", "b  whole   file")
    row = lambda i, span: Expected(names[i], f"say {names[i]}", "en", "en", "s1", talk, *span)  # noqa: E731
    train_rows = [row(0, (1600, 5600)), row(1, (8000, 16000))]
    st = [Expected("s1-talk-0-de", "Sag es", "en", "de", "s1", talk, 1600, 5600)]
    return Miniature(
        root / "data",
        {
            **{"train.tsv": train_rows + st, "train_asr.tsv": train_rows, "train_st.tsv": st},
            "dev.tsv": [Expected("b", "whole file", "en", "en", "", flac)],
        },
        [
            *(
                "audio that is not a file",
                "audio that is not a file",
                "malformed row",
                "missing audio",
                "missing audio",
            ),
            *("segment outside its file", "unreadable audio"),
        ],
        ["--languages", "en", "--translate-into", "de"],
    )


def stm(root: Path) -> Miniature:
    talk = sound(root / "train/sph/Ada_2009.wav", 1.0)
    dev = sound(root / "dev/sph/Bob_2010.wav", 1.0)
    sound(root / "train/sph/two.wav", 1.0), broken(root / "train/sph/broken.wav")
    write(
        root / "train/stm/Ada_2009.stm",
        ";; a comment",
        "Ada_2009 1 Ada_2009 0.10 0.35 <o,f0,female> i 'd like <unk> to {NOISE} share",
        "Ada_2009 1 Ada_2009 0.40 0.45 <o,f0,unknown> ignore_time_segment_in_scoring",
        "Ada_2009 1 Ada_2009 0.50 0.60 <o,f0,female> one { or / and } other",
        "Ada_2009 1 Ada_2009 0.50 9.60 <o,f0,female> too long",
        "Ada_2009 1 Ada_2009 soon later <o,f0,female> no time",
        "Ada_2009 1",
    )
    write(root / "train/stm/broken.stm", "broken 1 s 0.0 0.1 <o,f0,male> broken", "lost 1 s 0.0 0.1 <o,f0,male> lost")
    write(root / "train/stm/two.stm", "two A s 0.0 0.1 <o> first channel", "two B s 0.0 0.1 <o> second channel")
    write(root / "dev/stm/Bob_2010.stm", "Bob_2010 1 Bob 0.50 0.75 no labels")
    return Miniature(
        root,
        {
            "train.tsv": [
                Expected("Ada_2009-0.10-0.35", "i 'd like to share", "en", "en", "Ada_2009", talk, 1600, 5600)
            ],
            "dev.tsv": [Expected("Bob_2010-0.50-0.75", "no labels", "en", "en", "Bob", dev, 8000, 12000)],
        },
        [
            *("malformed row", "malformed row", "malformed row", "marked as not to be used", "missing audio"),
            *("one channel of several", "one channel of several", "segment outside its file", "unreadable audio"),
        ],
        ["--languages", "en"],
    )


def folder(root: Path) -> Miniature:
    """As the Mboshi corpus: a transcript and a translation beside each audio file."""
    a, b = sound(root / "train/abiayi_1.wav"), sound(root / "dev/kouarata_2.wav")
    broken(root / "train/broken.wav"), sound(root / "train/silent.wav"), sound(root / "train/latin1.wav")
    for file, text in ((a, "wáá ngá"), (b, "bána"), (root / "train/broken.wav", "x")):
        write(file.with_suffix(".mb"), text)
        write(file.with_suffix(".fr"), f"en français: {text}")
    (root / "train/latin1.mb").write_bytes("é".encode("latin-1"))
    asr = {
        "train": [Expected("train/abiayi_1", "wáá ngá", "mdw", "mdw", "", a)],
        "dev": [Expected("dev/kouarata_2", "bána", "mdw", "mdw", "", b)],
    }
    st = {
        split: [row._replace(id=f"{row.id}-fr", text=f"en français: {row.text}", target="fr") for row in rows]
        for split, rows in asr.items()
    }
    return Miniature(
        root,
        {
            **{f"{split}.tsv": asr[split] + st[split] for split in asr},
            **{f"{split}_asr.tsv": rows for split, rows in asr.items()},
            **{f"{split}_st.tsv": rows for split, rows in st.items()},
        },
        ["malformed row", "no text", "unreadable audio"],
        ["--languages", "mdw", "--columns", "text=mb", "--translate-into", "fr"],
    )


def must_c(root: Path) -> Miniature:
    data = root / "en-de/data"
    talk = sound(data / "train/wav/ted_1.wav", 1.0)
    test = sound(data / "tst-COMMON/wav/ted_9.flac", 1.0)  # as in mTEDx: the list names it .wav
    broken(data / "train/wav/ted_2.wav")
    entry = "- {{duration: {1}, offset: {0}, rW: 9, uW: 0, speaker_id: spk.{2}, wav: ted_{2}.wav}}".format
    write(
        data / "train/txt/train.yaml",
        entry(0.1, 0.25, 1),
        entry(0.5, 0.25, 1),
        entry(0.9, 0.9, 1),
        entry(0.1, 0.25, 2),
        entry(0.1, 0.25, 3),
        "- {duration: 0.1, offset: [0.2, wav: ted_1.wav}",
    )
    write(data / "train/txt/train.en", "And one", "And two", "And too long", "Broken", "Lost", "Bad entry")
    write(data / "train/txt/train.de", "Und eins", "Und zwei", "Und zu lang", "Kaputt", "Weg", "Eintrag")
    write(data / "tst-COMMON/txt/tst-COMMON.yaml", entry(0.5, 0.25, 9))
    write(data / "tst-COMMON/txt/tst-COMMON.en", "Last"), write(data / "tst-COMMON/txt/tst-COMMON.de", "Letzter")
    asr = {
        "train": [
            Expected("en-de-ted_1_0", "And one", "en", "en", "spk.1", talk, 1600, 5600),
            Expected("en-de-ted_1_1", "And two", "en", "en", "spk.1", talk, 8000, 12000),
        ],
        "tst-COMMON": [Expected("en-de-ted_9_0", "Last", "en", "en", "spk.9", test, 8000, 12000)],
    }
    into = {"And one": "Und eins", "And two": "Und zwei", "Last": "Letzter"}
    st = {
        split: [row._replace(id=f"{row.id}-de", text=into[row.text], target="de") for row in rows]
        for split, rows in asr.items()
    }
    return Miniature(
        root,
        {
            **{f"{split}.tsv": asr[split] + st[split] for split in asr},
            **{f"{split}_asr.tsv": rows for split, rows in asr.items()},
            **{f"{split}_st.tsv": rows for split, rows in st.items()},
        },
        ["malformed row", "missing audio", "segment outside its file", "unreadable audio"],
        ["--translate-into", "de"],
    )


def voxpopuli(root: Path) -> Miniature:
    folder = root / "transcribed_data/sl"
    names = [f"2018031{i}-0900-PLENARY-{i}" for i in range(4)]
    files = [sound(folder / "2018" / f"{name}.ogg") for name in names[:2]]
    broken(folder / "2018" / f"{names[2]}.ogg"), sound(folder / "2018/quiet.ogg")
    header = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\tis_gold_transcript\taccent"
    line = "{0}\tDober dan, {1}!\tdober dan {1}\t{1}\t{2}\tfemale\tTrue\tNone".format
    write(
        folder / "asr_train.tsv",
        header,
        line(names[0], 5, "train"),
        line(names[2], 6, "train"),
        line(names[3], 7, "train"),
        "quiet\tRaw alone\t\t8\ttrain\tmale\tTrue\tNone",
        "quiet",
    )
    write(folder / "asr_dev.tsv", header, line(names[1], 9, "dev"))
    row = lambda i, s: Expected(names[i], f"dober dan {s}", "sl", "sl", s, files[i])  # noqa: E731
    return Miniature(
        root / "transcribed_data",
        {"train.tsv": [row(0, "5")], "dev.tsv": [row(1, "9")]},
        ["malformed row", "missing audio", "no text", "unreadable audio"],
    )


def lhotse(root: Path) -> Miniature:
    talk = sound(root / "audio/talk.wav", 1.0)
    broken(root / "audio/broken.wav")

    def cut(name, start, duration, *supervisions, path="audio/talk.wav", source="file", channels=(0,), **more):
        recording = {
            "id": "talk",
            "sources": [{"type": source, "channels": list(channels), "source": path}],
            **{"sampling_rate": RATE, "num_samples": RATE, "duration": 1.0, "channel_ids": list(channels)},
        }
        whole = {"id": name, "start": start, "duration": duration, "channel": 0, "supervisions": list(supervisions)}
        return json.dumps({**whole, "recording": recording, "type": "MonoCut", **more})

    def said(name, start, duration, text):
        return {
            **{"id": name, "recording_id": "talk", "start": start, "duration": duration, "channel": 0},
            **{"text": text, "language": "en", "speaker": "ada", "custom": {"german": f"auf Deutsch {text}"}},
        }

    lines = [
        cut("one", 0.1, 0.25, said("sup-1", 0.0, 0.25, "first")),
        cut("two", 0.5, 0.5, said("sup-2", 0.0, 0.125, "second"), said("sup-3", 0.25, 0.25, "third")),
        cut("long", 0.5, 5.0, said("sup-4", 0.0, 0.1, "too long")),
        cut("broken", 0, 0.1, said("sup-5", 0.0, 0.1, "broken"), path="audio/broken.wav"),
        cut("lost", 0, 0.1, said("sup-6", 0.0, 0.1, "lost"), path="audio/lost.wav"),
        cut("command", 0, 0.1, said("sup-7", 0.0, 0.1, "command"), source="command", path="rm -r /"),
        cut("stereo", 0, 0.1, said("sup-8", 0.0, 0.1, "stereo"), channels=(0, 1)),
        cut("mixed", 0, 0.1, type="MixedCut"),
        cut("untimed", None, 0.1, said("sup-9", 0.0, 0.1, "no start")).replace('"start": null, ', ""),
        "{",
    ]
    path = root / "libri_cuts_train.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    row = lambda name, text, *span: Expected(name, text, "en", "en", "ada", talk, *span)  # noqa: E731
    asr = [row("one", "first", 1600, 5600), row("sup-2", "second", 8000, 10000), row("sup-3", "third", 12000, 16000)]
    st = [one._replace(id=f"{one.id}-de", text=f"auf Deutsch {one.text}", target="de") for one in asr]
    return Miniature(
        root,
        {"train.tsv": asr + st, "train_asr.tsv": asr, "train_st.tsv": st},
        [
            *(
                "audio that is not a file",
                "audio that is not a file",
                "malformed row",
                "malformed row",
                "missing audio",
            ),
            *("one channel of several", "segment outside its file", "unreadable audio"),
        ],
        ["--translate-into", "de", "--columns", "translation_de=german"],
    )


AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def cell(file: Path) -> Dict:
    return {"bytes": file.read_bytes(), "path": file.name}


def dataset_rows(root: Path) -> pa.Table:
    """Four rows as `datasets` has them; the audio of the third is damaged, of the fourth not there."""
    files = [sound(root / "raw/a.wav"), sound(root / "raw/b.flac"), broken(root / "raw/c.wav")]
    audio = [*map(cell, files), {"bytes": None, "path": "gone.wav"}]
    return pa.table(
        {
            "audio": pa.array(audio, AUDIO),
            "transcription": ["eins", "zwei", "drei", "vier"],
            "speaker_id": [3, 4, 5, 6],
            "locale": ["de"] * 4,
        }
    )


def dataset_expected(root: Path, prefix: str) -> List[Expected]:
    return [
        Expected(f"{prefix}-000000", "eins", "de", "de", "3", root / "raw/a.wav"),
        Expected(f"{prefix}-000001", "zwei", "de", "de", "4", root / "raw/b.flac"),
    ]


def saved_dataset(root: Path) -> Miniature:
    """As `save_to_disk` writes a DatasetDict: Arrow's stream format, in shards of two rows."""
    table = dataset_rows(root)
    saved = root / "saved"
    write(saved / "dataset_dict.json", json.dumps({"splits": ["train"]}))
    write(saved / "train/state.json", json.dumps({"_data_files": []}))
    write(saved / "train/dataset_info.json", "{}")
    for shard in range(2):
        path = saved / f"train/data-0000{shard}-of-00002.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(2 * shard, 2))
    expected = dataset_expected(root, "train")
    return Miniature(saved, {"train.tsv": expected}, ["unreadable audio", "unreadable audio"])


def hub_dataset(root: Path) -> Miniature:
    """As the hub has it: parquet in row groups of one row, the configuration as a folder."""
    hub = root / "hub"
    (hub / "de_de").mkdir(parents=True)
    table = dataset_rows(root)
    pyarrow.parquet.write_table(table, hub / "de_de/train-00000-of-00001.parquet", row_group_size=1)
    pyarrow.parquet.write_table(table.slice(0, 1), hub / "de_de/test-00000-of-00001-0123456789abcdef.parquet")
    test = dataset_expected(root, "de_de-test")[:1]
    rows = {"train.tsv": dataset_expected(root, "de_de-train"), "test.tsv": test}
    return Miniature(hub, rows, ["unreadable audio", "unreadable audio"])


#: name of the miniature -> (layout, what writes it)
MINIATURES = {
    "librispeech": ("librispeech", librispeech),
    "mls": ("mls", multilingual_librispeech),
    "common-voice": ("common-voice", common_voice),
    "covost": ("common-voice", covost),
    "fleurs": ("fleurs", fleurs),
    "must-c": ("must-c", must_c),
    "voxpopuli": ("voxpopuli", voxpopuli),
    "stm": ("stm", stm),
    "mboshi": ("folder", folder),
    "csv": ("table", table_csv),
    "jsonl": ("table", table_jsonl),
    "nemo": ("nemo", nemo),
    "kaldi": ("kaldi", kaldi),
    "lhotse": ("lhotse", lhotse),
    "saved-dataset": ("huggingface", saved_dataset),
    "hub-dataset": ("huggingface", hub_dataset),
}
