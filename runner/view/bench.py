"""What ``lastrun bench`` found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from last_e.text import counted
from runner.plan.bench import PARTS
from runner.view.console import make_console, show

MEANINGS = {
    "data": "batches made",
    "forward": "forward passes, as in a test",
    "train": "training steps",
    "epoch": "training on batches as they are made",
}


def print_result(result: dict[str, Any], out: Path | None) -> None:
    """The result for people."""
    from rich import box
    from rich.table import Table

    console = make_console()
    machine, ceilings = result["machine"], result["ceilings"]
    peak = ceilings[f"matrix_{result['precision']}_flops_per_second"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    show(f"{result['model']} in {result['precision']} on {machine['name']}; {versions}")
    show(
        f"batches of {result['batch_size']} clips, {result['rows_per_clip']:.2f} bodies each, {result['frames']} frames; "
        f"median of {result['rounds']} rounds of {result['seconds']:g} s"
    )
    if machine["load"] > machine["cores"] / 2:
        others = f"load {machine['load']:.1f} on {machine['cores']} cores"
        show(f"others used it as this began ({others}): ratios hold, rates are too low")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("clips per second")
    for name in ("lastrun", "from - to", "plain", "ratio", "of matrix", "of copy"):
        table.add_column(name, justify="right")
    for part in PARTS:
        if part not in result:
            continue
        rates, rounds = result[part]["clips_per_second"], result[part]["rounds"]["lastrun"]
        shares = result[part].get("of_peak", {})
        table.add_row(
            MEANINGS[part],
            f"{rates['lastrun']:,.1f}",
            f"{min(rounds):,.1f} - {max(rounds):,.1f}",
            f"{rates['plain']:,.1f}" if "plain" in rates else "-",
            f"{result[part]['ratio']:.2f}" if "ratio" in result[part] else "-",
            *(f"{shares[kind]:.0%}" if shares else "-" for kind in ("matrix", "copy")),
        )
    console.print(table)
    if result.get("ranks"):
        _print_ranks(result["ranks"])
    stalls = result["checkpoint_stall_ms"]
    show(f"a checkpoint holds training up for {stalls[len(stalls) // 2]:.1f} ms (up to {stalls[-1]:.1f})")
    show(
        f"peaks: {peak / 1e9:,.0f} GFLOP/s in matrix products, {ceilings['copy_bytes_per_second'] / 1e9:,.0f} GB/s in copies; "
        f"memory: {result['memory']['lastrun'] / 2**20:,.0f} MiB"
    )
    show(f"kept in {out}" if out is not None else "not kept: plan needs training steps and forward passes; --out FILE keeps it")


def _print_ranks(found: dict[str, Any]) -> None:
    """Training steps of several ranks, against one."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("training steps, clips per second")
    for name in ("together", "from - to", "of one", "each by itself", "waiting"):
        table.add_column(name, justify="right")
    for number, of in found["by"].items():
        table.add_row(
            counted(int(number), "rank"),
            f"{of['clips_per_second']:,.1f}",
            f"{min(of['rounds']):,.1f} - {max(of['rounds']):,.1f}",
            f"{of['of_one']:.2f}",
            f"{min(of['each']):,.1f} - {max(of['each']):,.1f}",
            f"{of['waiting']:.0%}",
        )
    show("")
    make_console().print(table)
    show(f"a step has {counted(found['micro_batches'], 'micro-batch', 'micro-batches')}, whoever does them")
