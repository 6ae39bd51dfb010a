"""CUDA graphs of a compiled model: one for each combination of sizes that comes again."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tvm
import tvm_ffi

from .launch_timing import measuring_launches

if TYPE_CHECKING:
    import torch

Run = Callable[[Sequence[Any]], Sequence[Any]]
Sizes = tuple[Any, ...]

RUNS_BEFORE_CAPTURE = 2
"""A combination of sizes is captured when it comes for the third time, with its inputs in place."""

MOST_GRAPHS = 16
"""Of more, the one not used for the longest time is dropped, with its memory."""


@dataclasses.dataclass
class _Graph:
    graph: torch.cuda.CUDAGraph
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    storage: list[Any]


class CudaGraphs:
    """Replays a function of TVM's virtual machine on torch's tensors.

    The host issues some hundred launches for a model, at some microseconds each; a graph is one.
    A graph reads and writes fixed places: inputs are copied to its own tensors, and results from
    them, so that a result stays the caller's. All memory that the function took while it was
    captured is held as long as the graph is; TVM's pool would lend it to other runs.

    Args:
        machine: TVM's virtual machine.
        copies_results: false if the caller has read the results before the next call: these are
            then the graph's own tensors.
    """

    def __init__(self, machine: Any, *, copies_results: bool = True) -> None:
        self._machine = machine
        self._copies_results = copies_results
        self._seen: collections.Counter[Sizes] = collections.Counter()
        self._graphs: collections.OrderedDict[Sizes, _Graph] = collections.OrderedDict()

    def __call__(
        self, run: Run, inputs: Sequence[torch.Tensor], sizes: Sizes, *, stay: bool = False
    ) -> list[torch.Tensor]:
        """Call the function on these tensors, by a graph where there is one for the sizes.

        Args:
            run: calls the function on the machine's tensors, and gives what it gives.
            inputs: tensors on one GPU.
            sizes: what else the function's sizes depend on.
            stay: the inputs are places of :class:`InputPlaces`; a graph reads them there.
        """
        import torch

        key = (*sizes, *(_form(t) for t in inputs))
        if stay:
            key = (*key, *(t.data_ptr() for t in inputs))
        found = self._graphs.get(key)
        if found is None and self._seen[key] < RUNS_BEFORE_CAPTURE:
            self._seen[key] += 1
            results = [_as_torch(item) for item in _on_stream(run, inputs)]
            return [item.clone() for item in results] if self._copies_results else results
        if found is None:
            found = self._graphs[key] = self._capture(run, inputs, stay)
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        if not stay:
            torch._foreach_copy_(found.inputs, list(inputs), non_blocking=True)
        found.graph.replay()
        if not self._copies_results:
            return found.outputs
        return [output.clone() for output in found.outputs]

    def _capture(self, run: Run, inputs: Sequence[torch.Tensor], stay: bool) -> _Graph:
        import torch

        own = list(inputs) if stay else [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # Once beforehand with all memory held, so that the pool has enough of it after.
            with measuring_launches():
                self._run_holding(run, own)
            side.synchronize()
            _forget_library_workspaces()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=side, capture_error_mode="relaxed"):
                results, storage = self._run_holding(run, own)
        torch.cuda.current_stream().wait_stream(side)
        return _Graph(graph, own, [_as_torch(item) for item in results], storage)

    def _run_holding(self, run: Run, inputs: Sequence[torch.Tensor]) -> tuple[list[Any], list[Any]]:
        """Run, and give the results and all memory that was taken on the way."""
        held: list[Any] = []

        def hold(_: Any, name: str, before: bool, result: Any, *__: Any) -> int:
            if not before and name == "vm.builtin.alloc_storage":
                held.append(result)
            return 0

        self._machine.set_instrument(hold)
        try:
            results = _on_stream(run, inputs)
        finally:
            self._machine.set_instrument(_ignore)
        return results, held


class InputPlaces:
    """Fixed places for inputs, one set for each combination of shapes, that several graphs read.

    The graph that counts tokens and the model's read the same inputs: they are copied once.
    """

    def __init__(self) -> None:
        self._seen: set[Sizes] = set()
        self._places: collections.OrderedDict[Sizes, list[torch.Tensor]] = collections.OrderedDict()

    def __call__(self, inputs: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], bool]:
        """The inputs, and whether they were copied to places: they are once shapes come again."""
        import torch

        key = tuple(_form(tensor) for tensor in inputs)
        places = self._places.get(key)
        if key not in self._seen:
            self._seen.add(key)
            return list(inputs), False
        if places is None:
            places = self._places[key] = [torch.empty_like(tensor) for tensor in inputs]
            if len(self._places) > MOST_GRAPHS:
                self._places.popitem(last=False)
        self._places.move_to_end(key)
        torch._foreach_copy_(places, list(inputs), non_blocking=True)
        return places, True


class HostNumbers:
    """Takes a few numbers from the GPU to memory of the host that the GPU can write to."""

    def __init__(self) -> None:
        self._pinned: torch.Tensor | None = None

    def __call__(self, numbers: Any) -> torch.Tensor:
        """Start the copy of a vector, within a graph or not; the same place every time."""
        import torch

        source = _as_torch(numbers)
        if self._pinned is None:
            self._pinned = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        return self._pinned.copy_(source, non_blocking=True)

    @staticmethod
    def read(place: torch.Tensor) -> list[int]:
        """The numbers, when the current stream has come that far."""
        import torch

        torch.cuda.current_stream().synchronize()
        numbers: list[int] = place.tolist()
        return numbers


def _form(tensor: torch.Tensor) -> Sizes:
    """What a graph depends on in an input."""
    return tuple(tensor.shape), tensor.dtype, tensor.device.index


def _on_stream(run: Run, inputs: Sequence[torch.Tensor]) -> list[Any]:
    """Call with the machine's view of the tensors, on torch's current stream."""
    with tvm_ffi.use_torch_stream():
        return list(run([tvm.runtime.from_dlpack(tensor) for tensor in inputs]))


def _as_torch(tensor: Any) -> torch.Tensor:
    import torch

    return tensor if isinstance(tensor, torch.Tensor) else torch.utils.dlpack.from_dlpack(tensor)


def _forget_library_workspaces() -> None:
    """Have cuBLAS take its workspace during the capture, from memory that the graph keeps.

    A workspace from before is torch's to free, as it does when it captures graphs of its own
    (``torch.compile``), and a replay would write to it all the same.
    """
    import torch

    torch._C._cuda_clearCublasWorkspaces()


def runs_in_graph(
    function: Callable[..., Any], machine: Any, inputs: Sequence[Any], count: int
) -> Callable[[], None]:
    """What runs a function so many times by one graph, and waits for the end, to be timed.

    What a run takes is then what it takes in a model that is a graph as a whole: the launch of the
    graph and the copy of its inputs count little.

    Args:
        function: of the virtual machine.
        machine: the virtual machine.
        inputs: TVM's tensors on its device.
        count: runs in the graph, which is captured at the third call.
    """
    import torch

    graphs = CudaGraphs(machine, copies_results=False)
    tensors = [_as_torch(item) for item in inputs]

    def several(own: Sequence[Any]) -> list[Any]:
        return [next(iter(function(*own))) for _ in range(count)][-1:]

    def run() -> None:
        graphs(several, tensors, ())
        torch.cuda.synchronize()

    return run


def is_cuda_tensor(value: Any) -> bool:
    """Whether a value is a tensor of torch on a GPU; torch is not loaded to tell."""
    return type(value).__module__.partition(".")[0] == "torch" and bool(
        getattr(value, "is_cuda", False)
    )


def _ignore(*_: Any) -> int:
    return 0
