"""Language-confusion counts."""

import pytest

from colld_fairseq.errors import ColldError
from colld_fairseq.scoring.language_confusion import language_confusion, letter_script

ENGLISH = [
    "the weather is nice today",
    "where is the station",
    "this is the house of the king",
    "what is the time",
]
ITALIAN = ["il tempo è bello oggi", "dove è la stazione", "questa è la casa del re", "che ora è adesso"]
RUSSIAN = ["сегодня хорошая погода", "где находится вокзал", "это дом короля", "который час сейчас"]
REFERENCES = ENGLISH + ITALIAN + RUSSIAN
LANGUAGES = ["en"] * 4 + ["it"] * 4 + ["ru"] * 4


def test_perfect_hypotheses_are_not_confused():
    for counts in language_confusion(REFERENCES, REFERENCES, LANGUAGES).values():
        assert (counts.sentences, counts.judged, counts.wrong_script, counts.nearer_to_another) == (
            4,
            4,
            0,
            0,
        )
        assert counts.references_misjudged == 0


def test_another_script_and_another_language_of_the_same_script():
    hypotheses = list(REFERENCES)
    hypotheses[0] = RUSSIAN[1]  # English expected, Russian said
    hypotheses[4] = ENGLISH[2]  # Italian expected, English said
    result = language_confusion(hypotheses, REFERENCES, LANGUAGES)
    assert (result["en"].wrong_script, result["en"].nearer_to_another) == (1, 1)
    assert result["en"].nearest == {"en": 3, "ru": 1}
    assert (result["it"].wrong_script, result["it"].nearer_to_another) == (0, 1)
    assert result["it"].nearest == {"en": 1, "it": 3}
    assert (result["ru"].wrong_script, result["ru"].nearer_to_another) == (0, 0)


def test_the_own_reference_does_not_vouch_for_a_hypothesis():
    # The second reference labeled "it" is English; leaving it out of its own profile shows that.
    references = ENGLISH[:3] + ITALIAN[:3] + ["the time is nice"]
    result = language_confusion(references, references, ["en"] * 3 + ["it"] * 4)
    assert result["it"].references_misjudged == 1 and result["it"].nearer_to_another == 1


def test_sentences_without_letters_are_not_judged():
    result = language_confusion(["", "12 !", "hello"], ["a", "b", "hello"], ["en"] * 3)
    assert (result["en"].sentences, result["en"].judged) == (3, 1)


def test_one_language_only_has_no_trigram_count():
    counts = language_confusion(["привет the"], ["the house"], ["en"])["en"]
    assert counts.nearer_to_another is None and counts.references_misjudged is None
    assert counts.wrong_script == 1


def test_rare_foreign_letters_do_not_make_a_script_familiar():
    references = ["the house of π " + "word " * 40] * 5
    assert language_confusion(["πππ"] * 5, references, ["en"] * 5)["en"].wrong_script == 5


def test_scripts():
    assert [letter_script(c) for c in "aфい你ωﬁАא"] == [
        "LATIN",
        "CYRILLIC",
        "HIRAGANA",
        "CJK",
        "GREEK",
        "LATIN",
        "CYRILLIC",
        "HEBREW",
    ]
    assert letter_script("Ａ") == "LATIN" and letter_script("1") is None and letter_script("\u0301") is None


def test_lengths_must_agree():
    with pytest.raises(ColldError, match="2 hypotheses, 1 references"):
        language_confusion(["a", "b"], ["a"], ["en"])
