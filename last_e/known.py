"""What the data sets that are known here by name would say of themselves, as an own set's file does. Torch-free."""

from __future__ import annotations

from last_e.described import Description
from last_e.skeletons import NTU25, Skeleton

_IRDS = """
elbow flexion left|elbow flexion right|shoulder flexion left|shoulder flexion right|shoulder abduction left|
shoulder abduction right|shoulder forward elevation|side tap left|side tap right
"""
"""Of the authors. The recordings are mirrored: the joints that move are named after the other side."""

_NTU = """
drink water|eat meal|brush teeth|brush hair|drop|pick up|throw|sit down|stand up|clapping|reading|writing|tear up paper|
put on jacket|take off jacket|put on a shoe|take off a shoe|put on glasses|take off glasses|put on a hat|take off a hat|
cheer up|hand waving|kicking something|reach into pocket|hopping|jump up|phone call|play with phone|type on a keyboard|
point to something|taking a selfie|check time|rub two hands|nod head|shake head|wipe face|salute|put palms together|
cross hands in front|sneeze or cough|staggering|falling down|headache|chest pain|back pain|neck pain|nausea|fan self|
punch or slap|kicking|pushing|pat on back|point finger|hugging|giving object|touch pocket|shaking hands|walking towards|
walking apart|put on headphone|take off headphone|shoot at basket|bounce ball|tennis bat swing|juggle table tennis ball|hush|
flick hair|thumb up|thumb down|make OK sign|make victory sign|staple book|counting money|cutting nails|cutting paper|
snap fingers|open bottle|sniff|squat down|toss a coin|fold paper|ball up paper|play magic cube|apply cream on face|
apply cream on hand|put on bag|take off bag|put object into bag|take object out of bag|open a box|move heavy objects|
shake fist|throw up cap|capitulate|cross arms|arm circles|arm swings|run on the spot|butt kicks|cross toe touch|side kick|
yawn|stretch oneself|blow nose|hit with object|wield knife|knock over|grab stuff|shoot with gun|step on foot|high-five|
cheers and drink|carry object|take a photo|follow|whisper|exchange things|support somebody|rock-paper-scissors
"""
"""Of NTU RGB+D 120 (Liu et al., TPAMI 2019); the first 60 are those of NTU RGB+D (Shahroudy et al., CVPR 2016)."""

_NAMES = {"irds": (_IRDS, 9), "ntu60": (_NTU, 60), "ntu120": (_NTU, 120)}
"""Of each data set, and how many it has."""


def description_of(dataset: str, classes: int) -> Description:
    """A data set of so many ``classes``, of Kinect v2: of those that are known the first, and numbers for the others."""
    text, count = _NAMES.get(dataset, ("", 0))
    names = text.replace("\n", "").split("|")[: min(count, classes)]
    names += [f"class {number}" for number in range(len(names), max(2, classes))]
    return Description(name=dataset, classes=tuple(names), skeleton=NTU25, people=2, splits={"xsub": "by people"})


_MIRRORED: dict[str, tuple[tuple[int, int], ...]] = {"irds": ((0, 1), (2, 3), (4, 5), (7, 8)), "ntu60": (), "ntu120": ()}
"""Of each data set the classes that change places when left and right do, as pairs; none of NTU's is one of a side. Of made-up
motion nobody can say: its classes differ by their pace, too."""


def mirrored_classes(dataset: str, description: Description | None = None) -> tuple[tuple[int, int], ...] | None:
    """The pairs of classes of a data set that change places in a mirror: as its own ``description`` says where it has one;
    None: nobody knows."""
    return _MIRRORED.get(dataset) if description is None else description.mirrored


def no_mirror(dataset: str, skeleton: Skeleton = NTU25) -> str:
    """Why a data set cannot be mirrored, and what would mend it."""
    what = (
        "its skeleton has no left and right joints (pairs)"
        if not skeleton.pairs
        else ("nobody knows which of its classes change places in a mirror")
    )
    how = "; a set of your own says so when it is made (mirrored)" if dataset not in _NAMES else ""
    return f"mirror: {dataset} has no mirror image: {what}{how}"
