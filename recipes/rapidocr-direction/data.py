"""Labelled lines of text for rapidocr's direction classifier: upright (0) or upside down (1).

Nobody labels such lines by hand: a line of known direction is turned or not, by a seeded coin. Two
sources are used, and the ids say which:

- `page-…`: crops of the photographed page in scikit-image (`skimage.data.page()`), found by row
  projection in strips (the page is bent, so a line does not keep its row from edge to edge);
- `line-…`: lines of random words and numbers, set with PIL in the fonts that ship with matplotlib,
  on paper cut from the same photograph, tilted, blurred, at low resolution and with noise.

No line is used twice, so that no sample is a copy of another turned around; crops of the page
do overlap. Preparation is rapidocr's own (`ch_ppocr_cls/text_cls.py`): height 48, at most 192 wide,
(x / 255 - 0.5) / 0.5, padded with 0 on the right.
"""

import math
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 48, 192
LINES = 700
SEED = 20240

FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
)

WORDS = """
the of and to in is was for on that by this with from are were which have not they all one
will more when who what some other time into only new also after over most such where first
water paper engine garden winter number market letter system valley bridge figure journal
minute castle silver kitchen machine station harbour library measure general between thought
through without another because against station question remember together important Berlin
London Mr Paris Total Invoice Page Date Order Name Price Street Chapter No. Tel. VAT EUR km
"""


def load() -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Make the lines.

    Returns:
        The inputs (`x`: shape (n, 3, 48, 192), float32 in [-1, 1]), the directions (shape (n,),
        int64, 1 is upside down) and stable ids.
    """
    from skimage import data

    rng = np.random.default_rng(SEED)
    page = data.page()
    found = [(f"page-{i:03d}", crop) for i, crop in enumerate(_page_lines(page, rng))]
    paper = page[140:152, 20:340]
    made = [(f"line-{i:03d}", _made_line(paper, rng)) for i in range(LINES)]

    images, targets, ids = [], [], []
    for name, line in [*found, *made]:
        turned = int(rng.integers(2))
        images.append(prepare(np.rot90(line, 2) if turned else line))
        targets.append(turned)
        ids.append(f"{name}-{180 * turned}")
    return {"x": np.stack(images)}, np.array(targets, dtype=np.int64), ids


def prepare(line: np.ndarray) -> np.ndarray:
    """Resize, normalise and pad one line as rapidocr does.

    Args:
        line: shape (h, w), uint8, grey.

    Returns:
        Shape (3, 48, 192), float32.
    """
    import cv2

    width = min(WIDTH, math.ceil(HEIGHT * line.shape[1] / line.shape[0]))
    resized = cv2.resize(np.ascontiguousarray(line), (width, HEIGHT)).astype(np.float32)
    out = np.zeros((3, HEIGHT, WIDTH), dtype=np.float32)
    out[:, :, :width] = (resized / 255 - 0.5) / 0.5
    return out


def _page_lines(page: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Crops of the page's text lines: bands of ink in strips of several widths."""
    from scipy.ndimage import gaussian_filter

    grey = page.astype(np.float32)
    ink = np.clip(gaussian_filter(grey, 12) - gaussian_filter(grey, 0.5) - 10, 0, None)
    crops = []
    for width in (72, 96, 128):
        for left in range(8, page.shape[1] - width, width // 2):
            rows = gaussian_filter(ink[:, left : left + width].mean(axis=1), 1.0)
            edges = np.flatnonzero(np.diff(np.r_[0, (rows > 1.5).astype(int), 0]))
            for top, bottom in edges.reshape(-1, 2):
                if not 9 <= bottom - top <= 26 or top == 0 or bottom == page.shape[0]:
                    continue  # a rule, two lines in one, or one cut off by the photograph
                above, below = rng.integers(0, 4, size=2)
                band = slice(max(0, top - above), min(page.shape[0], bottom + below))
                crops.append(page[band, left : left + width])
    return crops


def _made_line(paper: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One set line, as a bad camera would see it: shape (h, w), uint8."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(folder / rng.choice(FONTS)), 40)
    left, top, right, bottom = font.getbbox(text := _text(rng))
    box = (right - left + 24, bottom - top + 24)
    mask = Image.new("L", box)
    ImageDraw.Draw(mask).text((12 - left, 12 - top), text, font=font, fill=255)
    mask = mask.rotate(rng.uniform(-3, 3), resample=Image.Resampling.BICUBIC)
    trim = rng.integers(2, 14, size=4)
    mask = mask.crop((trim[0], trim[1], box[0] - trim[2], box[1] - trim[3]))
    height = int(rng.integers(10, 33))
    size = (max(height, round(mask.width * height / mask.height)), height)
    mask = mask.resize(size, Image.Resampling.BILINEAR)
    mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.12) * height**0.75))
    ground = np.asarray(Image.fromarray(paper).resize(size), dtype=np.float32)
    alpha = np.asarray(mask, dtype=np.float32) / 255 * rng.uniform(0.35, 0.9)
    image = ground * (1 - alpha) + rng.normal(0, rng.uniform(0, 12), ground.shape)
    image = 255 - image if rng.random() < 0.15 else image
    return np.clip(image, 0, 255).astype(np.uint8)


def _text(rng: np.random.Generator) -> str:
    """One to three words; one in eight is a number, one in ten is in capitals."""
    words = []
    for _ in range(int(rng.integers(1, 4))):
        number = str(rng.integers(2, 100_000)) if rng.random() < 0.8 else f"{rng.random() * 99:.2f}"
        word = number if rng.random() < 0.125 else str(rng.choice(WORDS.split()))
        words.append(word.upper() if rng.random() < 0.1 else word)
    return " ".join(words)
