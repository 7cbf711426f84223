"""Codes of languages, which choose the tokenizer of BLEU."""

import re

from colld_fairseq.errors import ColldError

# ISO 639-1
TWO_LETTERS = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es
et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj
kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv
ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th
ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
""".split()
_CODE = re.compile(r"([a-z]{2,3})([-_][a-z0-9]{2,8})*", re.IGNORECASE)


def is_language(code: str) -> bool:
    """Whether a code begins with a language: of ISO 639-1, or of the shape of one of ISO 639-3; then region, script."""
    match = _CODE.fullmatch(code)
    return match is not None and (len(match[1]) == 3 or match[1].lower() in TWO_LETTERS)


def check_language(code: str, where: str) -> None:
    """ColldError unless it is a language, or "" for none; `where`: the option, or file and line."""
    if code and not is_language(code):
        raise ColldError(
            f"{where}: {code!r} is no language and no file; give a code of ISO 639, for example zh, pt-BR or yue"
        )
