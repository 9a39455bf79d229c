"""From what an analysis found to what to write in the spec, and to sentences."""

from __future__ import annotations

from scaling_api.spec import DatasetSpec
from scaling_training.data.findings import Analysis, Proposal

# The largest class over the smallest: from here on weights are proposed, from there on sampling, because weights
# that large make single steps swing.
UNBALANCED = 3.0
VERY_UNBALANCED = 10.0
# Above this share files are better mended than skipped.
_FEW_UNREADABLE = 0.01
_NOISY = 0.02
_NAMED = 5  # classes
_STEP = 16  # pixels; sizes that halve four times


def proposals(analysis: Analysis, spec: DatasetSpec, shape: tuple[int, ...]) -> tuple[Proposal, ...]:
    """What suits the data and the spec does not say yet; ``shape`` is that of a model's input."""
    rules = (
        _normalization(analysis),
        _balance(analysis, spec),
        _resolution(analysis, shape),
        _unreadable(analysis, spec),
    )
    return tuple(proposal for proposal in rules if proposal is not None)


def _normalization(analysis: Analysis) -> Proposal | None:
    if analysis.pixels is None:
        return None
    pixels = analysis.pixels
    fields = {"source": "given", "mean": list(pixels.mean), "std": [value or 1.0 for value in pixels.std]}
    return Proposal({"normalization": fields}, "these are the training pixels' mean and deviation")


def _balance(analysis: Analysis, spec: DatasetSpec) -> Proposal | None:
    if analysis.imbalance < UNBALANCED or spec.sampling == "balanced" or spec.class_weights == "balanced":
        return None
    reason = f"the largest class has {analysis.imbalance:.1f} times the training samples of the smallest"
    fields = {"sampling": "balanced"} if analysis.imbalance >= VERY_UNBALANCED else {"classWeights": "balanced"}
    return Proposal(fields, reason)


def _resolution(analysis: Analysis, shape: tuple[int, ...]) -> Proposal | None:
    if analysis.sizes is None:
        return None
    side, wanted = analysis.sizes.median_shorter_side, shape[-1]
    fitting = max(_STEP, int(side) // _STEP * _STEP)
    if wanted > side and fitting < wanted:
        reason = (
            f"half of the pictures are at most {side:.0f} pixels along their shorter side; enlarging adds no detail"
        )
        return Proposal({"imageSize": fitting}, reason)
    if side >= 2 * wanted:
        reason = (
            f"half of the pictures have at least {side:.0f} pixels along their shorter side; {wanted} drop three "
            "quarters of them, which may or may not matter"
        )
        return Proposal({"imageSize": min(2 * wanted, 1024)}, reason)
    return None


def _unreadable(analysis: Analysis, spec: DatasetSpec) -> Proposal | None:
    found = analysis.unreadable
    if not found.count or spec.unreadable == "skip" or found.count > _FEW_UNREADABLE * found.checked:
        return None
    return Proposal(
        {"unreadable": "skip"}, f"{found.count} of {found.checked} files cannot be read, which few will miss"
    )


def warnings(analysis: Analysis) -> tuple[str, ...]:
    """What a person should know before training, the gravest first."""
    rules = (_of_leakage, _of_unreadable, _of_blanks, _of_contradictions, _of_labels, _of_names, _of_balance)
    return tuple(sentence for rule in rules for sentence in rule(analysis))


def _of_leakage(analysis: Analysis) -> list[str]:
    found = []
    for shared in analysis.leakage.shared:
        near = f" and {shared.near} nearly equal" if shared.near else ""
        first, second = shared.examples[0]
        found.append(
            f"{shared.exact} equal{near} samples are in {shared.second} and in {shared.first} (such as {second}, which "
            f"is {first}): remove them from one, or {shared.second} measures what was learned by heart"
        )
    return found


def _of_unreadable(analysis: Analysis) -> list[str]:
    found = analysis.unreadable
    if not found.count:
        return []
    name, reason = found.files[0]
    return [f"{found.count} of {found.checked} samples looked at cannot be read, such as {name} ({reason})"]


def _of_blanks(analysis: Analysis) -> list[str]:
    blank = analysis.blank
    if blank is None or not blank.count:
        return []
    all_of = f", and so have all of {', '.join(blank.classes[:_NAMED])}" if blank.classes else ""
    return [
        f"{blank.count} of {blank.checked} images looked at have one colour alone, such as {blank.samples[0]}{all_of}: "
        "nothing can be learned from them; look at the files (what is transparent is seen over white)"
    ]


def _of_contradictions(analysis: Analysis) -> list[str]:
    found = analysis.contradictions
    if not found.count:
        return []
    name, label, equal, other = found.pairs[0]
    return [
        f"{found.count} training samples equal others of another class, such as {name} ({label}), which is {equal} "
        f"({other}): keep each in one class"
    ]


def _of_labels(analysis: Analysis) -> list[str]:
    noise = analysis.label_noise
    if noise is None or noise.estimate < _NOISY:
        return []
    name, label, rival = noise.suspects[0]
    return [
        f"about {noise.estimate:.0%} of the labels may be wrong, such as that of {name}: it is {label}, but the "
        f"pictures most like it are {rival}"
    ]


def _of_names(analysis: Analysis) -> list[str]:
    known: dict[str, str] = {}
    for item in analysis.classes:
        first = known.setdefault(item.name.strip().casefold(), item.name)
        # Of single letters large and small ones are two things.
        if first != item.name and len(first) > 1:
            return [f"the classes '{first}' and '{item.name}' differ by case or blanks alone: are they one?"]
    return []


def _of_balance(analysis: Analysis) -> list[str]:
    if analysis.imbalance < UNBALANCED:
        return []
    smallest = min(analysis.classes, key=lambda item: item.train)
    largest = max(analysis.classes, key=lambda item: item.train)
    return [
        f"class {largest.name} has {largest.train} training samples, class {smallest.name} only {smallest.train}: "
        "accuracy says little then, look at recall per class"
    ]
