"""Utterances through onnx-asr: `python onnx_asr_client.py FACTORY ARGUMENTS A.npy ...`, each float32 [N] at 16 kHz.

As `sherpa_client.py` does for sherpa-onnx: FACTORY of the package with ARGUMENTS as JSON, and a JSON object for each.
Its text is the tokens side by side: onnx-asr itself leaves out spaces that no letter follows.
"""

import json
import operator
import sys
from typing import List

import numpy as np
import onnx_asr


def main(factory: str, arguments: str, paths: List[str]) -> None:
    model = operator.attrgetter(factory)(onnx_asr)(**json.loads(arguments), providers=["CPUExecutionProvider"])
    for result in model.with_timestamps().recognize([np.load(path) for path in paths], sample_rate=16000):
        text = "".join(result.tokens).strip()
        print(json.dumps({"text": text, "tokens": result.tokens, "timestamps": result.timestamps}))


if __name__ == "__main__":
    main(*sys.argv[1:3], sys.argv[3:])
