"""What is in an image."""

from __future__ import annotations

from typing import Any

from runner.view.console import make_console, styled


def print_image(facts: dict[str, Any]) -> None:
    """What is in an image, and what of it does not fit."""
    code = f"{facts.get('version')}, code {str(facts.get('code'))[:12]}, revision {facts['revision'] or 'unknown'}"
    cuda = f"CUDA {facts['cuda']} for {' '.join(facts['architectures'])}" if facts.get("cuda") else "without CUDA"
    gpus = ", ".join(f"{g['name']} (sm_{g['capability'][0]}{g['capability'][1]})" for g in facts.get("gpus") or [])
    rows = {
        "image": f"{facts['image']} ({facts['size'] / 1e9:.2f} GB)",
        "digest": ", ".join(facts["digests"]) or facts["id"],
        "base": facts["base"] or "unknown",
        "lastrun": code,
        "torch": f"{facts.get('torch')} {cuda}, Python {facts.get('python')}",
        "GPUs": gpus or f"none ({facts.get('problem')})",
        "driver": facts["driver"] or "none on this machine",
        "fits": "no" if facts["problems"] else "yes",
    }
    console = make_console()
    for name, text in rows.items():
        console.print(styled(f"{name:<8}", "dim"), text, sep="  ")
    for problem in facts["problems"]:
        console.print(f"- {problem}")
