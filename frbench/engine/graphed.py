"""The training step on CUDA, captured once and replayed: the same arithmetic without the launches.

A step of a recipe is some thousand small kernels, and issuing them from Python takes longer than
running them. The first step of each shape and phase is captured as one CUDA graph; the network
inside it can be compiled first, which fuses what lies between the convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from frbench.engine.device import Device, compile_anew
from frbench.engine.recipe import Recipe
from frbench.engine.settings import Frame
from frbench.engine.step import TrainingStep
from frbench.errors import FrbenchError, first_line
from frbench.notices import to_stderr

WARM_UP = 3
WORTH_COMPILING = 5_000
"""Steps of a run from which on compiling pays for itself.

With the capture it took 24 s for ResNet-18, whose steps become 11 ms shorter, and 29 s for
WideResNet-34-10, 52 ms (H200, 16 cores); a host with fewer cores needs longer.
"""

_PERHAPS_MEMORY = "; if memory is short, a new start with a smaller batch_size may be faster"
"""Out of memory, torch 2.11 can break a capture and report only that (pytorch issue 159594)."""


def make_step(
    model: nn.Module,
    recipe: Recipe,
    frame: Frame,
    device: Device,
    steps: int,
    notice: Callable[[str], None] = to_stderr,
) -> TrainingStep:
    """The fastest step for this device and length of run.

    Args:
        model: in train mode, on the device.
        recipe: what to train.
        frame: its settings.
        device: where.
        steps: of the whole run.
        notice: told, in one line, when a faster path fails and a slower one takes over.
    """
    if not device.cuda or device.compile == "off":
        return TrainingStep(model, recipe, frame, device)
    compiled = device.compile == "on" or steps >= WORTH_COMPILING
    return GraphedStep(model, recipe, frame, device, compiled=compiled, notice=notice)


class _Networks(NamedTuple):
    """What the forwards of the loss and those of the attack run through."""

    network: nn.Module
    victim: nn.Module


@dataclass(frozen=True)
class _Captured:
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    noise: Tensor
    loss: Tensor


class GraphedStep(TrainingStep):
    """A `TrainingStep` that replays a captured graph for full batches.

    Other batches (the last one of an epoch) run step by step on the plain network.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        frame: Frame,
        device: Device,
        *,
        compiled: bool,
        notice: Callable[[str], None],
    ) -> None:
        super().__init__(model, recipe, frame, device)
        self._plain = self._fast = _Networks(model, self.victim)
        if compiled:
            self._fast = _Networks(*compile_anew(*self._plain, dynamic=False))
        self._notice = notice
        self._graphs: dict[object, _Captured | None] = {}

    def update(self, images: Tensor, labels: Tensor, noise: Tensor, epoch: int) -> Tensor:
        """As `TrainingStep.update`, replayed where it can be."""
        if len(images) != self.frame.batch_size:
            return super().update(images, labels, noise, epoch)
        phase = self._phase(epoch)
        if phase not in self._graphs:
            self._graphs.clear()  # a graph keeps its memory, and no phase comes back
            self._graphs[phase] = self._try_capture(images, labels, noise, epoch)
        captured = self._graphs[phase]
        if captured is None:
            return super().update(images, labels, noise, epoch)
        captured.images.copy_(images)
        captured.labels.copy_(labels)
        captured.noise.copy_(noise)
        captured.graph.replay()
        return captured.loss.clone()

    def _phase(self, epoch: int) -> tuple[str, ...]:
        """What is active in a step: another set of mechanisms is another graph.

        An average only watches the weights after the step.
        """
        return tuple(
            m.kind
            for m in self.recipe.mechanisms
            if m.active(epoch) and m is not self.recipe.average
        )

    def _try_capture(
        self, images: Tensor, labels: Tensor, noise: Tensor, epoch: int
    ) -> _Captured | None:
        """Capture with the compiled network, else with the plain one, else not at all."""
        for networks in dict.fromkeys((self._fast, self._plain)):
            saved = [tensor.clone() for tensor in self._state()]
            try:
                self.network, self.victim = networks
                return self._capture(images, labels, noise, epoch)
            except (torch.OutOfMemoryError, FrbenchError):
                raise
            except Exception as error:  # compilers and drivers raise whatever they like
                what = "captured" if networks is self._plain else "compiled"
                reason = first_line(error)
                if "error during capture" in reason:
                    reason += _PERHAPS_MEMORY
                self._notice(f"the step cannot be {what} here, going on without: {reason}")
            finally:
                self.network, self.victim = self._plain
                with torch.no_grad():
                    for tensor, value in zip(self._state(), saved, strict=True):
                        tensor.copy_(value)
        return None

    def _capture(self, images: Tensor, labels: Tensor, noise: Tensor, epoch: int) -> _Captured:
        static = images.clone(), labels.clone(), noise.clone()
        current = torch.cuda.current_stream()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    super().update(*static, epoch)
        finally:  # what a broken warm-up still writes must not come after the weights' return
            current.wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        # When a capture fails, `torch.cuda.graph` leaves torch on its stream (2.11).
        with torch.cuda.stream(current), torch.cuda.graph(graph):
            loss = super().update(*static, epoch)
        return _Captured(graph, *static, loss)

    def _state(self) -> list[Tensor]:
        """Everything that a step changes; the warm-up must leave no trace in it."""
        return [*self.model.state_dict().values(), *self.momentum.values()]
