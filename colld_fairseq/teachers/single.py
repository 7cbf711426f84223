"""Teachers that know one utterance at a time: graphs of ONNX, and classes of the user's own.

Padding, batches and lengths are no concern of theirs, so that nothing of these can go wrong in a graph or a class that
nobody here has seen.
"""

from typing import Any, Dict, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from colld_fairseq.checkpoints import onnx_graph, python_class
from colld_fairseq.checkpoints.onnx_graph import GraphDescription
from colld_fairseq.checkpoints.onnx_reading import open_graph
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.teachers.base import Teacher


class SingleTeacher(Teacher):
    """N samples give (N - kernel_samples) // hop_samples + 1 frames.

    Subclasses implement `features_of`.
    """

    def __init__(self, module: nn.Module, *, kernel_samples: int, hop_samples: int, **description: Any) -> None:
        if description["kind"] != "layer":
            raise TeacherError(f"teacher {description['spec']}: has layers by name, no kind {description['kind']!r}")
        super().__init__(module, **description)
        self.kernel_samples, self.hop_samples = kernel_samples, hop_samples

    def output_lengths(self, lengths: Tensor) -> Tensor:
        frames = torch.div(lengths - self.kernel_samples, self.hop_samples, rounding_mode="floor") + 1
        return frames.clamp(min=0)

    def features_of(self, waveform: Tensor) -> Mapping[int, Tensor]:
        """Layer -> [T, D] of one waveform [N] in [-1, 1] at 16 kHz, on the waveform's device."""
        raise NotImplementedError

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        frames = self.output_lengths(lengths).tolist()
        rows = []
        for waveform, samples, expected in zip(waveforms, lengths.tolist(), frames):
            features = self.features_of(waveform[:samples])
            rows.append({layer: self._checked(features, layer, samples, expected) for layer in self.layers})
        pad = nn.utils.rnn.pad_sequence
        return {layer: pad([row[layer] for row in rows], batch_first=True) for layer in self.layers}

    def _checked(self, features: Mapping[int, Tensor], layer: int, samples: int, frames: int) -> Tensor:
        """One layer [T, D]. Raises TeacherError where it is not what the description says."""
        value = features.get(layer)
        shape = None if value is None else tuple(value.shape)
        if shape == (frames, self.width):
            return value.to(self.dtype)
        where = f"teacher {self.spec}: layer {layer} of {samples} samples"
        if value is None or value.dim() != 2 or shape[1] != self.width:
            raise TeacherError(f"{where} is {shape}, its description says [frames, {self.width}]")
        most = samples - (shape[0] - 1) * self.hop_samples
        raise TeacherError(
            f"{where} has {shape[0]} frames, but {frames} at {self.frame_rate_hz:g} Hz with kernel_samples"
            f" {self.kernel_samples}: mend frame_rate_hz, or kernel_samples ({max(1, most - self.hop_samples + 1)} to"
            f" {most} would agree)"
        )


class OnnxTeacher(SingleTeacher):
    """A graph in ONNX Runtime, on CUDA where waveforms lie there and the runtime can.

    The graph is cut behind the highest layer asked for; layers may be inner tensors of it.
    """

    def __init__(self, name: str, description: GraphDescription, **request: Any) -> None:
        super().__init__(
            nn.Identity(),
            num_layers=max(description.layers),
            width=description.width,
            frame_rate_hz=float(description.frame_rate_hz),
            kernel_samples=description.kernel_samples or description.hop,
            hop_samples=description.hop,
            **request,
        )
        self.description, self.input = description, StudentInput(description.input_config)
        unnamed = [layer for layer in self.layers if layer not in description.layers]
        if unnamed:
            known = ", ".join(map(str, sorted(description.layers)))
            raise TeacherError(f"teacher {self.spec}: layer {unnamed[0]} is not described; there are {known}")
        self.file, self.graph = str(onnx_graph.resolve_file(name)), cut(name, description, self.layers)
        self.session, self.provider = None, ""

    def features_of(self, waveform: Tensor) -> Dict[int, Tensor]:
        described = self.description
        array = self.input(waveform.cpu().numpy())
        session = self._session(waveform.device)
        given = {described.source or session.get_inputs()[0].name: np.ascontiguousarray(array[None], np.float32)}
        if described.lengths:
            given[described.lengths] = np.array([len(array)], dtype=np.int64)
        try:
            outputs = session.run([described.layers[layer] for layer in self.layers], given)
        except Exception as error:  # of the runtime, of several kinds
            raise TeacherError(f"teacher {self.spec}: ONNX Runtime stops on an utterance ({error})") from error
        tensors = (torch.from_numpy(output[0]).to(waveform.device) for output in outputs)
        if described.axes == "time_last":
            tensors = (tensor.transpose(0, 1) for tensor in tensors)
        return dict(zip(self.layers, tensors))

    def _session(self, device: torch.device):
        """ONNX Runtime for tensors of this device."""
        import onnxruntime

        wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        provider = wanted if wanted in onnxruntime.get_available_providers() else "CPUExecutionProvider"
        if provider != self.provider:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            # Weights in files of their own lie beside the graph.
            folder = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(folder, str(onnx_graph.resolve_file(self.file).parent))
            content = self.graph.SerializeToString()
            try:
                self.session = onnxruntime.InferenceSession(content, options, providers=[provider])
            except Exception as error:
                raise TeacherError(f"teacher {self.spec}: ONNX Runtime does not take it ({error})") from error
            self.provider = provider
        return self.session


def cut(name: str, description: GraphDescription, layers: Sequence[int]):
    """The graph with these layers as its outputs and nothing else. Raises ConfigError where it has no such tensor."""
    import onnx

    path = onnx_graph.resolve_file(name)
    model = open_graph(path)
    onnx_graph.weight_files(path, model)  # refuses those outside its folder
    names = [description.layers[layer] for layer in layers]
    there = {output for node in model.graph.node for output in node.output}
    missing = [each for each in names if each not in there]
    if missing:
        outputs = ", ".join(value.name for value in model.graph.output)
        raise ConfigError(f"{name}: has no tensor {missing[0]!r}; its outputs are {outputs}")
    inputs = [value.name for value in model.graph.input]
    wrong = [each for each in (description.source, description.lengths) if each and each not in inputs]
    if wrong:
        raise ConfigError(f"{name}: has no input {wrong[0]!r}; it takes {', '.join(inputs)}")
    known = {value.name: value for value in (*model.graph.output, *model.graph.value_info)}
    del model.graph.output[:]
    model.graph.output.extend(known.get(each) or onnx.helper.make_empty_tensor_value_info(each) for each in names)
    return model


class PythonTeacher(SingleTeacher):
    """A class of the user's own: see docs/own_teacher.md."""

    def __init__(self, name: str, **request: Any) -> None:
        own = python_class.find(name)
        try:
            self.own = own()
        except Exception as error:
            raise TeacherError(f"teacher {request['spec']}: {own.__name__}() fails ({error})") from error
        module = self.own if isinstance(self.own, nn.Module) else nn.Identity()
        super().__init__(module, **python_class.shape_of(name), **request)

    def features_of(self, waveform: Tensor) -> Mapping[int, Tensor]:
        return self.own.features(waveform.to(self.dtype), self.layers)
