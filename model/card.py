"""Write the model card: what a network is, how it was made, how good it is and where it ends.

Follows the headings of Mitchell et al., "Model Cards for Model Reporting" (arXiv:1810.03993).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from model.card_numbers import accuracy_section, proof_section, seal_section, speed_section
from model.checkpoint import LoadedModel
from model.config import Configuration
from model.geometry import network_cost
from model.latency import Latency
from model.markdown import Code, plain, share, table
from model.preprocessing import preprocessing
from model.proof import Proof
from model.seal import Look, seal_in_words


def write_card(
    path: Path,
    loaded: LoadedModel,
    provenance: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    proofs: Sequence[Proof],
    latency: Latency,
    looks: Sequence[Look],
) -> None:
    """Write the card of `loaded` to `path` as Markdown."""
    sections = [
        _head(loaded, provenance, evaluation, looks),
        _use(loaded),
        accuracy_section(evaluation),
        *([seal_section(looks)] if looks else []),
        speed_section(latency, provenance),
        _network(loaded),
        _training(loaded),
        _limits(loaded, evaluation),
        proof_section(proofs),
        _provenance(provenance),
    ]
    path.write_text("\n".join(sections), encoding="utf-8")


def _head(
    loaded: LoadedModel,
    provenance: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    looks: Sequence[Look],
) -> str:
    shape = loaded.shape
    cost = network_cost(loaded.configuration.network, shape)
    measured = "not measured"
    if evaluation is not None:
        measured = f"{share(evaluation['accuracy'], evaluation['ci95'])}"
    colours = "grey" if shape.channels == 1 else "colour"
    facts = [
        ("Task", f"one of {shape.num_classes} classes for each image"),
        ("Images", f"{shape.height} x {shape.width} pixels, {colours}"),
        ("Accuracy", measured),
        *([("Test images", f"opened {seal_in_words(looks)}")] if looks else []),
        ("Parameters", f"{cost.parameters:,}"),
        ("Multiply-adds", f"{cost.multiply_adds:,} for one image"),
    ]
    classes = ", ".join(f"{k} {name}" for k, name in enumerate(loaded.classes))
    caution = provenance.get("caution")
    return (
        "# Model card: image classifier\n\n"
        "A small convolutional network found by a hyperparameter search.\n\n"
        + (f"**Caution: {plain(str(caution))}**\n\n" if caution else "")
        + f"{table(('', ''), facts)}\n"
        f"Classes, in the order of the logits: {plain(classes)}.\n"
    )


def _use(loaded: LoadedModel) -> str:
    shape = loaded.shape
    one = f"(N, {shape.channels}, {shape.height}, {shape.width})"
    return (
        "## Use\n\n"
        "```sh\n"
        "sha256sum --check SHA256SUMS       # nothing was changed on the way\n"
        "pip install -r requirements.txt\n"
        "python example.py PICTURE.png      # or a CSV: a line is an image, label first or not\n"
        "```\n\n"
        f"Pictures: {preprocessing(loaded)['subject']}.\n\n"
        f"Input `pixels`: float32 of shape {one}, values 0 to 255 as they are in the images; N is\n"
        f"free. Normalisation is inside (mean {_numbers(loaded.model.mean)}, standard deviation\n"
        f"{_numbers(loaded.model.std)} per channel): do not scale.\n"
        f"Output `logits`: float32 of shape (N, {shape.num_classes}); the largest is the answer, "
        "softmax gives probabilities.\n\n"
        "```python\n"
        "import json\n"
        "import numpy as np\n"
        "import onnxruntime\n\n"
        f"images = np.zeros((1, {shape.channels}, {shape.height}, {shape.width}), np.uint8)"
        "  # yours\n"
        'session = onnxruntime.InferenceSession("model.onnx")\n'
        'logits = session.run(["logits"], {"pixels": images.astype(np.float32)})[0]\n'
        'labels = json.load(open("labels.json", encoding="utf-8"))\n'
        "print([labels[k] for k in logits.argmax(axis=1)])\n"
        "```\n\n"
        "| File | What it is |\n| --- | --- |\n"
        "| `model.onnx` | the network, for any ONNX runtime |\n"
        '| `model.pt2` | for PyTorch alone: `torch.export.load("model.pt2").module()` |\n'
        "| `model.safetensors` | the weights, with their configuration in the header |\n"
        "| `labels.json` | the classes, in the order of the logits |\n"
        "| `preprocessing.json` | what a picture must be, and how to make it so |\n"
        "| `example.py`, `requirements.txt` | label images with onnxruntime and numpy only |\n"
        "| `model_card.json` | the numbers of this card, for programs |\n"
        "| `SHA256SUMS` | a checksum of each file |\n"
    )


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:.2f}" for value in values.flatten().tolist())


def _network(loaded: LoadedModel) -> str:
    return f"## Network\n\n{_settings(loaded.configuration, 'network')}"


def _training(loaded: LoadedModel) -> str:
    scheduled = loaded.configuration.training.epochs
    return (
        "## Training\n\n"
        f"{loaded.epoch} of {scheduled} scheduled epochs, seed {loaded.seed} (first weights, "
        "batches, augmentation and\ndropout follow from it).\n\n"
        f"{_settings(loaded.configuration, 'training')}"
    )


def _limits(loaded: LoadedModel, evaluation: Mapping[str, Any] | None) -> str:
    shape = loaded.shape
    lines = [
        "It answers with one of its classes for every image, also one that shows none of them.",
        f"It knows only images like those it was trained on: {shape.height} x {shape.width} pixels,"
        " same framing,\n  same background, same brightness. Photographs from elsewhere must be "
        "brought to that form first,\n  and then measured anew.",
        "Its probabilities were not calibrated after training.",
        "It was not examined for fairness, nor made to withstand images meant to mislead it.",
    ]
    if evaluation is not None:
        worst = min(evaluation["per_class"], key=lambda score: float(score["recall"]))
        lines.append(
            f"Its weakest class is {plain(worst['name'])}: {worst['recall']:.1%} of them are "
            f"found.{_confused(loaded.classes, evaluation['confusion'])}"
        )
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _confused(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Name the most frequent mistake, if there is any."""
    mistakes = [
        (count, true, answer)
        for true, row in enumerate(confusion)
        for answer, count in enumerate(row)
        if true != answer
    ]
    count, true, answer = max(mistakes)
    if count == 0:
        return ""
    true_name, answer_name = plain(classes[true]), plain(classes[answer])
    return f"\n  Its most frequent mistake: {true_name} taken for {answer_name} ({count} images)."


def _provenance(provenance: Mapping[str, Any]) -> str:
    rows = [(str(key), _value(value)) for key, value in provenance.items()]
    terms = "their terms apply"
    if provenance.get("data") == "fashion-mnist":
        terms += " (MIT licence, copyright 2017 Zalando SE)"
    return (
        "## Provenance and licence\n\n"
        f"{table(('', ''), rows)}\n"
        "The program that made this network is under the MIT licence. The weights were learned "
        f"from the\nimages named above: {terms}.\n"
    )


def _settings(configuration: Configuration, part: str) -> str:
    settings: dict[str, Any] = configuration.settings()[part]
    rows = [(Code(name), Code(_value(value))) for name, value in settings.items()]
    return table(("Setting", "Value"), rows)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
