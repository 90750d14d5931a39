"""Label images: python example.py FILE (.csv: a line is an image; or .png, .jpg: Pillow needed)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

here, file = Path(__file__).parent, Path(sys.argv[1] if sys.argv[1:] else sys.exit(__doc__))
labels = json.loads((here / "labels.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(here / "model.onnx")
one = session.get_inputs()[0].shape[1:]  # channels, height, width
if file.suffix == ".csv":  # values 0 to 255 row by row, with the label first or without
    rows = np.loadtxt(file, np.float32, comments=["label", "pixel"], delimiter=",", ndmin=2)
else:
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    picture = picture.convert("L" if one[0] == 1 else "RGB")
    picture = picture.resize((one[2], one[1]), Image.Resampling.BILINEAR)
    rows = np.stack([np.asarray(band, np.float32) for band in picture.split()]).reshape(1, -1)
pixels = rows[:, -np.prod(one) :].reshape(-1, 1, *one)  # one image at a time; more may go at once
logits = np.concatenate([session.run(None, {"pixels": image})[0] for image in pixels])
for row in logits:
    print(labels[row.argmax()], f"{1 / np.exp(row - row.max()).sum():.4f}", sep="\t")
if rows.shape[1] > np.prod(one):
    print(f"accuracy {np.mean(logits.argmax(1) == rows[:, 0]):.4f} of {len(rows)}")
