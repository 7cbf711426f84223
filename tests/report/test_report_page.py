"""The page of `colld report`: figures as scored, intervals as drawn by hand, text as text, and nothing from outside."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import jiwer
import miniature_run
import numpy as np
import pytest
import soundfile
from lxml import html
from miniature_run import ASR, HOSTILE, LABELS, SYSTEMS

from colld_fairseq.cli import main as colld
from colld_fairseq.report.experiments import read_profile
from colld_fairseq.report.training_log import read_log
from colld_fairseq.report.utterances import differences, units
from colld_fairseq.scoring.bootstrap import SEED

FEW = ("--resamples", "100")
VOID = {"meta", "link", "br", "img", "input", "hr", "source", "wbr"}
MEASURES = {"asr": {"WER": "wer", "CER": "cer"}, "st": {"BLEU": "bleu", "chrF": "chrf"}}


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    return miniature_run.write_run(tmp_path_factory.mktemp("run") / "prompts")


@pytest.fixture
def folder(original, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "prompts")


def page_of(*arguments, code=0):
    """The page that these folders and options make."""
    out = next((one for before, one in zip(arguments, arguments[1:]) if before == "--out"), None)
    assert colld(["report", *map(str, arguments), *(() if "--resamples" in arguments else FEW)]) == code
    return (out or arguments[0] / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def text(original, tmp_path_factory):
    return page_of(original, "--out", tmp_path_factory.mktemp("page") / "page.html", "--resamples", 1000)


@pytest.fixture(scope="session")
def page(text):
    return html.fromstring(text)


class Nesting(HTMLParser):
    """Fails where an element is closed that was not opened last; SVG and all."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        assert len(dict(attributes)) == len(attributes), f"{tag} has an attribute twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{tag} closed at {self.getpos()}"


def tables_of(page, section):
    """caption -> {row's name: {column's name: (figure, words beside it)}} below a heading."""
    (inside,) = [one for one in page.iter("section") if one.findtext("h2") == section]
    tables = {}
    for table in inside.iter("table"):
        header = [cell.text_content() for cell in table.iter("th") if cell.get("scope") == "col"]
        rows = {}
        for row in table.find("tbody"):
            cells = {
                name: (cell.find(".//bdi").text_content(), cell.findtext(".//small") or "")
                for name, cell in zip(header[1:], row.findall("td"), strict=True)
            }
            rows.setdefault(row.find("th/bdi").text_content(), []).append(cells)
        tables[table.findtext("caption")] = rows
    return tables


def scores_of(folder, system, way):
    seeds = [seed for name, seed in SYSTEMS if name == system]
    return [json.loads((folder / system / f"seed{seed}" / f"{way}.json").read_text()) for seed in seeds]


TITLES = {"asr": "Held-out prompts · recognition · test_asr", "st": "Held-out prompts · translation · test_st"}


def test_well_formed_and_nothing_from_outside(text, page):
    parser = Nesting()
    parser.feed(text)
    assert not parser.open
    assert {"svg", "audio", "table", "polyline"} <= parser.seen
    assert not parser.seen & {"script", "img", "iframe", "link", "object", "form"}
    for element in page.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on") and name not in ("srcset", "action", "style", "background"), name
            if name in ("src", "href", "xlink:href", "data", "poster"):
                assert value.startswith(("#", "data:audio/")), value[:80]
    assert not re.search(r"url\(|@import", text.split("</style>")[0])
    anchors = {element.get("id") for element in page.iter() if element.get("id")}
    assert {link.get("href")[1:] for link in page.iter("a")} <= anchors
    assert "default-src 'none'" in page.find(".//meta[@http-equiv]").get("content")


def test_hostile_text_is_text(text, page):
    assert page.findtext(".//title") == f"Prompts {HOSTILE}" and "<script" not in text and "<img" not in text
    labels = {one.text_content() for one in page.iter("bdi")}
    assert LABELS["small"] in labels
    assert any(HOSTILE.lower() in one.text_content() for one in page.iter("dd"))
    assert "{{ 7*7 }}" in text


@pytest.mark.parametrize("way", ["asr", "st"])
def test_figures_are_those_of_the_score_files(original, page, way):
    tables = tables_of(page, TITLES[way])
    overall = tables["Percent, all utterances"]
    for system in LABELS:
        seeds = scores_of(original, system, way)
        for name, measure in MEASURES[way].items():
            values = [one["overall"][measure] for one in seeds]
            expected = f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")
            (row,) = overall[LABELS[system]]
            assert row[name][0] == expected
            for index, pair in enumerate(seeds[0]["pairs"]):
                language = pair["tgt_lang"] if way == "asr" else f"{pair['src_lang']} → {pair['tgt_lang']}"
                value = np.mean([one["pairs"][index][measure] for one in seeds])
                (row,) = tables[f"{name} by language"][language]
                assert row[LABELS[system]][0].split(" ")[0] == f"{value:.2f}"


def test_signatures_are_there(original, page):
    notes = [note.text_content() for note in page.iter("p")]
    for way in TITLES:
        for name, signature in scores_of(original, "cut", way)[0]["signatures"].items():
            shown = any(measure in name for measure in MEASURES[way])
            assert not shown or any(signature in note for note in notes)
    assert any(f"bs:1000|seed:{SEED}" in note for note in notes)


def errors(folder, system, seed):
    """Word errors and words of every utterance by jiwer, in the order of the manifest."""
    lines = (folder / system / f"seed{seed}" / "asr" / "generate-test_asr.txt").read_text(encoding="utf-8")
    hypotheses = {int(row): text.lower() for row, text in re.findall(r"^D-(\d+)\t\S+\t(.*)$", lines, re.MULTILINE)}
    counts = []
    for index, (_, reference, _, _) in enumerate(ASR):
        result = jiwer.process_words(reference.lower(), hypotheses[index])
        counts.append((result.substitutions + result.deletions + result.insertions, len(reference.split())))
    return np.array(counts)


def drawn(counts, seed, rows):
    """WER of a thousand draws from these rows, sorted, drawn one by one."""
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(1000):
        edits, words = counts[rows][generator.choice(len(rows), size=len(rows), replace=True)].sum(0)
        draws.append(100 * edits / words)
    return np.array(draws)


def test_intervals_and_comparisons_by_hand(original, page):
    tables = tables_of(page, TITLES["asr"])
    everything = np.arange(len(ASR))
    counts = {key: errors(original, *key) for key in SYSTEMS}
    for system in ("teacher", "cut"):
        ordered = np.sort(drawn(counts[system, 1], SEED, everything))
        (row,) = tables["Percent, all utterances"][LABELS[system]]
        assert row["WER"][1] == f"{ordered[25]:.1f}–{ordered[974]:.1f}"
    for index, language in enumerate(("ar", "en", "zh"), 1):
        rows = np.array([row for row, one in enumerate(ASR) if one[3] == language])
        ordered = np.sort(drawn(counts["cut", 1], SEED + index, rows))
        (row,) = tables["WER by language"][language]
        assert row[LABELS["cut"]][1] == f"{ordered[25]:.1f}–{ordered[974]:.1f}"
    small = np.mean([drawn(counts["small", seed], SEED, everything) for seed in (1, 2)], axis=0)
    difference = small - drawn(counts["cut", 1], SEED, everything)
    whole = [100 * one[:, 0].sum() / one[:, 1].sum() for one in counts.values()]
    value = (whole[1] + whole[2]) / 2 - whole[3]
    (row,) = tables["Paired comparisons"]["small over the cut"]
    ordered = np.sort(difference)
    p = 2 * ((difference >= 0).sum() + 1) / 1001
    bounds = f"{ordered[25]:+.2f} to {ordered[974]:+.2f}, p {p:.3f}"
    assert row["WER"] == (f"{value:+.2f} better", bounds)


def test_utterances_are_written_as_they_were(page):
    """Of every card: the pieces of a hypothesis without what is missing are the hypothesis, in both directions."""
    cards = list(page.iter("article"))
    assert len(cards) > 6
    for card in cards:
        reference, *written = card.iter("dd")
        assert len(written) == len(LABELS) and all(one.get("dir") == "auto" for one in card.iter("dd"))
        for one in written:
            joined = "".join(one.itertext())
            assert ("  " not in joined) and "\n" not in joined
        assert reference.text_content()
    ids = [card.find("h4").text_content() for card in cards]
    assert len(ids) == len(set(ids)) and "ar-1" in ids
    assert any("much better than cut only" in card.text_content() for card in cards)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_differences_give_both_sides_again(language):
    generator = np.random.default_rng(0)
    separator = "" if language == "zh" else " "
    for _ in range(200):
        reference, hypothesis = (
            separator.join(generator.choice(list("abcd"), size=generator.integers(0, 8))) for _ in range(2)
        )
        pieces = differences(reference, hypothesis, language)
        after = separator.join(one.text for one in pieces if one.kind != "delete")
        before = separator.join(
            one.reference if one.kind == "replace" else one.text for one in pieces if one.kind != "insert"
        )
        assert (before, after) == (reference, hypothesis)
        largest = sum(
            max(len(units(one.text, language)), len(units(one.reference, language)))
            for one in pieces
            if one.kind != "equal"
        )
        result = jiwer.process_words(" ".join(units(reference, language)) or "x", " ".join(units(hypothesis, language)))
        if reference:
            assert largest == result.substitutions + result.deletions + result.insertions


def test_audio_is_the_utterance_and_no_more_than_allowed(original, page, tmp_path):
    for card in page.iter("article"):
        (audio,) = card.iter("audio")
        content = base64.b64decode(audio.get("src").partition(",")[2])
        waveform, rate = soundfile.read(io.BytesIO(content))
        source, _ = soundfile.read(original / "data" / f"{card.find('h4').text_content()}.wav")
        assert rate == 16000 and abs(len(waveform) - len(source)) <= 2400
        spectra = [np.abs(np.fft.rfft(one[2000:6000])).argmax() for one in (waveform, source)]
        assert abs(spectra[0] - spectra[1]) <= 1  # the tone of this utterance
    small = html.fromstring(page_of(original, "--out", tmp_path / "a.html", "--audio-mb", "0.01"))
    sizes = [len(audio.get("src")) for audio in small.iter("audio")]
    assert sizes and sum(sizes) <= 10000
    assert "audio left out" in small.text_content()
    none = html.fromstring(page_of(original, "--out", tmp_path / "b.html", "--audio-mb", "0", "--utterances", "1"))
    assert not list(none.iter("audio")) and 2 <= len(list(none.iter("article"))) <= 4


def test_training_settings_sizes_and_layers(page):
    training = tables_of(page, "Training")["Updates, and wall clock with validation"]
    assert training["cut only"][0]["distillation"][0] == "500 updates, 8.3 min"  # the log says more than the job
    titles = [one.text_content() for one in page.iter("figcaption")]
    for title in ("loss in training", "l1 in training", "CER in validation", "linear CKA", "WER, percent"):
        assert title in titles
    assert "WER and million parameters of the model" in titles and "WER and real-time factor of the encoder" in titles
    (settings,) = tables_of(page, "Settings that differ").values()
    assert list(settings) == ["optimization.lr"]
    assert [cell[0] for cell in settings["optimization.lr"][0].values()] == ["[0.001]", "[0.002]"]
    (common,) = tables_of(page, "Settings in common").values()
    assert {name: cells[0]["value"][0] for name, cells in common.items()} == {"task.data": "d", "common.seed": "1"}
    encoders = tables_of(page, "Size and speed")["Encoders, as measured"]
    assert encoders["teacher"][0]["real-time factor"][0] == "0.0200"


def test_several_experiments_side_by_side(original, folder, tmp_path):
    """The same recipe with other options: namesakes are compared, and what was asked for differs."""
    plan = json.loads((folder / "plan.json").read_text())
    plan["settings"]["updates"] = 900
    (folder / "plan.json").write_text(json.dumps(plan))
    folder = folder.rename(folder.with_name("longer"))
    page = html.fromstring(page_of(original, folder, "--out", tmp_path / "page.html"))
    tables = tables_of(page, TITLES["asr"])
    assert len(tables["Percent, all utterances"]) == 2 * len(LABELS)
    (row,) = tables["Paired comparisons"]["cut only (longer) beside cut only (prompts)"]
    assert row["WER"] == ("+0.00 not told apart", "+0.00 to +0.00, p 1.000")
    lines = tables_of(page, "Settings that differ")
    assert [cell[0] for cell in lines[""]["updates"][0].values()] == ["500", "900"]


def test_plain_folders(original, tmp_path, capsys):
    """Outputs and scores of one's own, the manifest named, beside each other; without scores they are made."""
    folders = []
    for system in ("teacher", "cut"):
        folder = tmp_path / f"my_{system}"
        shutil.copytree(original / system / "seed1" / "asr", folder / "decoded")
        shutil.copy(original / "cut" / "seed1" / "distil.log", folder / "train.log")
        folders.append(folder)
    shutil.copy(original / "cut" / "seed1" / "asr.json", folders[1] / "any_name.json")
    out = tmp_path / "page.html"
    named = ["--manifest", original / "data" / "test_asr.tsv", "--out", out]
    page = html.fromstring(page_of(*folders, *named))
    tables = tables_of(page, "Recognition · test_asr")
    rows = tables["Percent, all utterances"]
    assert list(rows) == ["my_teacher", "my_cut"]
    scores = json.loads((folders[1] / "any_name.json").read_text())
    assert rows["my_cut"][0]["WER"][0] == f"{scores['overall']['wer']:.2f}" and rows["my_cut"][0]["WER"][1]
    assert tables_of(page, "Training")["Updates, and wall clock with validation"]["my_cut"]
    assert list(page.iter("audio"))
    alone = html.fromstring(page_of(folders[1], *named))
    (settings,) = tables_of(alone, "Settings of training").values()
    assert settings["optimization.lr"][0]["value"][0] == "[0.002]"
    capsys.readouterr()
    assert colld(["report", *map(str, [*folders, *named]), "--baseline", "no"]) == 2
    assert "--baseline 'no'" in capsys.readouterr().err
    assert "Not compared: my_cut and my_teacher" in page.text_content()  # one is scored in lower case
    shutil.copy(original / "teacher" / "seed1" / "asr.json", folders[0] / "scores.json")
    page = html.fromstring(page_of(*folders, *named, "--baseline", "my_cut"))
    (name,) = tables_of(page, "Recognition · test_asr")["Paired comparisons"]
    assert name == "my_teacher beside my_cut"


def test_several_decodings_of_a_test_set_are_systems_of_their_own(original, tmp_path, capsys):
    """Below one folder: they were one system with the mean of their scores."""
    for name, system in (("greedy", "cut"), ("beam", "teacher")):
        shutil.copytree(original / system / "seed1" / "asr", tmp_path / "mine" / name)
    given = [tmp_path / "mine", "--manifest", original / "data" / "test_asr.tsv", "--out", tmp_path / "page.html"]
    page = html.fromstring(page_of(*given))
    tables = tables_of(page, "Recognition · test_asr")
    rows = tables["Percent, all utterances"]
    assert list(rows) == ["mine: beam", "mine: greedy"]
    assert rows["mine: beam"][0]["WER"][0] != rows["mine: greedy"][0]["WER"][0]
    assert list(tables["Paired comparisons"]) == ["mine: greedy beside mine: beam"]
    for wrong, message in (
        ([tmp_path / "mine", *given], "mine: is given twice"),
        ([*given, "--manifest", tmp_path / "no.tsv"], "--manifest .*no.tsv: there is no such file"),
    ):
        assert colld(["report", *map(str, wrong)]) == 2
        assert re.search(message, capsys.readouterr().err)


def test_baselines_of_which_there_are_several_are_told(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "other")
    both = [str(folder), str(tmp_path / "other"), "--out", str(tmp_path / "page.html"), "--baseline"]
    assert colld(["report", *both, "cut"]) == 2
    assert "--baseline 'cut': could be each of" in capsys.readouterr().err


def test_a_single_system_is_not_compared_in_words(original, tmp_path):
    """One table of languages with both measures, nothing of changes, no column of unknown sizes, no BLEU."""
    folder = tmp_path / "mine"
    shutil.copytree(original / "cut" / "seed1" / "asr", folder)
    shutil.copy(original / "data" / "test_asr.tsv", folder)
    page = html.fromstring(page_of(folder))
    tables = tables_of(page, "Recognition · test_asr")
    assert list(tables) == ["Percent, all utterances", "By language"]
    assert list(tables["Percent, all utterances"]["mine"][0]) == ["WER", "CER", "utterances"]
    ((whole,),) = [tables["Percent, all utterances"]["mine"]]
    ((again,),) = [tables["By language"]["all utterances"]]
    assert again == {name: whole[name] for name in ("WER", "CER")}
    words = page.text_content()
    assert "The worst utterances" in words and "most changed" not in words and "among the worst" not in words
    assert "BLEU" not in words


def write_training_log(path, epochs, every):
    """As fairseq's --log-file has it, every line twice; losses fall by 1 for each update, a mean for each epoch."""
    lines = []
    for epoch, updates in enumerate(epochs, start=1):
        for update in updates:
            if update % every == 0:
                line = {"epoch": epoch, "loss": str(100 - update), "ctc_loss": str(100 - update), "ctc_too_short": "0"}
                lines += [json.dumps({**line, "l1": str(update), "num_updates": str(update)})] * 2
        mean = np.mean([100 - update for update in updates])
        lines += [json.dumps({"epoch": epoch, "train_loss": str(mean), "train_num_updates": str(updates[-1])})] * 2
    path.write_text("\n".join(lines))
    return path


def test_means_of_epochs_are_no_points_of_a_curve_that_has_others(tmp_path):
    epochs = [range(1, 14), range(14, 27), range(27, 31)]  # the last one ends between two lines
    log = read_log(write_training_log(tmp_path / "train.log", epochs, every=5))
    assert {line["num_updates"]: line["loss"] for line in log.training} == {x: 100 - x for x in range(5, 31, 5)}
    rare = read_log(write_training_log(tmp_path / "rare.log", epochs, every=1000))
    assert [(line["num_updates"], line["loss"]) for line in rare.training] == [(13, 93), (26, 80), (30, 71.5)]


def test_terms_that_say_nothing_new_are_not_drawn(original, tmp_path):
    write_training_log(tmp_path / "train.log", [range(1, 31)], every=5)
    titles = [one.text for one in html.fromstring(page_of(tmp_path)).iter("figcaption")]
    assert titles == ["loss in training", "l1 in training"]


def test_rows_of_a_profile_that_share_a_source_are_told_apart(tmp_path):
    """An exported folder is measured in PyTorch, in 32 and in 8 bits."""
    figures = {"parameters": 10, "mb_float32": 0.1, "gmacs_per_10s": 1.0, "speed": [{"rtf": 0.5}]}
    roles = ["PyTorch", "32 bits", "8 bits"]
    models = [{"role": role, "source": "models/x", **figures} for role in roles]
    models.append({"role": "teacher", "source": "hf:t", **figures})
    machine = {"gpu": None, "cpu": "CPU", "cores": 2, "torch": "2"}
    (tmp_path / "profile.json").write_text(json.dumps({"machine": machine, "threads": 1, "models": models}))
    _, encoders = read_profile(tmp_path / "profile.json")
    assert [one.name for one in encoders] == [*(f"models/x ({role})" for role in roles), "hf:t"]


def test_what_is_missing_is_named_and_the_rest_shown(folder, capsys):
    (folder / "teacher" / "seed1" / "st.json").write_text("{")
    (folder / "cut" / "seed1" / "distil.log").unlink()
    (folder / "small" / "seed1" / "distil.done").write_text('{"seco')
    (folder / "profile.json").write_text("{}")
    (folder / "report.json").write_text('{"results": 3}')
    (folder / "data" / "en-1.wav").unlink()
    scores = folder / "cut" / "seed1" / "asr.json"
    wrong = json.loads(scores.read_text())
    wrong["overall"]["wer"] += 0.5
    scores.write_text(json.dumps(wrong))
    (folder / "layers.tsv").write_text("\n".join((folder / "layers.tsv").read_text().split("\n")[:7]))
    page = html.fromstring(page_of(folder, code=1))
    assert "missing: " in capsys.readouterr().out
    (missing,) = [one for one in page.iter("section") if one.get("id") == "missing"]
    for words in (
        "st.json: is not JSON",
        "distil.log: cannot be read",
        "distil.done: is not JSON",
        "profile.json: lacks 'machine'",
        "report.json: is no report of a recipe",
        "asr.json: is not the score of",
        "layers.tsv: is no complete table",
    ):
        assert words in missing.text_content()
    tables = tables_of(page, TITLES["asr"])
    (row,) = tables["Percent, all utterances"]["cut only"]
    assert row["WER"] == (f"{wrong['overall']['wer']:.2f}", "")  # the figure, and no interval
    assert "small over the cut" not in tables["Paired comparisons"]
    assert "en-1.wav: cannot be read" in page.text_content()


def test_plans_of_several_claims_are_given_one_at_a_time(folder, capsys):
    """As the campaign leaves them: a plan and an entry in report.json for each claim, and no profile."""
    plan, report = (json.loads((folder / name).read_text()) for name in ("plan.json", "report.json"))
    for name in ("plan.json", "report.json", "profile.json"):
        (folder / name).unlink()
    for claim in ("claim1", "claim2"):
        (folder / f"{claim}.plan.json").write_text(json.dumps({**plan, "title": claim.upper(), "encoders": None}))
    (folder / "report.json").write_text(json.dumps({"claims": [report, report]}))
    assert colld(["report", str(folder)]) == 2
    assert "give the plan of one" in (told := capsys.readouterr().err) and "claim2.plan.json" in told
    assert colld(["report", str(folder / "claim2.plan.json")]) == 0
    page = html.parse(str(folder / "claim2.html")).getroot()
    assert page.find(".//h1").text_content() == "CLAIM2" and not (folder / "report.html").exists()
    assert tables_of(page, TITLES["asr"])["Percent, all utterances"]["cut only"]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda plan: plan["results"][0].update(scores=["../outside.json"]), "outside of"),
        (lambda plan: plan["results"][0].pop("label"), "lacks 'label'"),
        (lambda plan: plan.update(results=7), "is not what a recipe writes"),
        (lambda plan: plan.update(results=[]), "give a folder that has"),
    ],
)
def test_plans_that_are_none(folder, capsys, spoil, message):
    for table in folder.glob("*.tsv"):
        table.unlink()
    plan = json.loads((folder / "plan.json").read_text())
    spoil(plan)
    (folder / "plan.json").write_text(json.dumps(plan))
    assert colld(["report", str(folder)]) == 2
    assert message in capsys.readouterr().err and not (folder / "report.html").exists()


def test_folders_that_are_none(tmp_path, capsys):
    for arguments, message in (
        ([], "give the output folder"),
        ([tmp_path / "no"], "is no folder"),
        ([tmp_path], "no generate-*.txt"),
        ([tmp_path, tmp_path], "give --out"),
    ):
        assert colld(["report", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err
