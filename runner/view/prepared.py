"""What the ``data`` commands show to people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from last_e.text import counted, plain, shown

if TYPE_CHECKING:
    from last_e.prepare.foreign import Imported
    from last_e.prepare.inspect import Summary
    from last_e.prepare.ntu import Report
    from last_e.prepare.own import Written
    from last_e.prepare.own_look import OwnLook

MOST_FILES_SHOWN = 10
MOST_JOINTS_SHOWN = 6
MOST_FEW = 5
_TO = {"train": "train", "test": "test", "validation": "validate"}


def report_text(report: Report, out: Path) -> str:
    """How a preparation went, a fact a line."""
    from last_e.prepare.ntu import REASONS

    size = out.stat().st_size / 2**20
    lines = [
        f"{out}: {counted(report.clips, 'clip')} of {counted(report.files, 'file')}, {counted(report.frames, 'frame')}, "
        f"{counted(report.two_people, 'clip')} with two people, {size:,.0f} MiB"
    ]
    if report.resumed:
        lines.append(f"{counted(report.resumed, 'recording')} had been read before the interruption")
    lines += _split_lines(report.splits)
    for reason in report.to_dict(MOST_FILES_SHOWN)["left_out"].values():
        if reason["count"]:
            lines.append(f"left out, {reason['why']}: {reason['count']:,}")
            # The list of broken recordings is known; of the others each may be somebody's mistake.
            if reason["why"] != REASONS["broken"]:
                lines += [f"  {file}" for file in reason["files"]]
                more = reason["count"] - len(reason["files"])
                lines += [f"  and {more:,} more; --json lists them all"] if more else []
    if report.unusable:
        lines.append(f"sightings of a body left out, a coordinate is no number: {report.unusable:,}")
    lines.append(f"joints are whole millimetres; largest error of rounding {report.error_mm:.2f} mm")
    lines.append(f"next: lastrun data inspect {out}")
    return "".join(plain(line) + "\n" for line in lines)


def imported_text(report: Imported, out: Path) -> str:
    """How an import went."""
    clips, frames, two = counted(report.clips, "clip"), counted(report.frames, "frame"), counted(report.two_people, "clip")
    lines = [f"{out}: {clips}, {frames}, {two} with two people"]
    lines += _split_lines(report.splits)
    if report.own_split is not None:
        lines.append(f"the clips' people are not known: only the file's own split, {report.own_split}, can be trained")
    if report.left_out:
        lines.append(f"left out: {len(report.left_out):,}")
        lines += [f"  {one}" for one in report.left_out[:MOST_FILES_SHOWN]]
    if report.other_labels:
        lines.append(
            f"labels that are not the action that the clip's name tells: {report.other_labels:,} of {report.clips:,}; a "
            "numbering of your own, or the labels of other clips"
        )
    if report.unusable:
        lines.append(f"sightings of a body left out, a coordinate is no number: {report.unusable:,}")
    lines.append(f"joints are whole millimetres; largest error of rounding {report.error_mm:.2f} mm")
    lines.append(f"next: lastrun data inspect {out}")
    return "".join(plain(line) + "\n" for line in lines)


def written_text(written: Written, out: Path) -> str:
    """How an own set was written."""
    about = written.description
    people = counted(about.people, "person", "people")
    lines = [
        f"{out}: {counted(written.clips, 'clip')}, {counted(written.frames, 'frame')}, up to {people}",
        f"{counted(len(about.classes), 'class', 'classes')}: {shown(', '.join(about.classes))}",
        f"{len(about.skeleton.joints)} joints, in {about.units}, {about.fps:g} frames a second",
    ]
    for name, parts in written.splits.items():
        lines.append(
            f"{name}: {', '.join(f'{count:,} to {_TO[part]}' for part, count in parts.items())} ({about.splits[name]})"
        )
    if written.missing:
        most = sorted(written.missing.items(), key=lambda item: -item[1])[:MOST_JOINTS_SHOWN]
        lines.append(f"not always seen: {', '.join(f'{joint} in {part:.1%} of the frames' for joint, part in most)}")
    if written.left_out:
        lines.append(f"left out: {len(written.left_out):,}")
        lines += [f"  {one}" for one in written.left_out[:MOST_FILES_SHOWN]]
    lines += [f"warning: {text}" for text in written.warnings]
    lines.append(f"next: lastrun data inspect {out}; dataset: {out} is all that a job says of it")
    return "".join(plain(line) + "\n" for line in lines)


def summary_text(summary: Summary, file: Path) -> str:
    """What a prepared file holds."""
    people = ", ".join(f"{count:,} with {number}" for number, count in summary.bodies.items())
    lines = [
        f"{file}: {counted(summary.clips, 'clip')}, {counted(summary.frames, 'frame')}",
        f"clips by number of people: {people}",
        f"{'1 person' if summary.people == 1 else f'{summary.people:,} people'}, {counted(summary.cameras, 'camera')}, "
        f"{counted(summary.setups, 'setup')}",
        *_split_lines(summary.splits),
        f"length: {summary.shortest} to {summary.longest} frames, {summary.mean:.1f} on average",
    ]
    most = max(count for *_, count in summary.lengths)
    for first, last, count in summary.lengths:
        lines.append(f"  {first:>4} to {last:>4}  {'#' * round(40 * count / most):<40}  {count:,}")
    if summary.own is not None:
        return "".join(plain(line) + "\n" for line in [*lines, *_own_lines(summary.own), *_ends(summary)])
    classes = summary.classes
    least, top = min(classes, key=lambda c: classes[c]), max(classes, key=lambda c: classes[c])
    lines.append(
        f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}: "
        f"{counted(classes[least], 'clip')} (class {least}) to {classes[top]:,} (class {top}), "
        f"{summary.clips / len(classes):,.1f} on average"
    )
    cells = [f"{label:>4}: {count:<6,}" for label, count in classes.items()]
    # With everything else, within the 80 columns of a narrow terminal.
    lines += ["".join(cells[begin : begin + 6]).rstrip() for begin in range(0, len(cells), 6)]
    return "".join(plain(line) + "\n" for line in [*lines, *_ends(summary)])


def _ends(summary: Summary) -> list[str]:
    """What any file's summary ends with."""
    source = summary.provenance.get("source")
    whole = {True: "whole: its bytes are those that its header says", False: "damaged", None: "no checksum"}[summary.whole]
    return [*([f"source: {source}"] if source else []), whole]


def _own_lines(look: OwnLook) -> list[str]:
    """What an own set shows when it is compared with itself."""
    lines = [f"{look.joints} joints, in {look.units}, {look.fps:g} frames a second"]
    lines.append(f"{len(look.classes)} classes; clips, and to train / to validate / to test in each split:")
    width = min(max(len(one["name"]) for one in look.classes), 40)
    most = max(one["clips"] for one in look.classes)
    for number, one in enumerate(look.classes):
        splits = [
            f"{name} {' / '.join(str(parts[part]) for part in ('train', 'validation', 'test') if part in parts)}"
            for name, parts in one.items()
            if isinstance(parts, dict)
        ]
        bar = "#" * round(12 * one["clips"] / max(1, most))
        lines.append(f"  {number:>3} {shown(one['name']):<{width}} {bar:<12} {one['clips']:>6,}  {'  '.join(splits)}")
    if look.missing:
        some = list(look.missing.items())[:MOST_JOINTS_SHOWN]
        lines.append(f"not always seen: {', '.join(f'{joint} in {part:.1%} of the frames' for joint, part in some)}")
    if look.mostly_missing:
        lines.append(f"clips of which less than half was seen: {_few(look.mostly_missing)}")
    lines += [f"unlike the others, {what}: {_few(which)}" for what, which in look.outliers.items()]
    if look.twice:
        lines.append(f"clips that show the same: {_few([' = '.join(group[:3]) for group in look.twice])}")
    lines += [
        f"warning: split {split}: {counted(len(pairs), 'pair')} of clips that show the same in two parts: "
        f"{_few([' = '.join(pair) for pair in pairs])}"
        for split, pairs in look.leaks.items()
    ]
    lines += [
        f"warning: split {split}: {counted(len(pairs), 'pair')} of clips that show nearly the same in two parts: "
        f"{_few([' ~ '.join(pair) for pair in pairs])}"
        for split, pairs in look.nearly.items()
    ]
    return [*lines, *(f"warning: {text}" for text in [*look.fatal, *look.mistakes])]


def _few(words: list[str]) -> str:
    """The first of some words, and how many more there are."""
    more = f" and {len(words) - MOST_FEW:,} more" if len(words) > MOST_FEW else ""
    return f"{', '.join(words[:MOST_FEW])}{more}"


def _split_lines(splits: dict[str, dict[str, int | None]]) -> list[str]:
    lines = []
    for name, count in splits.items():
        lines.append(f"{name}: {_against(count, 'train')}")
        lines += [f"{name}: {count['validation']:,} to validate"] if "validation" in count else []
        lines.append(f"{name}: {_against(count, 'test')}")
    return lines


def _against(count: dict[str, int | None], part: str) -> str:
    here, official = count[part], count[f"official_{part}"]
    if official is None:
        return f"{here:,} to {part}"
    return f"{here:,} of the official {official:,} to {part}" if here != official else f"{here:,} to {part}, as officially"
