"""CTC students for onnx-asr, whose one kind of model with icefall's filterbanks is a transducer.

With one label per frame its greedy search is the best path of CTC, if a label that goes on over several frames is that
label at the first of them and a blank at the others. Prediction network and joiner add nothing of their own.
"""

import json
from typing import Dict, List, Mapping, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from colld_fairseq.export.clients import ClientModel
from colld_fairseq.export.comparison import run_in_runtime
from colld_fairseq.export.ctc import Ctc, Output
from colld_fairseq.export.ctc_graph import CtcGraph
from colld_fairseq.export.ctc_slots import FBANK_RATE_HZ, example_of
from colld_fairseq.export.family import Exported, Graph
from colld_fairseq.export.symbols import client_symbols, never_emitted, tokens_file
from colld_fairseq.export.transducer_card import ONNX_ASR

FOLDER = "model/"  # in which onnx-asr looks for graphs and symbols
ENCODER, DECODER, JOINER = (FOLDER + name for name in ("encoder", "decoder", "joiner"))
CONTEXT = 2  # symbols that onnx-asr gives a prediction network
CERTAIN = 1e9  # added to a blank's log-probability: no label has more
CARD = """\
# A speech recognizer in ONNX, for onnx-asr

Exported by colld_fairseq; an encoder of {layers} layers × {width} with a CTC layer, {rate:g} frames per second. It is
dressed as a transducer, the one kind of model for which onnx-asr computes these features: `encoder.onnx` is all of the
student and marks frames that repeat the label before, `joiner.onnx` makes blanks of those, `decoder.onnx` says nothing.

| file | what it is | size |
|---|---|---|
{files}
| `model/tokens.txt` | symbol and id, a line each | |

The encoder's graph normalizes ({input}): give it what is not normalized.
"""


class MarkedCtc(nn.Module):
    """Log-probabilities, and behind them whether a frame's best symbol is that of the frame before."""

    def __init__(self, graph: CtcGraph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor, x_lens: Tensor) -> Tuple[Tensor, Tensor]:
        """Filterbanks [N, T, bins], lengths [N] -> [N, F, V + 1] and frames [N]."""
        log_probs, frames = self.graph(x, x_lens)
        best = log_probs.argmax(-1, keepdim=True)
        repeats = (best[:, 1:] == best[:, :-1]).to(log_probs.dtype)
        marks = torch.cat((torch.zeros_like(log_probs[:, :1, :1]), repeats), dim=1)
        return torch.cat((log_probs, marks), dim=-1), frames


class Silent(nn.Module):
    """A prediction network that says nothing."""

    def forward(self, y: Tensor) -> Tensor:
        """Symbols int64 [N, CONTEXT] -> zeros [N, 1]."""
        return 0.0 * y[:, :1].float()


class BlankRepeats(nn.Module):
    """A joiner that puts the blank where a frame repeats the label before."""

    def __init__(self, symbols: int, blank: int) -> None:
        super().__init__()
        self.register_buffer("blank", CERTAIN * nn.functional.one_hot(torch.tensor(blank), symbols).float())

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """[N, V + 1] and [N, 1] -> [N, V]."""
        return encoder_out[:, :-1] + encoder_out[:, -1:] * self.blank + decoder_out


class OnnxAsrCtc(Ctc):
    """A student with a CTC layer, as onnx-asr's `kaldi-rnnt`."""

    exporters = ("torchscript",)  # torch.export fails on the graphs of the dress

    def graphs(self) -> List[Graph]:
        source, lengths = example_of(self.kind, self.student)[0].values()
        vocabulary = self.recogniser.vocabulary
        whole = CtcGraph(self.model, self.kind.normalization(self.student), never_emitted(vocabulary))
        symbols = self.model.ctc.out_features
        batch = {0: "batch"}
        return [
            Graph(
                ENCODER,
                MarkedCtc(whole).eval(),
                {"x": source, "x_lens": lengths},
                ["encoder_out", "encoder_out_lens"],
                {
                    "x": {0: "batch", 1: "length"},
                    "x_lens": batch,
                    "encoder_out": {0: "batch", 1: "frames"},
                    "encoder_out_lens": batch,
                },
                self.own_metadata,
            ),
            Graph(
                DECODER,
                Silent().eval(),
                {"y": torch.zeros(2, CONTEXT, dtype=torch.int64)},
                ["decoder_out"],
                {"y": batch, "decoder_out": batch},
            ),
            Graph(
                JOINER,
                BlankRepeats(symbols, vocabulary.dictionary.bos()).eval(),
                {"encoder_out": torch.randn(2, symbols + 1), "decoder_out": torch.randn(2, 1)},
                ["logit"],
                {name: batch for name in ("encoder_out", "decoder_out", "logit")},
            ),
        ]

    def files(self) -> Dict[str, str]:
        config = {
            "model_type": self.kind.name,
            "features_size": self.student.config.input.bins,
            "subsampling_factor": round(FBANK_RATE_HZ / self.student.frame_rate_hz),
            "max_tokens_per_step": 1,
        }
        tokens = tokens_file(client_symbols(self.recogniser.vocabulary))
        return {f"{FOLDER}tokens.txt": tokens, "config.json": json.dumps(config, indent=2) + "\n"}

    def card(self, sizes: Mapping[str, int]) -> str:
        config = self.student.config
        head = CARD.format(
            layers=config.layers,
            width=config.embed_dim,
            rate=self.student.frame_rate_hz,
            files="\n".join(f"| `{name}` | a graph | {size / 1e6:.1f} MB |" for name, size in sizes.items()),
            input=config.input,
        )
        return head + ONNX_ASR

    def client_model(self, exported: Exported, int8: bool = False) -> ClientModel:
        arguments = {"model": self.kind.name, "path": str(exported.folder), "quantization": "int8" if int8 else None}
        return ClientModel(self.client, self.kind.factory, arguments)

    def runtime_output(self, exported: Exported, waveform: np.ndarray, int8: bool = False) -> Output:
        source = self.graph_input(waveform)[None]
        given = [source, np.array([source.shape[1]], dtype=np.int64)]
        marked = run_in_runtime(exported.graph(ENCODER, int8), given)[0][0]
        return self._best_path(torch.from_numpy(marked[:, :-1].copy()))
