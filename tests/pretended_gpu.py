"""A GPU that is pretended: tensors say that they are on `cuda:0`, compute on the CPU, and keep CUDA's rules about devices.

A tensor on the pretended GPU wraps one on the CPU. Three things are watched wherever it goes:

- mixing: an operation on tensors of both devices is refused where CUDA refuses it, and so is NumPy;
- waits: operations for which the CPU waits for the GPU, since their result or its size is needed there;
- kernels: everything that is no view starts at least one.

Both are counted by the line of the library that asked for them. Not covered: the numerics of CUDA's kernels, streams, and transformers'
Trainer. Models are loaded before the GPU is entered, since loading goes by torch's own idea of where a tensor is.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
LIBRARY = str(Path("src", "feature_lineage"))

# Operations whose result, or its size, the CPU needs before it goes on.
WAITS = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten.equal, aten.is_nonzero, aten.unique_dim,
    aten._unique, aten._unique2, aten.unique_consecutive, aten.histc, aten.repeat_interleave,
}  # fmt: skip
COPIES = {aten._to_copy, aten.copy_, aten.set_}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
LIKE_ITS_INPUT = ("new_", "_sparse_csr_tensor", "_sparse_compressed_tensor")


class OnGpu(torch.Tensor):
    """A tensor that says that it is on the GPU; `held` is the one that computes."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held):
        assert type(held) is torch.Tensor
        strided = (
            {"strides": held.stride(), "storage_offset": held.storage_offset()} if held.layout is torch.strided else {}
        )
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=held.device, **strided)
        made.held = held
        return made

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    __array__ = numpy

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"OnGpu({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class Ledger:
    """What ran on the GPU since it was last cleared: operations by name, waits and kernels by the line that asked for them."""

    def __init__(self):
        self.operations, self.waits, self.kernels = Counter(), Counter(), Counter()

    def clear(self):
        for counter in vars(self).values():
            counter.clear()


ledger = Ledger()


def _asked_by():
    frame = sys._getframe(2)
    while frame and LIBRARY not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).stem}:{frame.f_lineno}" if frame else "elsewhere"


def held(value):
    """What computes behind a tensor, wherever it is."""
    return value.held if isinstance(value, OnGpu) else value


def _refused(packet, func, args, cpu):
    """Whether CUDA would refuse an operation on tensors of both devices, `cpu` among them."""
    if packet in COPIES:
        return False
    if packet in INDEXING:  # the indices may be on the CPU, and are copied
        return not isinstance(args[0], OnGpu)
    pointwise = torch.Tag.pointwise in func.tags or packet in {
        aten.where,
        aten.masked_fill,
        aten.masked_fill_,
        aten.fill_,
    }
    return not (pointwise and all(tensor.dim() == 0 for tensor in cpu))


def _run(func, args, kwargs):
    packet, schema = func.overloadpacket, func._schema
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    gpu = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    cpu = [tensor for tensor in tensors if not isinstance(tensor, OnGpu)]
    name = schema.name.removeprefix("aten::")
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if asked is None or (
        gpu and asked == CPU and name.startswith(LIKE_ITS_INPUT)
    ):  # torch fills in what it takes for the input's
        to_gpu = bool(gpu)
    else:
        to_gpu = asked.type == "cuda"
    if gpu and cpu and _refused(packet, func, args, cpu):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({name})")
    if gpu or to_gpu:
        ledger.operations[name] += 1
        line = _asked_by()
        if not func.is_view:
            ledger.kernels[line] += 1
        by_mask = packet in INDEXING and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1] or []
        )
        moves = packet in COPIES and bool(gpu) != (to_gpu if packet is aten._to_copy else not cpu)
        if packet in WAITS or by_mask or moves:
            ledger.waits[f"{line} {packet}"] += 1
    plain_args, plain_kwargs = tree_map(held, args), tree_map(held, kwargs)
    if asked is not None:
        plain_kwargs["device"] = CPU
    plain_kwargs.pop("pin_memory", None)
    found = func(*plain_args, **plain_kwargs)
    # What is written in place is given back as the tensor that was given.
    given = {}
    for number, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) and not argument.kwarg_only else kwargs.get(argument.name)
            given |= {
                id(one.held): one
                for one in (value if isinstance(value, list | tuple) else [value])
                if isinstance(one, OnGpu)
            }

    def placed(value):
        if type(value) is not torch.Tensor:
            return value
        return given[id(value)] if id(value) in given else OnGpu(value) if to_gpu else value

    return tree_map(placed, found)


class _Dispatch(TorchDispatchMode):
    """Sees operations that have no tensor of the GPU among their inputs: those that make one there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _whole(place):
    place = torch.device(place)
    return GPU if place.type == "cuda" else place


def _moved(tensor, place=None, dtype=None):
    changes = {}
    if dtype is not None and dtype != tensor.dtype:
        changes["dtype"] = dtype
    if place is not None and _whole(place) != tensor.device:
        changes["device"] = _whole(place)
    return aten._to_copy(tensor, **changes) if changes else tensor


class _Functions(TorchFunctionMode):
    """What torch settles by its own idea of a tensor's device before anything is dispatched."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to:
            tensor, *rest = args
            place, dtype = kwargs.get("device"), kwargs.get("dtype")
            for value in rest:
                if isinstance(value, torch.dtype):
                    dtype = value
                elif isinstance(value, torch.Tensor):
                    place, dtype = value.device, value.dtype
                elif isinstance(value, str | torch.device):
                    place = value
            return _moved(tensor, place, dtype)
        if func is torch.Tensor.cpu:
            return _moved(args[0], CPU)
        if func is torch.Tensor.cuda:
            return _moved(args[0], GPU)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func in (torch.tensor, torch.as_tensor):
            place = kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return made if place is None else _moved(made, place)
        if func is torch.sparse_csr_tensor and any(isinstance(value, OnGpu) for value in args):
            assert all(isinstance(value, OnGpu) for value in args[:3]), "sparse_csr_tensor: tensors on two devices"
            ledger.operations["sparse_csr_tensor"] += 1
            return OnGpu(func(*(held(value) for value in args), **kwargs))
        if kwargs.get("device") is not None:
            kwargs["device"] = _whole(kwargs["device"])
        return func(*args, **kwargs)


@contextmanager
def in_this_thread():
    """Pretend in one more thread: torch's modes are of one thread each."""
    with _Dispatch(), _Functions():
        yield


@contextmanager
def pretended_gpu(monkeypatch, memory=80 << 30):
    """Pretend a GPU of so many bytes until the context ends; yields the `Ledger`, cleared."""
    ledger.clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "a pretended GPU")
        patch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=memory))
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with in_this_thread():
                yield ledger
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)


def without_kernel(operations):
    """Those of some ATen operations for which torch's own list of kernels has none for CUDA."""
    import torchgen
    import yaml

    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    known = {}
    for entry in entries:
        keys = {key.strip() for several in entry.get("dispatch") or {} for key in several.split(",")}
        composite = not keys or "structured_delegate" in entry or any(key.startswith("Composite") for key in keys)
        name = entry["func"].partition("(")[0].partition(".")[0]
        known[name] = known.get(name, False) or composite or any(key.endswith("CUDA") for key in keys)
    return sorted(name for name in operations if not known.get(name, name == "sparse_csr_tensor"))
