"""A second device without hardware: tensors that say they are on `DEVICE`, hold values, and refuse what a GPU would.

    with second_device():
        loss(torch.randn(2, 3, device=DEVICE), ...).backward()

Raises DeviceMismatch where tensors of both devices meet, but for what torch allows: CPU tensors of no dimension, CPU
indices, copies. What wants the memory itself, such as `numpy()`, is an error as it is on a GPU. The device is called
"meta:0", as "meta" is the only kind besides "cpu" that autograd runs on without a driver; unlike torch's it computes,
on the CPU. No tensor on it can be resized in place.
"""

import contextlib
from typing import Iterator

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta", 0)
aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class DeviceMismatch(RuntimeError):
    """Tensors of one operation are on different devices."""


class OnDevice(torch.Tensor):
    """A tensor of the device; `inner` has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnDevice":
        memory = dict(strides=inner.stride(), storage_offset=inner.storage_offset())
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=DEVICE, **memory)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})

    def tolist(self):
        return self.inner.tolist()

    def __format__(self, how):
        return format(self.inner, how)

    def backward(self, gradient=None):
        torch.autograd.backward(self, gradient)  # torch's method would turn the modes off in what it calls


class Operations(TorchDispatchMode):
    _should_skip_dynamo = classmethod(lambda cls: False)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


class Factories(TorchFunctionMode):
    """What goes to the device past the dispatcher: torch.tensor(device=...), lists as indices; and what a tensor's
    memory is resized by."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.tensor and kwargs.get("device") is not None:
            return function(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], OnDevice):
            return function(args[0], indices(args[1]), *args[2:])
        if function is torch.Tensor.resize_ and isinstance(args[0], OnDevice):
            return resized(args[0], *args[1:])
        return function(*args, **kwargs)


def indices(index):
    """Lists in it as tensors."""
    if isinstance(index, tuple):
        return tuple(map(indices, index))
    return torch.tensor(index) if isinstance(index, list) and index else index


def resized(x, *size):
    """`x.resize_(*size)`."""
    x.inner = x.inner.clone().resize_(*size)
    x.data = OnDevice(x.inner)
    return x


def compute(operation, args, kwargs):
    """The operation on the values; what it makes is on the device that its arguments or `device=` say."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    ours = [value for value in tensors if isinstance(value, OnDevice)]
    if any(value.device.type == DEVICE.type and not isinstance(value, OnDevice) for value in tensors):
        raise DeviceMismatch(f"{operation}: a tensor has come to {DEVICE} without its values")
    indexes = operation in INDEXING and isinstance(args[0], OnDevice)
    if ours and operation not in COPIES and not indexes:
        others = [tuple(value.shape) for value in tensors if not isinstance(value, OnDevice) and value.dim()]
        if others:
            raise DeviceMismatch(f"{operation}: tensors of shape {others} are on the CPU, others on {DEVICE}")
    on_device = bool(ours) if operation is not aten.copy_.default else isinstance(args[0], OnDevice)
    if kwargs.get("device") is not None:
        on_device, kwargs = torch.device(kwargs["device"]).type == DEVICE.type, {**kwargs, "device": "cpu"}
    result = operation(*tree_map(values_of, args), **tree_map(values_of, kwargs))
    if not on_device:
        return result
    known = {id(value.inner): value for value in ours}  # in-place operations return one of their arguments

    def placed(value):
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else OnDevice(value)

    return tree_map(placed, result)


def values_of(value):
    return value.inner if isinstance(value, OnDevice) else value


class Autocast(torch.autocast):
    """That of the CPU for this device, which has none."""

    def __init__(self, device_type: str, *how, **named) -> None:
        super().__init__("cpu" if device_type == DEVICE.type else device_type, *how, **named)


class Generator(torch.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu" if torch.device(device) == DEVICE else device)


@contextlib.contextmanager
def second_device() -> Iterator[None]:
    with autocast_and_generator(), Operations(), Factories():
        yield


@contextlib.contextmanager
def autocast_and_generator() -> Iterator[None]:
    before = torch.autocast, torch.Generator
    torch.autocast, torch.Generator = Autocast, Generator
    try:
        yield
    finally:
        torch.autocast, torch.Generator = before
