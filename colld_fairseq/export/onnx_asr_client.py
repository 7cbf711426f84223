"""Utterances through onnx-asr: `python onnx_asr_client.py FACTORY ARGUMENTS A.npy ...`, each float32 [N] at 16 kHz.

As `sherpa_client.py` does for sherpa-onnx: FACTORY of the package with ARGUMENTS as JSON, and a JSON object for each;
`language` among them is for `recognize`. Its text is the tokens side by side: onnx-asr itself leaves out spaces that no
letter follows.
"""

import json
import operator
import sys
from typing import List

import numpy as np
import onnx_asr


def main(factory: str, arguments: str, paths: List[str]) -> None:
    given = json.loads(arguments)
    how = {"language": given.pop("language")} if "language" in given else {}
    model = operator.attrgetter(factory)(onnx_asr)(**given, providers=["CPUExecutionProvider"]).with_timestamps()
    waveforms = [np.load(path) for path in paths]
    # In windows of 30 s, each to its own end, a batch of Whisper's takes longer than its utterances one by one.
    results = (model.recognize(one, sample_rate=16000, **how) for one in waveforms) if how else ()
    for result in results or model.recognize(waveforms, sample_rate=16000):
        text = "".join(result.tokens).strip() if result.tokens else result.text  # Whisper gives no tokens
        print(json.dumps({"text": text, "tokens": result.tokens or [], "timestamps": result.timestamps or []}))


if __name__ == "__main__":
    main(*sys.argv[1:3], sys.argv[3:])
