"""What holds for a written digit? Scikit-learn's 1,797 images of 8x8 pixels, with four labels each.

Targets of 0 and 1 in rows make multi-label classification of a data set; a model by name gets as many outputs as there
are labels, and the loss and the metrics that go with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LABELS = {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "above four": {5, 6, 7, 8, 9},
    "closed loop": {0, 6, 8, 9},
}


def data() -> dict[str, Any]:
    """Images uint8 [1797, 8, 8] and labels, 0 or 1 [1797, 4]."""
    from sklearn.datasets import load_digits

    images, digits = load_digits().images, load_digits().target
    labels = np.stack([np.isin(digits, sorted(members)) for members in LABELS.values()], axis=1)
    # The pixels run from 0 to 16; images run to 255.
    return {"train": ((images * (255 / 16)).astype(np.uint8), labels.astype(np.uint8)), "classes": list(LABELS)}
