"""A step as a CUDA graph: a small model's step is some thousand short kernels, and starting them takes most of it."""

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP = 3


class Replay:
    """A function of tensors on a GPU, recorded once and replayed on other values of the same shapes.

    It must not wait for the GPU, nor read values on the host; what it reads besides its inputs must stay where it is.
    The recording calls the function three times. Every call returns the same tensor, written anew.
    """

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        self.shapes = [each.shape for each in inputs]
        self._inputs = [each.clone() for each in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function of inputs."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._output
