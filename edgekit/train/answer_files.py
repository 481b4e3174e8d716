"""A teacher's answers on disk: written once, read by row in every epoch.

One file for each output holds its rows one after the other; `answers.json`, written last, says
their shapes. The folder is filled under another name and put in place in one rename, so a folder
that is there is whole; its files are measured all the same, for disks and people cut files off.
Rows are written and not mapped: a full disk is an error then, and no signal.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_INDEX = "answers.json"


@contextmanager
def writer(folder: Path) -> Iterator[Callable[[Mapping[str, Tensor]], None]]:
    """Fill a folder with answers; it appears when all of them are there.

    Args:
        folder: what is there already and is not whole is replaced.

    Yields:
        Takes the next rows of every output by name, in order.

    Raises:
        OSError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with ExitStack() as stack:
            files: dict[str, IO[bytes]] = {}
            index: dict[str, dict[str, Any]] = {}

            def write(rows: Mapping[str, Tensor]) -> None:
                for number, (name, tensor) in enumerate(rows.items()):
                    values = np.ascontiguousarray(tensor.detach().cpu().numpy())
                    if name not in index:
                        file = f"{number}.bin"
                        files[name] = stack.enter_context((draft / file).open("wb"))
                        index[name] = {
                            "file": file,
                            "dtype": str(values.dtype),
                            "shape": list(values.shape[1:]),
                            "rows": 0,
                        }
                    index[name]["rows"] += len(values)
                    files[name].write(values.data)

            yield write
            for open_file in files.values():
                open_file.flush()
                os.fsync(open_file.fileno())
        (draft / _INDEX).write_text(json.dumps(index))
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def stored(folder: Path, rows: int) -> dict[str, NDArray[Any]] | None:
    """The answers in a folder by the output's name, mapped and not read.

    Args:
        folder: from `writer`.
        rows: how many there have to be.

    Returns:
        None where the folder is not there, not whole, or of other samples.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        index = json.loads((folder / _INDEX).read_text())
        found: dict[str, NDArray[Any]] = {}
        for name, entry in index.items():
            shape = (int(entry["rows"]), *map(int, entry["shape"]))
            path, dtype = folder / Path(entry["file"]).name, np.dtype(entry["dtype"])
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if shape[0] != rows or path.stat().st_size != size:
                return None
            found[name] = np.memmap(path, dtype, mode="r", shape=shape)
        return found or None
    return None
