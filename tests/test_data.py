"""The data contract: sources, preprocessing, ids, splits, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgekit.artifact import TensorSpec
from edgekit.data import DataConfig, Dataset, open_data
from edgekit.errors import RecipeError, UnavailableError, UsageError

SPLITS = ("calibration", "train", "evaluation")


def opened(base: Path, **fields: Any) -> Dataset:
    return open_data(DataConfig.model_validate(fields), base)


def write_npz(base: Path, n: int = 100, **more: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(n, 3)), "y": np.arange(n) % 4, **more}
    np.savez(base / "d.npz", **{k: v for k, v in arrays.items() if v is not None})


# --- sources


def test_npz_maps_names_and_makes_float32(tmp_path: Path) -> None:
    write_npz(tmp_path, extra=np.zeros((100, 2)))
    data = opened(tmp_path, npz="d.npz", inputs={"image": "x"}, target="y")
    assert data.inputs == (TensorSpec(name="image", dtype="float32", shape=("batch", 3)),)
    assert data.ids[7] == "row-000007"
    assert data.targets is not None
    assert data.targets.dtype == np.int64
    batch = next(data.batches("evaluation", 5))
    rows = data.splits["evaluation"][:5]
    assert batch.ids == [data.ids[i] for i in rows]
    with np.load(tmp_path / "d.npz") as stored:
        np.testing.assert_array_equal(batch.inputs["image"], stored["x"][rows].astype(np.float32))


def test_texts_become_classes(tmp_path: Path) -> None:
    write_npz(tmp_path, n=4, y=np.array(["dog", "cat", "dog", "eel"]))
    data = opened(tmp_path, npz="d.npz", split={"calibration": 0})
    assert data.classes == ("cat", "dog", "eel")
    assert data.targets is not None
    assert data.targets.tolist() == [1, 0, 1, 2]


def test_named_classes_keep_their_places_where_one_is_missing(tmp_path: Path) -> None:
    write_npz(tmp_path, n=4, y=np.array(["eel", "cat", "eel", "cat"]))
    all_of_them = ["dog", "eel", "cat"]
    data = opened(tmp_path, npz="d.npz", classes=all_of_them, split={"calibration": 0})
    assert data.classes == tuple(all_of_them)
    assert data.targets.tolist() == [1, 2, 1, 2]  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"'eel', which is not among .data: classes") as e:
        opened(tmp_path, npz="d.npz", classes=["cat", "ell"])
    assert "Did you mean 'ell'?" in e.value.hint
    with pytest.raises(ValidationError, match="names one twice"):
        DataConfig(npz="d.npz", classes=("cat", "cat"))
    write_npz(tmp_path, n=4, y=np.array([2, 0, 1, 0]))
    data = opened(tmp_path, npz="d.npz", classes=all_of_them, split={"calibration": 0})
    assert data.targets.tolist() == [2, 0, 1, 0]  # type: ignore[union-attr]
    write_npz(tmp_path, n=4, y=np.array([0.5, 0.1, 1, 0]))
    with pytest.raises(UsageError, match="targets are fractions"):
        opened(tmp_path, npz="d.npz", classes=all_of_them)
    (tmp_path / "d.csv").write_text("a,y\n1,7\n2,3\n")
    data = opened(tmp_path, csv="d.csv", classes=["3", "5", "7"], split={"calibration": 0})
    assert data.targets.tolist() == [2, 0]  # type: ignore[union-attr]


def test_csv_joins_columns_and_reads_ids(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("id,a,b,c,fault\nk1,1,2,3,no\nk2,4,5,6,yes\n\nk3,7,8,9,no\n")
    inputs = {"two": ["c", "a"], "one": "b"}
    data = opened(tmp_path, csv="d.csv", inputs=inputs, target="fault", split={"evaluation": 3})
    batch = next(data.batches("evaluation", 3))
    assert batch.ids == ["k1", "k2", "k3"]
    assert batch.inputs["two"].tolist() == [[3, 1], [6, 4], [9, 7]]
    assert batch.inputs["one"].tolist() == [[2], [5], [8]]
    assert data.classes == ("no", "yes")
    plain = opened(tmp_path, csv="d.csv", target="fault", split={"evaluation": 3})
    assert plain.inputs[0].shape == ("batch", 3)


@pytest.mark.parametrize(
    ("cells", "dtype"), [("0 1 2", "int64"), ("0.5 1 2", "float32"), ("1.0 2.0 3", "int64")]
)
def test_csv_targets_are_classes_only_where_whole(tmp_path: Path, cells: str, dtype: str) -> None:
    lines = "".join(f"1,{cell}\n" for cell in cells.split())
    (tmp_path / "d.csv").write_text("a,y\n" + lines)
    data = opened(tmp_path, csv="d.csv", split={"evaluation": 3})
    assert data.targets is not None
    assert str(data.targets.dtype) == dtype


def test_python_factory_with_tensors_ids_and_names(tmp_path: Path) -> None:
    (tmp_path / "ek_factory.py").write_text(
        "import torch\n"
        "def mapping():\n"
        "    return {'a': torch.ones(6, 2), 'b': torch.arange(6)}, torch.zeros(6), list('uvwxyz')\n"
        "def bare():\n    return torch.ones(6, 2, dtype=torch.float64)\n"
        "def wrong():\n    return 1, 2, 3, 4\n"
    )
    data = opened(tmp_path, python="ek_factory:mapping", split={"evaluation": 2})
    assert [str(s) for s in data.inputs] == ["a: float32[batch, 2]", "b: int64[batch]"]
    assert data.ids == list("uvwxyz")
    renamed = opened(tmp_path, python="ek_factory:mapping", inputs={"image": "a"})
    assert [s.name for s in renamed.inputs] == ["image"]
    bare = opened(tmp_path, python="ek_factory:bare", inputs={"image": "x"})
    assert [str(s) for s in bare.inputs] == ["image: float32[batch, 2]"]
    assert bare.targets is None
    with pytest.raises(UsageError, match="4 values"):
        opened(tmp_path, python="ek_factory:wrong")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "photographs"
    for label, name in enumerate(["owl", "bee"]):
        (root / name / "deep").mkdir(parents=True)
        for i in range(4):
            pixels = np.full((6, 8, 3), (40 * label, 10 * i, 200), dtype=np.uint8)
            folder = root / name / "deep" if i == 3 else root / name
            image.fromarray(pixels).save(folder / f"{i}.png")
    (root / "owl" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    return root


def test_folder_is_decoded_when_drawn(photographs: Path, tmp_path: Path) -> None:
    how = {"scale": "1/255", "mean": [0.5, 0.25, 0.0], "std": [0.5, 1, 2]}
    data = opened(tmp_path, folder="photographs", preprocess=how, split={"evaluation": 8})
    assert data.classes == ("bee", "owl")
    assert data.ids[3:5] == ["bee/deep/3.png", "owl/0.png"]
    assert str(data.inputs[0]) == "image: float32[batch, 3, 6, 8]"
    batch = next(data.batches("evaluation", 8))
    expected = (np.array([40, 20, 200]) / 255 - [0.5, 0.25, 0.0]) / [0.5, 1, 2]
    place = batch.ids.index("bee/2.png")
    np.testing.assert_allclose(batch.inputs["image"][place, :, 0, 0], expected, atol=1e-6)
    (photographs / "bee" / "2.png").write_bytes(b"truncated")
    with pytest.raises(UsageError, match=r"2\.png is not a readable image"):
        next(data.batches("evaluation", 8))


def test_folder_resizes_and_greys(photographs: Path, tmp_path: Path) -> None:
    how = {"size": [3, 4], "channels": 1, "layout": "nhwc"}
    data = opened(tmp_path, folder="photographs", preprocess=how, inputs={"x": "image"}, limit=4)
    assert str(data.inputs[0]) == "x: float32[batch, 3, 4, 1]"
    assert sorted(data.targets.tolist()) == [0, 0, 1, 1]  # type: ignore[union-attr]


def test_images_without_class_folders_have_no_labels(photographs: Path, tmp_path: Path) -> None:
    data = opened(tmp_path, folder="photographs/owl/deep", split={"evaluation": 0})
    assert (data.targets, data.classes, data.ids) == (None, None, ["3.png"])
    batch = next(data.batches("train", 1))
    assert batch.inputs["image"].shape == (1, 3, 6, 8)


def test_folder_refuses(photographs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (5, 5)).save(photographs / "bee" / "other.png")
    data = opened(tmp_path, folder="photographs", split={"evaluation": 1.0, "calibration": 0})
    with pytest.raises(UsageError, match=r"differ in size.*other\.png"):
        next(data.batches("evaluation", 9))
    (photographs / "empty").mkdir()
    with pytest.raises(UsageError, match="empty is empty"):
        opened(tmp_path, folder="photographs")
    with pytest.raises(UsageError, match=r"holds no images .* and no folders"):
        opened(tmp_path, folder="photographs/empty")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnavailableError, match="Pillow"):
        opened(tmp_path, folder="photographs")


# --- preprocessing and the network's wishes


def test_preprocessing_is_float32_in_the_said_order(tmp_path: Path) -> None:
    raw = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2)
    np.savez(tmp_path / "d.npz", x=raw)
    how = {"scale": 0.5, "mean": [1, 2, 3], "std": [2, 4, 8]}
    data = opened(tmp_path, npz="d.npz", preprocess=how, split={"evaluation": 2})
    found = next(data.batches("evaluation", 2)).inputs["x"]
    wide = np.array([1, 2, 3]).reshape(1, 3, 1, 1), np.array([2, 4, 8]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(found, (raw * 0.5 - wide[0]) / wide[1], rtol=1e-6)
    assert found.dtype == np.float32
    with pytest.raises(UsageError, match="2 channel values"):
        next(
            opened(
                tmp_path, npz="d.npz", preprocess={"mean": [1, 2]}, split={"evaluation": 2}
            ).batches("evaluation", 2)
        )


def test_for_model_renames_casts_and_refuses(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", tokens=np.arange(12, dtype=np.int32).reshape(4, 3))
    data = opened(tmp_path, npz="d.npz", split={"evaluation": 4})

    def spec(dtype: str, *shape: int | str, name: str = "ids") -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    for dtype in ("int32", "int64", "float32"):
        fitted = data.for_model((spec(dtype, "batch", 3),))
        batch = next(fitted.batches("evaluation", 4))
        assert list(batch.inputs) == ["ids"]
        assert str(batch.inputs["ids"].dtype) == dtype
        assert fitted.inputs == (spec(dtype, "batch", 3),)
    assert data.inputs[0].name == "tokens"  # the original is untouched
    data.for_model((spec("int64", "batch", "length"),))
    for bad in (spec("int64", "batch", 4), spec("int64", "batch"), spec("bool", "batch", 3)):
        with pytest.raises(UsageError, match="The network takes ids"):
            data.for_model((bad,))
    with pytest.raises(UsageError, match="The network takes ids") as e:
        data.for_model((spec("int64", 3),))  # one state, not one for each sample
    assert "no axis of samples" in e.value.hint
    with pytest.raises(UsageError, match="has no 'mask'"):
        data.for_model((spec("int64", "batch", 3, name="tokens"), spec("int64", 1, name="mask")))


# --- splits


def test_splits_are_disjoint_stratified_and_repeatable(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    write_npz(tmp_path, n=1000, y=labels)
    split = {"calibration": 100, "evaluation": 0.2, "seed": 3}
    first, again = (opened(tmp_path, npz="d.npz", split=split) for _ in range(2))
    assert [first.count(name) for name in SPLITS] == [100, 700, 200]
    together = np.concatenate([first.splits[name] for name in SPLITS])
    assert sorted(together.tolist()) == list(range(1000))
    for name in SPLITS:
        assert first.splits[name].tolist() == again.splits[name].tolist()
        shares = np.bincount(labels[first.splits[name]]) / first.count(name)
        np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.02)
    other = opened(tmp_path, npz="d.npz", split={**split, "seed": 4})
    assert other.splits["evaluation"].tolist() != first.splits["evaluation"].tolist()
    larger = opened(tmp_path, npz="d.npz", split={**split, "calibration": 300})
    assert larger.splits["evaluation"].tolist() == first.splits["evaluation"].tolist()


@pytest.mark.parametrize("n", [1, 2, 7, 40, 300, 2000])
def test_the_defaults_fit_any_size(tmp_path: Path, n: int) -> None:
    write_npz(tmp_path, n=n)
    data = opened(tmp_path, npz="d.npz")
    counts = {name: data.count(name) for name in SPLITS}
    assert sum(counts.values()) == n
    assert counts["calibration"] <= 256
    assert counts["train"] >= 2 * counts["calibration"]


def test_counts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path, n=10)
    with pytest.raises(RecipeError, match="want 12 samples"):
        opened(tmp_path, npz="d.npz", split={"calibration": 10})
    with pytest.raises(RecipeError, match="wants 9 samples"):
        opened(tmp_path, npz="d.npz", split={"calibration": 0, "train": 9})


def test_id_lists_replace_the_draw(tmp_path: Path) -> None:
    write_npz(tmp_path, n=10, ids=np.array([f"s{i}" for i in range(10)]))
    (tmp_path / "eval.txt").write_text("s9\ns0\n\n")
    (tmp_path / "train.txt").write_text("s1\ns0\n")
    split = {"calibration": 3, "files": {"evaluation": "eval.txt"}}
    data = opened(tmp_path, npz="d.npz", split=split)
    assert data.splits["evaluation"].tolist() == [0, 9]
    assert [data.count(name) for name in SPLITS] == [3, 5, 2]
    both = {"evaluation": "eval.txt", "train": "train.txt"}
    with pytest.raises(RecipeError, match=r"evaluation and train overlap in 1 samples: s0\."):
        opened(tmp_path, npz="d.npz", split={"calibration": 0, "files": both})
    (tmp_path / "eval.txt").write_text("s9\nnobody\n")
    with pytest.raises(RecipeError, match="nobody"):
        opened(tmp_path, npz="d.npz", split=split)
    with pytest.raises(RecipeError, match="cannot be read"):
        opened(tmp_path, npz="d.npz", split={"files": {"train": "absent.txt"}})


def test_limit_keeps_the_classes_shares(tmp_path: Path) -> None:
    write_npz(tmp_path, n=400, y=np.repeat([0, 1], [300, 100]))
    data = opened(tmp_path, npz="d.npz", limit=40)
    assert len(data) == 40
    assert data.targets is not None
    assert np.bincount(data.targets).tolist() == [30, 10]


def test_batches_cover_a_split_and_shuffle_by_seed(tmp_path: Path) -> None:
    write_npz(tmp_path, n=50)
    data = opened(tmp_path, npz="d.npz", split={"evaluation": 23, "calibration": 0})

    def ids(**options: Any) -> list[str]:
        return [i for b in data.batches("evaluation", 5, **options) for i in b.ids]

    assert len(ids()) == 23
    assert len(ids(drop_last=True)) == 20
    assert ids(shuffle_seed=1) == ids(shuffle_seed=1) != ids(shuffle_seed=2)
    assert sorted(ids(shuffle_seed=1)) == sorted(ids())


# --- identity


def test_the_hash_follows_what_is_computed_with(tmp_path: Path) -> None:
    write_npz(tmp_path)
    hashes = {opened(tmp_path, npz="d.npz").content_hash}
    assert hashes == {opened(tmp_path, npz="d.npz").content_hash}
    hashes.add(opened(tmp_path, npz="d.npz", preprocess={"scale": 2}).content_hash)
    hashes.add(opened(tmp_path, npz="d.npz", inputs={"z": "x"}).content_hash)
    write_npz(tmp_path, y=np.zeros(100))
    hashes.add(opened(tmp_path, npz="d.npz").content_hash)
    write_npz(tmp_path, ids=np.array([f"s{i}" for i in range(100)]))
    data = opened(tmp_path, npz="d.npz")
    assert len(hashes | {data.content_hash}) == 5
    summary = data.summary()
    assert summary["splits"]["evaluation"]["count"] == 20
    assert summary["source"] == "npz: d.npz"
    other = opened(tmp_path, npz="d.npz", split={"seed": 1}).summary()
    assert other["content_hash"] == summary["content_hash"]
    assert other["splits"]["train"] != summary["splits"]["train"]


# --- what is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_their_samples(tmp_path: Path, bad: float) -> None:
    x = np.zeros((100, 3), dtype=np.float32)
    x[[4, 90], 1] = bad
    x[90, 2] = -bad
    write_npz(tmp_path, x=x)
    with pytest.raises(UsageError, match=r"2 samples of 'x'.*row-000004.*row-000090"):
        opened(tmp_path, npz="d.npz")
    write_npz(tmp_path, y=np.where(np.arange(100) == 8, bad, 0.0))
    with pytest.raises(UsageError, match=r"1 samples of 'targets'.*row-000008"):
        opened(tmp_path, npz="d.npz")


def test_huge_finite_values_are_let_through(tmp_path: Path) -> None:
    write_npz(tmp_path, x=np.full((100, 3), 1e308))
    with pytest.warns(RuntimeWarning, match="overflow"):
        next(opened(tmp_path, npz="d.npz").batches("train", 1))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"npz": "absent.npz"}, "does not exist"),
        ({"npz": "d.npz", "inputs": {"image": "xx"}}, "Did you mean 'x'"),
        ({"npz": "d.npz", "target": "yy"}, "Did you mean 'y'"),
        ({"npz": "d.npz", "inputs": {"image": ["x", "y"]}}, "names 2 arrays"),
        ({"npz": "broken.npz"}, "not a NumPy archive"),
        ({"npz": "truncated.npz"}, "not a NumPy archive"),
        ({"npz": "one.npy"}, "not a NumPy archive"),
        ({"npz": "objects.npz"}, "not a NumPy archive"),
        ({"npz": "uneven.npz"}, "uneven"),
        ({"npz": "empty.npz"}, "empty"),
        ({"npz": "twice.npz"}, "'same' stands twice"),
        ({"csv": "absent.csv"}, "does not exist"),
        ({"csv": "d.csv", "inputs": {"x": "temprature"}}, "Did you mean 'temperature'"),
        ({"csv": "d.csv", "inputs": {"x": "note"}}, "'note' is not numeric: row 1 holds 'warm'"),
        ({"csv": "d.csv", "inputs": {"x": "gap"}}, "NaN"),
        ({"csv": "d.csv", "inputs": {"x": "temperature"}, "target": "gap"}, "row 2 is blank"),
        ({"csv": "short.csv"}, "line 3 has 1 fields"),
        ({"csv": "semicolons.csv"}, "line 2 has 2 fields; the header has 1"),
        ({"csv": "header.csv"}, "equal names"),
        ({"csv": "only.csv"}, "empty"),
        ({"csv": "infinite.csv"}, "'targets' hold NaN or infinity"),
        ({"folder": "absent"}, "does not exist"),
        ({"python": "ek_absent:load"}, "no module 'ek_absent'"),
    ],
)
def test_bad_data_is_refused(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    write_npz(tmp_path)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "truncated.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:900])
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object))
    np.savez(tmp_path / "uneven.npz", x=np.zeros((3, 1)), y=np.zeros(4))
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 1)))
    np.savez(tmp_path / "twice.npz", x=np.zeros((2, 1)), ids=np.array(["same", "same"]))
    (tmp_path / "d.csv").write_text("temperature,note,gap\n1,warm,2\n3,cold,\n")
    (tmp_path / "semicolons.csv").write_text("a;b\n1,5;2\n")
    (tmp_path / "short.csv").write_text("a,b\n1,2\n3\n")
    (tmp_path / "header.csv").write_text("a,a\n1,2\n")
    (tmp_path / "only.csv").write_text("a,b\n")
    (tmp_path / "infinite.csv").write_text("a,y\n1,inf\n2,1\n")
    with pytest.raises(UsageError) as caught:
        opened(tmp_path, **fields)
    assert says in str(caught.value)
    hints = {"semicolons.csv": "separated by ';'", "d.csv": ""}
    assert hints.get(str(fields.get("csv")), "") in caught.value.hint
    if fields.get("inputs") == {"x": "note"}:
        assert "target: note" in caught.value.hint
    assert caught.value.hint


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "exactly one"),
        ({"npz": "a", "csv": "b"}, "npz and csv"),
        ({"npz": "a", "split": {"evaluation": 1.5}}, "evaluation"),
        ({"npz": "a", "split": {"calibration": -1}}, "calibration"),
        ({"npz": "a", "split": {"files": {"test": "t.txt"}}}, "files"),
        ({"npz": "a", "preprocess": {"std": [0.0]}}, "std"),
        ({"npz": "a", "preprocess": {"scale": "1/0"}}, "scale"),
        ({"npz": "a", "preprocess": {"mean": []}}, "mean"),
        ({"npz": "a", "limit": 0}, "limit"),
        ({"npz": "a", "limit": 5, "split": {"files": {"train": "t"}}}, "contradict"),
        ({"folder": "a", "target": "y"}, "leave `target` out"),
        ({"npz": "a", "tagret": "y"}, "tagret"),
    ],
)
def test_a_bad_section_is_refused_before_reading(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DataConfig.model_validate(fields)


def test_the_section_survives_json() -> None:
    config = DataConfig.model_validate(
        {"npz": "a", "preprocess": {"scale": "1/255"}, "split": {"calibration": 0.5}}
    )
    assert config.preprocess.scale == pytest.approx(1 / 255)
    assert DataConfig.model_validate_json(config.model_dump_json()) == config


def test_an_unknown_id_in_a_split_file_is_answered_with_what_ids_look_like(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 2), np.float32))
    (tmp_path / "held-out.txt").write_text("0\n1\n")
    config = DataConfig(npz="d.npz", split={"files": {"evaluation": "held-out.txt"}})
    with pytest.raises(RecipeError, match="0, 1") as caught:
        open_data(config, tmp_path)
    assert "row-000000" in caught.value.hint
