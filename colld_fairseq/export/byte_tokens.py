"""Tokens of byte-level vocabularies (Whisper's) as the bytes they stand for, and as tokens.txt of sherpa-onnx."""

import base64
from typing import Dict, List

from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary


def byte_of_character() -> Dict[str, int]:
    """How GPT-2's vocabularies write bytes: printable characters of Latin-1 stand for themselves, the other bytes, in
    order, for characters from 256 on."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {**{chr(byte): byte for byte in own}, **{chr(256 + rank): byte for rank, byte in enumerate(others)}}


def written_tokens(vocabulary: PretrainedVocabulary) -> List[int]:
    """Ids of tokens that text is made of."""
    no_text = vocabulary.tag_ids | {vocabulary.dictionary.eos()}
    return [index for index in range(len(vocabulary.dictionary)) if index not in no_text]


def base64_tokens(vocabulary: PretrainedVocabulary) -> str:
    """`token id`, a line for each token that text is made of, its bytes in base64."""
    bytes_of, symbols = byte_of_character(), vocabulary.dictionary.symbols
    pairs = ((bytes(bytes_of[character] for character in symbols[i]), i) for i in written_tokens(vocabulary))
    return "".join(f"{base64.b64encode(token).decode()} {index}\n" for token, index in pairs)
