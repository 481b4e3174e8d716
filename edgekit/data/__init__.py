"""The data contract: where samples come from, how they are prepared, and which is used for what."""

from edgekit.data.config import DataConfig, Preprocess, Split
from edgekit.data.dataset import Batch, Dataset, open_data

__all__ = ["Batch", "DataConfig", "Dataset", "Preprocess", "Split", "open_data"]
