"""What the kernels of batches take of each kind of GPU, as NVIDIA's assembler tells it: prints a JSON list. It needs no GPU."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from last_e.data import kernels
from last_e.data.launches import COLUMNS, POINTS
from tests.kernels.resources import atomics, usage

ASKED = ("MOTION", "LIMBS", "POSE", "LEAN", "DRIFT", "SPEED", "MASK", "MIRRORS")
SIZES = {"FLAT": False, "STREAMS": True, "B": POINTS}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("streams", dict.fromkeys(ASKED, True) | SIZES),
    ("others", {"WEIGHS": True, "NOISE": True, "MIRRORS": True, "W": COLUMNS}),
]
PLAIN = ("streams", dict.fromkeys(ASKED, False) | SIZES)
"""A part of the first."""
NUMBERS = {
    *("step", "most", "metres", "chance", "moves", "shortest", "range_of_motion", "limbs", "pose", "most_lean", "most_drift"),
    *("speed", "unseen"),
}
FLOATS = {"origin", "turn", "joint", "velocity", "bone", "weight", "dropout", "drop_path"}
COUNTS = {"frames", "count", "people", "depth", "clips", "width", "blocks"}


def main() -> None:
    """Of the architectures that are named (75 80 ...), behind ``full`` with a case more."""
    more, asked = sys.argv[1:2] == ["full"], sys.argv[1:]
    found = []
    for number in map(int, asked[more:]):
        for name, sizes in [*CASES, *[PLAIN] * more]:
            kernel = compiled(getattr(kernels, name), sizes, number)
            taken = {**usage(kernel.asm["cubin"]), "shared": kernel.metadata.shared, "atomics": atomics(kernel.asm["ptx"])}
            found.append({"kernel": name, **sizes, "sm": number, **taken})
    print(json.dumps(found))


def compiled(function: Any, sizes: dict[str, Any], architecture: int) -> Any:
    """The kernel for one kind of GPU."""
    types = {"joints": "*i16"} | dict.fromkeys(NUMBERS, "fp32") | dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(COUNTS, "i32")
    signature = {one: "constexpr" if one in sizes else types.get(one, "*i64") for one in function.arg_names}
    source = ASTSource(fn=function, signature=signature, constexprs=sizes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32))


if __name__ == "__main__":
    main()
