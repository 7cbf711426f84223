"""An LSTM prediction network as a graph without a state: clients of stateless networks run it as it is.

They hand a decoder the last symbols of a hypothesis, negative ones before its beginning. Told of a context of CONTEXT
symbols, the graph reads the whole hypothesis again from its start symbol, and nothing else. Torch's exporters drop the
lengths of an LSTM, so that the graph is built here, node by node.
"""

from typing import Any, Dict, List, Optional

import numpy as np
from torch import Tensor

from colld_fairseq.modules.transducer import Joiner, LstmPredictor

CONTEXT = 256  # the start symbol and 255 others; longer hypotheses lose their beginning
OPSET, IR = 17, 8  # that ONNX Runtime knows since 1.14


def lstm_decoder(predictor: LstmPredictor, joiner: Joiner, tag: Optional[int]) -> Any:
    """The model: symbols y int64 [N, CONTEXT] -> decoder_out [N, J] after the last one.

    tag: of the target language, added to every symbol; None where there is none. Symbols of at least one must not be
    negative.
    """
    from onnx import TensorProto, helper, numpy_helper

    constants: Dict[str, np.ndarray] = {
        "none": np.array(0, dtype=np.int64),
        "context": np.array(CONTEXT, dtype=np.int64),
        "last": np.array(CONTEXT - 1, dtype=np.int64),
        "positions": np.arange(CONTEXT, dtype=np.int64)[None],
        "symbols_axis": np.array([1], dtype=np.int64),
        "layers_axis": np.array([0], dtype=np.int64),
        "gates": _gates(predictor.width),
        "embedding": _array(predictor.embed.weight),
        "projection": _array(joiner.predictor_projection.weight).T.copy(),
    }
    node = helper.make_node
    nodes = [
        node("GreaterOrEqual", ["y", "none"], ["valid"]),
        node("Cast", ["valid"], ["ones"], to=TensorProto.INT64),
        node("ReduceSum", ["ones", "symbols_axis"], ["count"], keepdims=1),
        # The symbols of the hypothesis, which stand at the end, to the front.
        node("Sub", ["context", "count"], ["before"]),
        node("Add", ["positions", "before"], ["shifted"]),
        node("Min", ["shifted", "last"], ["order"]),
        node("GatherElements", ["y", "order"], ["ordered"], axis=1),
        node("Max", ["ordered", "none"], ["symbols"]),
        node("Gather", ["embedding", "symbols"], ["untagged"]),
        *_tag_nodes(tag, constants),
        node("Transpose", ["embedded"], ["layer0"], perm=[1, 0, 2]),
        node("Squeeze", ["count", "symbols_axis"], ["count64"]),
        node("Cast", ["count64"], ["lengths"], to=TensorProto.INT32),
    ]
    for layer, weights in enumerate(predictor.lstm.all_weights):
        nodes += _lstm_nodes(layer, weights, predictor.width, constants)
    nodes.append(node("Squeeze", [f"hidden{predictor.layers - 1}", "layers_axis"], ["output"]))
    nodes.append(node("MatMul", ["output", "projection"], ["decoder_out"]))
    graph = helper.make_graph(
        nodes,
        "lstm_decoder",
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", CONTEXT])],
        [helper.make_tensor_value_info("decoder_out", TensorProto.FLOAT, ["batch", joiner.output.in_features])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def _array(weight: Tensor) -> np.ndarray:
    return weight.detach().float().numpy()


def _gates(width: int) -> np.ndarray:
    """Rows of torch's weights (input, forget, cell, output gate) in ONNX's order: input, output, forget, cell."""
    into, forget, cell, output = np.split(np.arange(4 * width, dtype=np.int64), 4)
    return np.concatenate((into, output, forget, cell))


def _tag_nodes(tag: Optional[int], constants: Dict[str, np.ndarray]) -> List[Any]:
    """The embedding of the language's tag, added to each symbol's."""
    from onnx import helper

    if tag is None:
        return [helper.make_node("Identity", ["untagged"], ["embedded"])]
    constants["tag"] = np.array(tag, dtype=np.int64)
    return [
        helper.make_node("Gather", ["embedding", "tag"], ["tag_embedding"]),
        helper.make_node("Add", ["untagged", "tag_embedding"], ["embedded"]),
    ]


def _lstm_nodes(layer: int, weights: List[Tensor], width: int, constants: Dict[str, np.ndarray]) -> List[Any]:
    """One layer: from `layer{n}` [C, N, D] to `layer{n + 1}` and `hidden{n}` [1, N, D]. Its weights stay torch's, for
    the way back; a runtime puts them in order once, when it loads the graph."""
    from onnx import helper

    nodes, ordered = [], []
    for name, weight in zip(("input_weight", "recurrent_weight", "input_bias", "recurrent_bias"), weights):
        constants[f"{name}{layer}"] = _array(weight)
        ordered.append(f"ordered_{name}{layer}")
        nodes.append(helper.make_node("Gather", [f"{name}{layer}", "gates"], [ordered[-1]]))
    nodes.append(helper.make_node("Concat", ordered[2:], [f"both{layer}"], axis=0))
    given = [*ordered[:2], f"both{layer}"]
    nodes += [helper.make_node("Unsqueeze", [name, "layers_axis"], [f"one_{name}"]) for name in given]
    inputs = [f"layer{layer}", *(f"one_{name}" for name in given), "lengths"]
    nodes.append(helper.make_node("LSTM", inputs, [f"all{layer}", f"hidden{layer}"], hidden_size=width))
    nodes.append(helper.make_node("Squeeze", [f"all{layer}", "symbols_axis"], [f"layer{layer + 1}"]))
    return nodes
