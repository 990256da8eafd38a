"""How far a workflow is, from what its nodes say: a percentage that never goes back. Pure."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from gpu_endpoint.progress import Progress, Stage
from gpu_endpoint.renderers.comfyui.messages import NodeState
from gpu_endpoint.renderers.comfyui.workflow import Workflow, node_named, samples, saves

RENDERED_PERCENT: Final = 95
"""Where rendering ends and uploading begins, on the scale of the whole job."""

_SAMPLER_WEIGHT: Final = 60
_DECODE_WEIGHT: Final = 15
_SAVE_WEIGHT: Final = 4
_OTHER_WEIGHT: Final = 1


class ProgressScale:
    """Of one job, over all runs of its workflow: it stays where it is until another run is further."""

    def __init__(self, workflow: Workflow, steps: object) -> None:
        self._workflow = workflow
        self._weights = {node_id: _weight(node) for node_id, node in workflow.items()}
        self._asked_steps = steps if isinstance(steps, int) and steps > 0 else None
        self._done: set[str] = set()
        self._sampled: dict[str, tuple[int, int]] = {}
        self._running: str | None = None
        self._percent = 0
        self._step = 0

    def cached(self, nodes: Collection[str]) -> Progress:
        """These nodes need not run."""
        self._done.update(nodes)
        return self._progress({})

    def update(self, states: Mapping[str, NodeState]) -> Progress:
        """The newest states of all nodes that have begun."""
        shares: dict[str, float] = {}
        for node_id, state in states.items():
            known = node_id if node_id in self._workflow else state.display_node_id
            if known not in self._workflow:
                continue
            if node_id == known and samples(self._workflow[known]) and state.max > 1:
                self._sampled[known] = (int(state.value), int(state.max))
            if state.state == "finished":
                if node_id == known:
                    self._done.add(known)
            elif state.state == "running":
                # Between two nodes, the last one is still what is shown.
                self._running = known
                shares[known] = min(1.0, state.value / state.max) if state.max > 0 else 0.0
        return self._progress(shares)

    def _progress(self, shares: Mapping[str, float]) -> Progress:
        done = float(sum(self._weights[node_id] for node_id in self._done if node_id in self._weights))
        done += sum(self._weights[node_id] * share for node_id, share in shares.items() if node_id not in self._done)
        self._percent = max(self._percent, int(RENDERED_PERCENT * done / sum(self._weights.values())))
        step, steps = self._steps()
        running = self._running
        stage: Stage = "encoding" if running is not None and saves(self._workflow[running]) else "rendering"
        node = None if running is None else node_named(self._workflow, running).title
        return Progress(percent=self._percent, stage=stage, step=step, steps=steps, node=node)

    def _steps(self) -> tuple[int | None, int | None]:
        if not self._sampled:
            return None, None
        steps = max(self._asked_steps or 0, sum(of for _, of in self._sampled.values()))
        self._step = min(steps, max(self._step, sum(value for value, _ in self._sampled.values())))
        return self._step, steps


def _weight(node: Mapping[str, Any]) -> int:
    if samples(node):
        return _SAMPLER_WEIGHT
    if "Decode" in node["class_type"]:
        return _DECODE_WEIGHT
    return _SAVE_WEIGHT if saves(node) else _OTHER_WEIGHT
