"""Write the model card: what a network is, how it was made, how good it is and where it ends.

Follows the headings of Mitchell et al., "Model Cards for Model Reporting" (arXiv:1810.03993).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from model.checkpoint import LoadedModel
from model.config import Configuration
from model.geometry import network_cost
from model.proof import TOLERANCE, Proof


def write_card(
    path: Path,
    loaded: LoadedModel,
    provenance: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    proofs: Sequence[Proof],
) -> None:
    """Write the card of `loaded` to `path` as Markdown."""
    sections = [
        _head(loaded, provenance, evaluation),
        _use(loaded),
        _accuracy(evaluation),
        _network(loaded),
        _training(loaded),
        _limits(loaded, evaluation),
        _proofs(proofs),
        _provenance(provenance),
    ]
    path.write_text("\n".join(sections), encoding="utf-8")


def _head(
    loaded: LoadedModel, provenance: Mapping[str, Any], evaluation: Mapping[str, Any] | None
) -> str:
    shape = loaded.shape
    cost = network_cost(loaded.configuration.network, shape)
    measured = "not measured"
    if evaluation is not None:
        measured = f"{_share(evaluation['accuracy'], evaluation['ci95'])}"
    colours = "grey" if shape.channels == 1 else "colour"
    facts = [
        ("Task", f"one of {shape.num_classes} classes for each image"),
        ("Images", f"{shape.height} x {shape.width} pixels, {colours}"),
        ("Accuracy", measured),
        ("Parameters", f"{cost.parameters:,}"),
        ("Multiply-adds", f"{cost.multiply_adds:,} for one image"),
    ]
    classes = ", ".join(f"{k} {name}" for k, name in enumerate(loaded.classes))
    caution = provenance.get("caution")
    return (
        "# Model card: image classifier\n\n"
        "A small convolutional network found by a hyperparameter search.\n\n"
        + (f"**Caution: {_plain(str(caution))}**\n\n" if caution else "")
        + f"{_table(('', ''), facts)}\n"
        f"Classes, in the order of the logits: {_plain(classes)}.\n"
    )


def _use(loaded: LoadedModel) -> str:
    shape = loaded.shape
    one = f"(N, {shape.channels}, {shape.height}, {shape.width})"
    return (
        "## Use\n\n"
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
        "- `model.onnx`: any ONNX runtime.\n"
        '- `model.pt2`: `torch.export.load("model.pt2").module()`, PyTorch alone.\n'
        "- `model.safetensors`: the weights, with their configuration in the header.\n"
        "- `SHA256SUMS`: check with `sha256sum --check SHA256SUMS`.\n"
    )


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:.2f}" for value in values.flatten().tolist())


def _accuracy(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return "## Accuracy\n\nNot measured before this export.\n"
    measured_on = evaluation.get("measured_on", "Measured on labelled images it was not trained on")
    rows = [
        (
            score["name"],
            _share(score["precision"], score["precision_ci95"]),
            _share(score["recall"], score["recall_ci95"]),
            f"{score['f1']:.3f}",
            str(score["support"]),
        )
        for score in evaluation["per_class"]
    ]
    top_k = ", ".join(f"top {k} {share:.2%}" for k, share in evaluation["top_k"].items())
    return (
        "## Accuracy\n\n"
        f"{_plain(str(measured_on)).rstrip('.')}: {evaluation['num_images']:,} images, accuracy\n"
        f"**{_share(evaluation['accuracy'], evaluation['ci95'])}**, cross-entropy "
        f"{evaluation['loss']:.4f}, {top_k}.\n"
        f"Expected calibration error {evaluation['calibration_error']:.3f} (15 bins). Ranges are "
        "95% Wilson\nintervals: they cover the choice of images, not the chance of training.\n\n"
        f"{_table(('Class', 'Precision', 'Recall', 'F1', 'Images'), rows)}"
    )


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
            f"Its weakest class is {_plain(worst['name'])}: {worst['recall']:.1%} of them are "
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
    true_name, answer_name = _plain(classes[true]), _plain(classes[answer])
    return f"\n  Its most frequent mistake: {true_name} taken for {answer_name} ({count} images)."


def _proofs(proofs: Sequence[Proof]) -> str:
    rows = [
        (f"`{proof.program}`", proof.runtime, str(proof.num_images), _tiny(proof))
        for proof in proofs
    ]
    header = ("Program", "Run by", "Images", "Largest logit difference")
    return (
        "## Proof of the export\n\n"
        "Each program was run in a clean process, without the project that made it, and gave the\n"
        f"class of the live network on every image, logits within {TOLERANCE:g}.\n\n"
        f"{_table(header, rows)}"
    )


def _tiny(proof: Proof) -> str:
    return f"{proof.largest_difference:.1e}"


def _provenance(provenance: Mapping[str, Any]) -> str:
    rows = [(str(key), _value(value)) for key, value in provenance.items()]
    terms = "their terms apply"
    if provenance.get("data") == "fashion-mnist":
        terms += " (MIT licence, copyright 2017 Zalando SE)"
    return (
        "## Provenance and licence\n\n"
        f"{_table(('', ''), rows)}\n"
        "The program that made this network is under the MIT licence. The weights were learned "
        f"from the\nimages named above: {terms}.\n"
    )


def _settings(configuration: Configuration, part: str) -> str:
    settings: dict[str, Any] = configuration.to_dict()[part]
    return _table(
        ("Setting", "Value"), [(f"`{name}`", _value(value)) for name, value in settings.items()]
    )


def _share(share: float, interval: Sequence[float]) -> str:
    return f"{share:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(_plain(cell) for cell in line)} |\n" for line in lines)


def _plain(text: str) -> str:
    """Keep a name from being read as Markdown's table bars or as a new line."""
    return " ".join(text.split()).replace("|", "\\|")
