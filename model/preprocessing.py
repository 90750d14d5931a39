"""Say what must be done to a picture before an exported network sees it: preprocessing.json."""

from typing import Any

from data.images import FASHION_CLASSES
from model.checkpoint import LoadedModel


def preprocessing(loaded: LoadedModel) -> dict[str, Any]:
    """Return the content of preprocessing.json (JSON values): input, output, and the way there.

    `steps` are what `data.folder.read_image` does; a program that does the same gets the same
    answers.
    """
    shape = loaded.shape
    grey = shape.channels == 1
    garments = loaded.classes == FASHION_CLASSES
    return {
        "input": {
            "name": "pixels",
            "dtype": "float32",
            "shape": ["N", shape.channels, shape.height, shape.width],
            "layout": "NCHW: image, channel, row from the top, column from the left",
            "range": [0, 255],
            "colour": "grey" if grey else "RGB",
        },
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": ["N", shape.num_classes],
            "meaning": "the largest is the answer, softmax gives probabilities; names and their"
            " order are in labels.json",
        },
        "normalisation": {
            "where": "inside the network: give pixels as they are, do not scale",
            "mean": loaded.model.mean.flatten().tolist(),
            "std": loaded.model.std.flatten().tolist(),
        },
        "steps": [
            "turn the picture upright as its EXIF tag says",
            "lay what is transparent on black",
            "make it grey: 0.299 R + 0.587 G + 0.114 B (ITU-R 601-2)" if grey else "make it RGB",
            f"resize it to {shape.width} wide and {shape.height} high, bilinear over the source's"
            " area (Pillow's BILINEAR); the sides are not kept in proportion",
            "take the values 0 to 255 as float32; do not invert and do not scale",
        ],
        "subject": (
            "one garment, bright on a dark ground, filling the picture, as in Fashion-MNIST;"
            " invert a photograph with a bright ground first"
            if garments
            else "framed and lit as the images it was trained on"
        ),
        "ground": "dark" if garments else None,
    }
