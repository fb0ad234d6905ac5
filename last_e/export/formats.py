"""The formats of an export: each is written to a file, and that file is read again and run."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from last_e.config import ModelConfig
from last_e.described import MOST_PEOPLE, Description
from last_e.environment import usable_cores
from last_e.export.about import KEY
from last_e.export.clips import Given
from last_e.export.network import INPUTS, OUTPUT, Recogniser
from last_e.model.network import LastE

Run = Callable[[Given], Tensor]

FILES = {"onnx": "model.onnx", "pt2": "model.pt2", "safetensors": "model.safetensors", "executorch": "model.pte"}
"""What the model's file is called in each format."""
OPSET = 18
MOST_FRAMES = 1_000_000
MOST_ON_A_PHONE = {"batch": 4, "frames": 1000}
"""ExecuTorch sets memory aside for the most there can be."""


def write(kind: str, recogniser: Recogniser, model: LastE, about: dict[str, Any], path: Path) -> None:
    """Write ``recogniser``, which is ``model`` with all around it, to a file of a format."""
    told = json.dumps(about, ensure_ascii=False)
    with _quiet(), torch.no_grad():
        {"onnx": _write_onnx, "pt2": _write_pt2, "safetensors": _write_safetensors, "executorch": _write_executorch}[kind](
            recogniser, model, told, path
        )


def open_to_run(kind: str, path: Path, threads: int | None = None) -> Run:
    """The model of a file, to be run on this machine's processor."""
    with _quiet():
        return {"onnx": _run_onnx, "pt2": _run_pt2, "safetensors": _run_safetensors, "executorch": _run_executorch}[kind](
            path, threads or usable_cores()
        )


def read_safetensors(path: Path) -> Recogniser:
    """The network of an export to safetensors, with all that a clip goes through before it. Nothing is unpickled.

    Raises:
        ValueError: it is no such file.
    """
    with safe_open(path, framework="pt") as file:
        told = (file.metadata() or {}).get(KEY)
        if told is None:
            raise ValueError(f"{path}: no export of lastrun: its metadata have no {KEY}")
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about = json.loads(told)
    given = {key: about[key] for key in ("classes", "skeleton", "people", "fps", "units")}
    description = Description.model_validate({**given, "name": "export", "splits": {"none": ""}})
    model = LastE(ModelConfig.model_validate(about["network"]), len(description.classes), description.skeleton)
    model.load_state_dict(state)
    return Recogniser(model, description, about["input_frames"])


def _program(recogniser: Recogniser, batch: int, frames: int, people: int) -> torch.export.ExportedProgram:
    """For any number of clips, frames and people up to these."""
    sides, joints = len(recogniser.scale), len(recogniser.skeleton.joints)
    bodies = min(2, people)
    example = (
        torch.rand(2, sides, 32, joints, bodies),
        torch.tensor([32, 20]),
        torch.tensor([bodies, 1]),
    )
    clips = torch.export.Dim("batch", min=1, max=batch)
    sizes = {0: clips, 2: torch.export.Dim("frames", min=1, max=frames)}
    if people > 1:
        sizes[4] = torch.export.Dim("people", min=1, max=people)
    shapes = {"keypoints": sizes, "frames": {0: clips}, "people": {0: clips}}
    program = torch.export.export(recogniser, example, dynamic_shapes=shapes)
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)  # with the folders of this machine
    return program


def _write_onnx(recogniser: Recogniser, model: LastE, told: str, path: Path) -> None:
    import onnx
    import onnx.inliner

    program = _program(recogniser, MOST_FRAMES, MOST_FRAMES, MOST_PEOPLE)
    options = {"opset_version": OPSET, "input_names": list(INPUTS), "output_names": [OUTPUT]}
    made = torch.onnx.export(program, (), None, dynamo=True, verbose=False, **options)  # type: ignore[arg-type]
    assert made is not None
    proto = onnx.inliner.inline_local_functions(made.model_proto)  # of which older versions of torch make some
    own = [one for one in proto.opset_import if not one.domain]
    del proto.opset_import[:]
    proto.opset_import.extend(own)
    _forget_this_machine(proto.graph)
    _name_sides(proto.graph)
    del proto.metadata_props[:]
    proto.doc_string = ""
    proto.metadata_props.add(key=KEY, value=told)
    onnx.save(proto, str(path))
    onnx.checker.check_model(str(path), full_check=True)


def _forget_this_machine(graph: Any) -> None:
    """Places in the source, and torch's own names."""
    for one in [*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info, graph]:
        del one.metadata_props[:]
        one.doc_string = ""


def _name_sides(graph: Any) -> None:
    """Sides that may change, by what they are instead of by torch's numbers."""
    keypoints = graph.input[0].type.tensor_type.shape.dim
    names = {keypoints[side].dim_param: name for side, name in ((0, "batch"), (2, "frames"), (4, "people"))}
    for one in [*graph.input, *graph.output, *graph.value_info]:
        for side in one.type.tensor_type.shape.dim:
            if side.dim_param in names:
                side.dim_param = names[side.dim_param]


def _run_onnx(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(given: Given) -> Tensor:
        (logits,) = session.run([OUTPUT], {name: tensor.numpy() for name, tensor in zip(INPUTS, given)})
        return torch.from_numpy(logits)

    return run


def _write_pt2(recogniser: Recogniser, model: LastE, told: str, path: Path) -> None:
    program = _program(recogniser, MOST_FRAMES, MOST_FRAMES, MOST_PEOPLE)
    torch.export.save(program, path, extra_files={f"{KEY}.json": told})


def _run_pt2(path: Path, threads: int) -> Run:
    module = torch.export.load(path).module()

    def run(given: Given) -> Tensor:
        with torch.no_grad():
            return module(*given)  # type: ignore[no-any-return]

    return run


def _write_safetensors(recogniser: Recogniser, model: LastE, told: str, path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, {"format": "pt", KEY: told})


def _run_safetensors(path: Path, threads: int) -> Run:
    recogniser = read_safetensors(path)

    def run(given: Given) -> Tensor:
        with torch.no_grad():
            return recogniser(*given)  # type: ignore[no-any-return]

    return run


def _write_executorch(recogniser: Recogniser, model: LastE, told: str, path: Path) -> None:
    from executorch.backends.xnnpack.partition.config import ConvolutionConfig, HardswishConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = _program(recogniser, **MOST_ON_A_PHONE, people=json.loads(told)["people"])
    # XNNPACK takes tensors of which one side alone may change: those of the network, not those of a clip.
    partitioner = XnnpackPartitioner(configs=[ConvolutionConfig, HardswishConfig])
    made = to_edge_transform_and_lower(program, partitioner=[partitioner]).to_executorch()
    path.write_bytes(made.buffer)


def _run_executorch(path: Path, threads: int) -> Run:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(given: Given) -> Tensor:
        return method.execute(list(given))[0].clone()  # type: ignore[no-any-return]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """What exporters say of themselves is nothing that a user could do anything about."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
