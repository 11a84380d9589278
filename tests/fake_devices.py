"""GPUs where there are none: CPU tensors that bear the name of a device, and torch's rules for mixing them."""

from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


CPU = torch.device("cpu")
INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
COPYING = (torch.Tensor.copy_, torch.Tensor.data.__set__, torch.Tensor.type_as)


_moved: dict[int, tuple[torch.Tensor, torch.device]] = {}  # by storage, which is kept alive with its address


class FakeDevices(TorchFunctionMode):
    """While active, `.to("cuda:1")` and the like give tensors that say so and refuse to meet those of other devices.

    Kept to torch's rules: a number (0-dim) of the CPU goes with everything, an index on the CPU with every tensor, a
    copy between devices is one. Whoever asks what the devices can do is told of an H100, for which transformers takes the same
    kernels as on a CPU.
    """

    def __enter__(self) -> "FakeDevices":
        self._capability = patch.object(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        self._capability.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._capability.stop()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return device_of(args[0])

        if func == torch.Tensor.is_cuda.__get__:
            return device_of(args[0]).type == "cuda"

        device = self._asked_for(func, args, kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if device is not None and func in (torch.Tensor.to, torch.Tensor.cpu):
            return _moved_to(device, *args, **kwargs)

        if device is None:
            device = device_of(args[0]) if func in (*COPYING, *INDEXING) else self._common(func, tensors)
            if func in INDEXING:
                self._check_index(*args)

        if func == torch.histc and device.type == "cuda":  # which counts integers too, as the CPU does not
            result = func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
        else:
            result = func(*args, **kwargs)

        if func == torch.Tensor.data.__set__:
            args[0].fake_device = device_of(args[1])

        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and not any(leaf is tensor for tensor in tensors):
                leaf.fake_device = device

        return result

    @staticmethod
    def _asked_for(func: Any, args: tuple, kwargs: dict[str, Any]) -> torch.device | None:
        """The device that a call names, which is taken out of its keywords."""
        device = kwargs.pop("device", None)
        if device is None and func == torch.Tensor.to:
            device = next((arg for arg in args[1:] if _names_device(arg)), None)

        if device is None and func == torch.Tensor.cpu:
            device = CPU

        if isinstance(device, torch.Tensor):
            return device_of(device)

        return None if device is None else torch.device(device)

    @staticmethod
    def _common(func: Any, tensors: list[torch.Tensor]) -> torch.device:
        devices = {device_of(tensor) for tensor in tensors if tensor.dim() or device_of(tensor) != CPU}
        if len(devices) > 1:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} found {devices}")

        return devices.pop() if devices else CPU

    @staticmethod
    def _check_index(tensor: torch.Tensor, index: Any, value: Any = None) -> None:
        for leaf in tree_leaves(index):
            if isinstance(leaf, torch.Tensor) and device_of(leaf) not in (CPU, device_of(tensor)):
                raise RuntimeError(f"An index on {device_of(leaf)} into a tensor on {device_of(tensor)}")

        if isinstance(value, torch.Tensor) and value.dim() and device_of(value) != device_of(tensor):
            raise RuntimeError(f"A value on {device_of(value)} for a tensor on {device_of(tensor)}")


def device_of(tensor: torch.Tensor) -> torch.device:
    """Where a tensor says it is."""
    if not hasattr(tensor, "fake_device"):  # a parameter made of what had been moved
        _, device = _moved.get(tensor.untyped_storage().data_ptr(), (None, CPU))
        tensor.fake_device = device

    return tensor.fake_device


def _moved_to(
    device: torch.device, tensor: torch.Tensor, *more: Any, copy: bool = False, **kwargs: Any
) -> torch.Tensor:
    dtype = next((one.dtype for one in more if isinstance(one, torch.Tensor)), tensor.dtype)
    dtype = next((one for one in (*more, kwargs.get("dtype")) if isinstance(one, torch.dtype)), dtype)
    moved = tensor.to(dtype=dtype, copy=copy or device != device_of(tensor))
    if moved is not tensor:
        _moved[moved.untyped_storage().data_ptr()] = moved, device
        moved.fake_device = device

    return moved


def _names_device(value: Any) -> bool:
    return isinstance(value, str | torch.device | torch.Tensor)
