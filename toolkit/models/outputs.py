"""A network as the graph that ships: its module, its outputs in order, and what each output means to the device.

A student is exported as it is, a teacher in its dense form (`dense_teacher`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ...runtime.manifest import TaskOutput
from ...runtime.task import Task
from .dense_teacher import DenseTeacher, as_graph, dense_names
from .network import Network, tensor_names
from .student_heads import MAX_BOXES, NMS_IOU, SCORE_FLOOR


def graph_outputs(network: Network) -> tuple[str, ...]:
    """Names of the graph's raw outputs, in the order of the tasks."""
    student = network.architecture.role == "student"
    return tuple(
        name for task in network.tasks for name in (tensor_names(task, "student") if student else dense_names(task))
    )


def task_outputs(
    network: Network, locked: Mapping[str, tuple[float, ...]], warmth: Mapping[str, float] | None = None
) -> tuple[TaskOutput, ...]:
    """How the graph's raw outputs become answers.

    Args:
        network: student or teacher.
        locked: thresholds by task; a task that is absent has none.
        warmth: temperatures by task; 1 where absent.
    """
    graph = as_graph(network)
    return tuple(_output(graph, network, task, locked.get(task.name, ()), warmth or {}) for task in network.tasks)


def shipped_task(task: Task) -> Task:
    """The task without what only training and proof need: columns, plausible values, weight, margins and the like."""
    return msgspec.structs.replace(
        task, columns=(), ignore_column="", plausible=None, weight=1.0, margins={}, critical=()
    )


def _output(
    graph: Network | DenseTeacher,
    network: Network,
    task: Task,
    thresholds: tuple[float, ...],
    warmth: Mapping[str, float],
) -> TaskOutput:
    boxes = task.kind == "detection"
    if boxes and isinstance(graph, DenseTeacher):
        return graph.output_of(shipped_task(task), thresholds)
    mean, std = network.target_scale.get(task.name, ((), ()))
    return TaskOutput(
        task=shipped_task(task),
        tensors=tensor_names(task, "student"),
        thresholds=thresholds,
        mean=mean,
        std=std,
        temperature=warmth.get(task.name, 1.0),
        stride=network.architecture.box_stride if boxes else 0,
        nms_iou=NMS_IOU,
        score_floor=SCORE_FLOOR,
        max_boxes=MAX_BOXES,
    )
