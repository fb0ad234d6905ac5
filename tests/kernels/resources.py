"""What the kernels take of each kind of GPU, as NVIDIA's assembler tells it: prints a JSON list. No GPU is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from last_e.model import (
    fused_cuda,
    gate_kernels,
    gates,
    head_kernels,
    kernels,
    spatial,
    spatial_kernels,
    stem_kernels,
    step_kernels,
)
from last_e.model.gate_launches import PARTS as PARTS_OF_ROWS
from last_e.model.layout import COLUMNS, blocks, power_of_two

SUMS: dict[str, int] = {"R": 32, "C": 64}
PARTS: dict[str, int] = {"P": 64, "C": 16}
FRAMES: dict[str, int] = {"T": 16, "V": 8, "C": 64, "UNROLL": 2}
JOINTS: dict[str, int] = {"T": 8, "V": fused_cuda.MOST_JOINTS, "C": 64, "OUT": 16}
CLIPS: dict[str, int] = {"T": 16, "V": 32, "C": 32}
BLOCKS = blocks(fused_cuda.MOST_OUTPUTS, 16)
# As last_e.model.launches has them for the widest blocks of the networks, and for as many joints as go through them.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("moments", SUMS),
    ("affine", PARTS),
    ("norm", {**SUMS, "ADD": True, "HARDSWISH": False}),
    ("norm_sums", {**SUMS, "MORE": True, "HARDSWISH": True}),
    ("gradients", {**PARTS, "TAPS": 5}),
    ("norm_backward", {**SUMS, "MORE": True, "HARDSWISH": True}),
    *(("depthwise", {**FRAMES, "STRIDE": stride}) for stride in fused_cuda.STRIDES),
    *(("depthwise_backward", {**FRAMES, "STRIDE": stride}) for stride in fused_cuda.STRIDES),
    ("mix", {**JOINTS, "BLOCKS": BLOCKS}),
    *(("mix_backward", {**JOINTS, "BLOCKS": BLOCKS, "ADD": add, **COLUMNS}) for add in (True, False)),
    ("mix_weights", JOINTS),
    *((name, CLIPS) for name in ("pool", "scale_sums")),
    *(
        (name, {**CLIPS, **wide, "DROP": True, **more})
        for wide in ({}, {"V": gates.MOST_JOINTS, "C": 16})
        for name, more in (("scale", {}), ("tail_backward", COLUMNS))
    ),
    *(
        (name, {**more, "R": rows, "H": hidden, "num_warps": warps})
        for hidden, rows, warps, wide in (
            *((hidden, rows, 8, wide) for hidden in (16, 32) for rows, wide in ((64, 32), (32, 16))),
            (gates.MOST_HIDDEN, 16, 4, 16),
        )
        for name, more in (
            ("squeeze", {"C": 32}),
            ("excite", {"C": 32, "P": PARTS_OF_ROWS}),
            ("excite_backward", {"C": 16, "DROP": True}),
            ("squeeze_backward", {"C": wide, "P": PARTS_OF_ROWS}),
        )
    ),
    ("begin", {"T": 16, "V": 32, "J": 16, "C": 32, "B": 32}),
    ("meet_backward", {"J": 16, "C": 32, "B": 32}),
    *(
        (name, {"K": subsets, "J": power_of_two(subsets), "V": joints, "B": 32, **more})
        for joints, subsets in spatial.MOST_SUBSETS.items()
        for name, more in (("attend", {}), ("attend_backward", {"num_warps": 8}))
    ),
    ("gate_backward", {"DROP": True, "H": gates.MOST_HIDDEN, "C": 32}),
    *((name, {"R": 32, "C": 32}) for name in ("gated_pool", "gated_pool_backward")),
    *((name, {"R": 32, "C": 32, "DROP": True}) for name in ("norm_rows", "norm_rows_backward")),
    ("fold", {"P": 64, "R": 32, "C": 16}),
    ("fold_backward", {"R": 32, "C": 16}),
    ("divergence", {"WEIGHTS": True, "R": 16, "C": 128, "num_warps": 8}),
    *((name, {"SCALED": scaled, "num_warps": 1}) for name in ("judge", "step_loss") for scaled in (True, False)),
    ("settle", {"STILL": True, "S": 1024}),
    *(("cross_entropy", {"WEIGHTS": True, "R": rows, "C": 2048 // rows, "num_warps": 8}) for rows in (16, 1)),
    ("columns", COLUMNS),
]
OF_ROWS = {"squeeze", "excite", "excite_backward", "squeeze_backward"}
ACTIVATIONS = {
    "x",
    "y",
    "gradient",
    "more",
    "out",
    "add",
    "base",
    "narrow",
    "scales",
    "flowing",
    "ready",
    "of_ready",
    "shift_out",
    "of_shift",
}
NUMBERS = {"momentum", "eps", "rate", "ib_weight", "smoothing", "clip", "growth", "backoff"}
WHOLE = {
    *("many", "channels", "rows", "share", "frames", "after", "joints", "outputs", "of_clip", "chunks", "blocks", "hidden"),
    *("stride", "length", "clips", "few", "end", "subsets", "size", "count", "classes", "width", "each"),
    "interval",
}

MODULES = kernels, gate_kernels, head_kernels, spatial_kernels, stem_kernels, step_kernels
OWN = {
    "columns": {"out": "*fp32"},
    "gated_pool_backward": {"gradient": "*fp32"},
    "cross_entropy": {"label": "*i64", "gradient": "*fp32"},
    "settle": {"values": "*i64", "before": "*i64", "good": "*i1", "still": "*i1"},
    "judge": {**dict.fromkeys(("rows", "sums", "steps", "loss"), "*fp64"), "good": "*i1", "tracker": "*i32"},
    "step_loss": {"row": "*fp64"},
    **{name: dict.fromkeys(("x", "out", "flowing"), "*fp32") for name in ("norm_rows", "norm_rows_backward")},
}
"""What is of another format than where it has that name elsewhere."""


def main() -> None:
    """Of the architectures that are named (75 80 ...), for activations in the format that is named first (fp16)."""
    form, *architectures = sys.argv[1:]
    found = []
    for number in map(int, architectures):
        for name, sizes in CASES:
            if name in OF_ROWS and form == "fp32" and sizes["R"] * sizes["H"] > 1024:
                continue  # of float32 they take half as many
            if form == "fp32" and name in ("mix", "mix_backward"):
                sizes = {**sizes, "C": 32}
            began = time.perf_counter()
            kernel = compiled(name, sizes, number, form)
            taken = {**usage(kernel.asm["cubin"]), "atomics": atomics(kernel.asm["ptx"])}
            seconds = round(time.perf_counter() - began, 2)
            found.append({"kernel": name, **sizes, "sm": number, **taken, "shared": kernel.metadata.shared, "seconds": seconds})
    print(json.dumps(found))


def compiled(name: str, sizes: dict[str, Any], architecture: int, form: str) -> Any:
    """The kernel for one kind of GPU."""
    function = next(getattr(module, name) for module in MODULES if hasattr(module, name))
    own = f"*{form}"
    types = dict.fromkeys(WHOLE, "i32") | dict.fromkeys(NUMBERS, "fp32") | dict.fromkeys(ACTIVATIONS, own)
    types |= OWN.get(name, {})
    types |= {one: "*i64" for one in function.arg_names if one.startswith("tracked")}
    signature = {one: "constexpr" if one in sizes else types.get(one, "*fp32") for one in function.arg_names}
    own_sizes = {one: size for one, size in sizes.items() if one in function.arg_names}
    source = ASTSource(fn=function, signature=signature, constexprs=own_sizes)
    options = {one: size for one, size in sizes.items() if one not in own_sizes}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def atomics(ptx: str) -> int:
    """How many instructions add to memory in whatever order programs come."""
    return len(re.findall(r"\b(?:atom|red)\.", ptx))


def usage(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of its stack and of local memory, which is where registers are spilt to."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", told)
    assert match is not None, told
    return dict(zip(("registers", "stack", "local"), map(int, match.groups())))


if __name__ == "__main__":
    main()
