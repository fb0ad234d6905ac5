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

from last_e.model import fused_cuda, kernels
from last_e.model.launches import blocks

SUMS: dict[str, int] = {"R": 32, "C": 64}
PARTS: dict[str, int] = {"P": 64, "C": 16}
FRAMES: dict[str, int] = {"T": 16, "V": 8, "C": 64, "UNROLL": 2}
JOINTS: dict[str, int] = {"T": 8, "V": fused_cuda.MOST_JOINTS, "C": 64, "OUT": 16}
BLOCKS = blocks(fused_cuda.MOST_OUTPUTS, 16)
# As last_e.model.launches has them for the widest blocks of the networks, and for as many joints as go through them.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("moments", SUMS),
    ("affine", PARTS),
    ("norm", {**SUMS, "ADD": True, "HARDSWISH": False}),
    ("norm_sums", {**SUMS, "HARDSWISH": True}),
    ("gradients", {**PARTS, "TAPS": 5}),
    ("norm_backward", {**SUMS, "HARDSWISH": True}),
    *(("depthwise", {**FRAMES, "STRIDE": stride}) for stride in fused_cuda.STRIDES),
    *(("depthwise_backward", {**FRAMES, "STRIDE": stride}) for stride in fused_cuda.STRIDES),
    ("mix", {**JOINTS, "BLOCKS": BLOCKS}),
    ("mix_backward", {**JOINTS, "BLOCKS": BLOCKS}),
    ("mix_weights", JOINTS),
]
ACTIVATIONS = {"x", "y", "gradient", "out", "add"}
NUMBERS = {"momentum", "eps"}
TABLES = {
    *("table", "parts", "terms", "of_norm", "of_taps", "taps", "last_table", "last_terms", "weight", "bias"),
    *("running_mean", "running_var", "mixing"),
}


def main() -> None:
    """Of the architectures that are named (75 80 ...), for activations in the format that is named first (fp16)."""
    form, *architectures = sys.argv[1:]
    found = []
    for number in map(int, architectures):
        for name, sizes in CASES:
            began = time.perf_counter()
            kernel = compiled(name, sizes, number, form)
            taken = usage(kernel.asm["cubin"])
            seconds = round(time.perf_counter() - began, 2)
            found.append({"kernel": name, **sizes, "sm": number, **taken, "shared": kernel.metadata.shared, "seconds": seconds})
    print(json.dumps(found))


def compiled(name: str, sizes: dict[str, Any], architecture: int, form: str) -> Any:
    """The kernel for one kind of GPU."""
    function = getattr(kernels, name)
    types = (
        {"tracked": "*i64"}
        | dict.fromkeys(ACTIVATIONS, f"*{form}")
        | dict.fromkeys(TABLES, "*fp32")
        | dict.fromkeys(NUMBERS, "fp32")
    )
    signature = {one: "constexpr" if one in sizes else types.get(one, "i32") for one in function.arg_names}
    source = ASTSource(fn=function, signature=signature, constexprs=sizes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32))


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
