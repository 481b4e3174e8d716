"""1,797 handwritten digits as rows of 64 numbers, from scikit-learn's `load_digits`.

Each number counts the ink (0 to 16) in a 4x4 cell of a 32x32 scan: the test part of "Optical
Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, UCI, CC BY 4.0); scikit-learn
(BSD-3-Clause) ships it, so nothing is downloaded.
"""

import numpy as np


def load() -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Load the rows.

    Returns:
        The inputs (`features`: shape (1797, 64), float32 in [0, 1]), the classes (shape (1797,),
        int64) and stable ids (`digit-0000` is scikit-learn's first row).
    """
    from sklearn.datasets import load_digits

    ink, classes = load_digits(return_X_y=True)
    features = (ink / 16.0).astype(np.float32)
    return (
        {"features": features},
        classes.astype(np.int64),
        [f"digit-{i:04d}" for i in range(len(ink))],
    )
